"""How callers share a flight: threads and tasks; and flights in the background, for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from resilient.engine.drivers.steps import Done
from resilient.engine.drivers.sync import advance, drive
from resilient.engine.flights.flight import (
    Flight,
    Outcome,
    Raised,
    Returned,
    Rider,
    TaskRider,
    ThreadRider,
    flown,
    is_nested,
)
from resilient.engine.flights.table import Flights
from resilient.engine.loops import running_loop
from resilient.engine.plan import Operation, Plan

if TYPE_CHECKING:
    import asyncio

__all__ = ["NO_LIMITS", "Errand", "Late", "Limits", "alaunch", "ashare", "launch", "share"]

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which a caller that is itself being waited for waits for others: two computations
may each want the other's result. After that it computes for itself."""
LOOK = 1.0
"""Seconds after which riders from elsewhere look whether the flight's event loop is still there."""


class Errand(Generic[T]):
    """What is wanted, and what makes it.

    Args:
        key: What is wanted.
        tags: What it can be told to be stale by, besides its key.
        plan: What makes it.
        alone: What makes it for one caller only, where waiting would never end.
        function: What the plans' `Body` calls.
        may_serve: Whether the plan may serve its riders before it calls the function.
    """

    __slots__ = ("alone", "function", "key", "may_serve", "plan", "tags")

    def __init__(
        self,
        key: str,
        tags: Iterable[str],
        plan: Callable[[Flight], Plan[T]],
        alone: Callable[[], Plan[T]],
        function: Callable[[Any], Any],
        *,
        may_serve: bool = False,
    ) -> None:
        self.may_serve = may_serve
        self.key = key
        self.tags = tags
        self.plan = plan
        self.alone = alone
        self.function = function


class Limits(NamedTuple):
    """How long a caller waits for a flight, in seconds; `None`: without limit.

    Attributes:
        soft: After that it takes the flight's fallback, if there is one.
        hard: After that it gives up.
    """

    soft: float | None = None
    hard: float | None = None


NO_LIMITS = Limits()


class Late(Exception):
    """A flight took longer than its rider was willing to wait."""


def share(flights: Flights, errand: Errand[T], limits: Limits = NO_LIMITS) -> tuple[T, bool]:
    """Run a plan, or wait for the thread or task that runs it: the result, and whether it is ours.

    With limits it runs in a thread of the crew's, where it goes on for those who come later. A
    flight that waits for a thread gets that of the next caller who has no limits, or for whom
    others wait while no thread is free: what they wait for ends with their own limits.

    Raises:
        Late: It took longer than the hard limit.
    """
    while True:
        rider = ThreadRider()
        try:
            flight, leads = flights.board(errand.key, errand.tags, rider, running_loop())
            if flight is None:
                return drive(errand.alone(), errand.function), True
            if leads and limits == NO_LIMITS:
                return _lead(flights, flight, rider, errand), True
            if leads:
                _make_ready(flight, partial(_lead, flights, flight, None, errand))
                rider.flight = None
            patience = _Patience(flights, flight, limits)
            while True:
                if flight.is_waiting:
                    _get_going(flights, flight, rider, limits)
                if rider.wait(patience.next()):
                    break
                if patience.is_over():
                    flights.left(flight, rider)
                    if patience.alone:
                        return drive(errand.alone(), errand.function), True
                    return patience.otherwise(), False
            outcome = flights.taken(flight, rider)
            if outcome is not None:
                return outcome.value, leads
        except BaseException:
            if rider.flight is not None:  # interrupted, perhaps before it began: others may fly
                flights.land(rider.flight, None)
            raise
        if leads:
            limits = NO_LIMITS  # what ended the crew's thread is for the caller to see


def launch(flights: Flights, errand: Errand[Any]) -> None:
    """Have a thread of the crew's fly, unless somebody flies already; nobody waits for it."""
    flight = flights.launch(errand.key, errand.tags)
    if flight is not None:
        _make_ready(flight, partial(_lead, flights, flight, None, errand))
        flights.put_off(flight)


async def ashare(flights: Flights, errand: Errand[T], limits: Limits = NO_LIMITS) -> tuple[T, bool]:
    """The same for a task; with limits or without, another task flies."""
    import asyncio

    from resilient.engine.drivers.aio import adrive

    while True:
        rider = TaskRider()
        flight, leads = flights.board(errand.key, errand.tags, rider, None)
        if flight is None:
            return await adrive(errand.alone(), errand.function), True
        patience = _Patience(flights, flight, limits)
        try:
            if leads:
                _start(flights, flight, errand)
            elif flight.is_waiting:
                flights.queue(flight, nested=False)
            endless = flight.loop is rider.loop and patience.is_endless
            landed = await rider.wait(None if endless else patience.next())
            while not landed and not patience.is_over():
                landed = await rider.wait(patience.next())
        except BaseException:
            await _ended(flights.left(flight, rider))
            raise
        if not landed:
            task = flights.left(flight, rider)
            if patience.alone:
                return await adrive(errand.alone(), errand.function), True
            await _ended(task)
            return patience.otherwise(), False
        outcome = flights.taken(flight, rider)
        if outcome is not None:
            return outcome.value, leads
        if leads:
            raise asyncio.CancelledError  # as the bare function would have raised it


async def alaunch(flights: Flights, errand: Errand[Any]) -> None:
    """Have a task fly, unless somebody flies already; nobody waits for it."""
    flight = flights.launch(errand.key, errand.tags)
    if flight is not None:
        _start(flights, flight, errand)


class _Patience:
    """How long one rider goes on waiting.

    Attributes:
        alone: Whether, now that it is over, the rider does it for itself.
    """

    def __init__(self, flights: Flights, flight: Flight, limits: Limits) -> None:
        self._flights = flights
        self._flight = flight
        self._limits = limits
        self._nested = is_nested()
        self._began = time.monotonic()
        self.alone = False

    @property
    def is_endless(self) -> bool:
        return not self._nested and self._limits == NO_LIMITS

    def next(self) -> float:
        """Seconds after which to look at how things are."""
        passed = time.monotonic() - self._began
        soft, hard = self._limits
        moments = [LOOK]
        if soft is not None:
            # Past it, the flight may yet learn of a fallback.
            moments.append(soft - passed if passed < soft else soft)
        if hard is not None:
            moments.append(hard - passed)
        return max(min(moments), 0.0)

    def is_over(self) -> bool:
        """Whether to wait no longer."""
        if self._flights.is_lost(self._flight):
            self._flights.land(self._flight, None)
            return False
        passed = time.monotonic() - self._began
        soft, hard = self._limits
        if soft is not None and passed >= soft and self._flight.fallback is not None:
            self._flight.pin()  # it goes on for those who come later
            return True
        if hard is not None and passed >= hard:
            return True
        self.alone = self._nested and passed > PATIENCE
        return self.alone

    def otherwise(self) -> Any:
        """What the rider has instead of the result."""
        soft, fallback = self._limits.soft, self._flight.fallback
        if soft is None or fallback is None:
            raise Late
        return fallback.value


# --- flying ------------------------------------------------------------------------------------


def _lead(flights: Flights, flight: Flight, rider: Rider | None, errand: Errand[T]) -> T:
    """Fly in this thread."""
    outcome: Outcome = None
    lands_here = True
    outer = flown.get()
    try:
        flown.set((*outer, flight))
        if rider is not None:
            del flight._riders[rider]
        plan = errand.plan(flight)
        if errand.may_serve and not flight.in_background:
            step = advance(plan)
            if isinstance(step, Done):
                outcome = Returned(step.value)
                value: T = step.value
                return value
            plan = _begun(plan, step)
            if flight.served is not None:
                # Its riders have what they came for: the crew calls the function.
                lands_here = False
                _make_ready(flight, partial(_go_on, flights, flight, plan, errand.function))
                flights.put_off(flight)
                served: T = flight.served.value
                return served
        value = drive(plan, errand.function)
        outcome = Returned(value)
        return value
    except Exception as error:
        outcome = Raised(error)
        raise
    finally:
        flown.set(outer)
        if lands_here:
            flights.land(flight, outcome)
        del outcome  # or this frame and its traceback hold one another


def _go_on(
    flights: Flights, flight: Flight, plan: Plan[Any], function: Callable[[Any], Any]
) -> None:
    """Do the rest of a flight."""
    outcome: Outcome = None
    try:
        outcome = Returned(drive(plan, function))
    except Exception as error:
        outcome = Raised(error)
    finally:
        flights.land(flight, outcome)


class _Begun:
    """A plan that was stepped up to an operation which nobody has answered yet."""

    __slots__ = ("_plan", "_step", "throw")

    def __init__(self, plan: Plan[Any], step: Operation[Any]) -> None:
        self._plan = plan
        self._step: Operation[Any] | None = step
        self.throw = plan.throw

    def send(self, answer: Any) -> Any:
        step, self._step = self._step, None
        return self._plan.send(answer) if step is None else step


def _begun(plan: Plan[T], step: Operation[Any]) -> Plan[T]:
    return cast("Plan[T]", _Begun(plan, step))


def _make_ready(flight: Flight, fly: Callable[[], Any]) -> None:
    """Let any thread do what flies it, in a copy of this caller's context."""
    context = _context_of(flight)

    def job() -> None:
        # What this thread itself is within waits for the flight as well.
        context.run(flown.set, (*flown.get(), *context[flown]))
        with suppress(Exception):  # its riders get it
            context.run(fly)

    flight._job = job


def _get_going(flights: Flights, flight: Flight, rider: Rider, limits: Limits) -> None:
    """Find a thread for a flight that waits for one: the crew's, or this."""
    if limits != NO_LIMITS and flights.queue(flight, nested=is_nested()):
        return
    try:
        flights.begin(flight)
    except BaseException:  # this thread was interrupted: others may fly
        flights.left(flight, rider)
        raise


def _start(flights: Flights, flight: Flight, errand: Errand[Any]) -> None:
    """Fly in a task of its own, in the running loop and a copy of the caller's context."""
    import asyncio

    from resilient.engine.drivers.aio import adrive

    async def fly() -> None:
        try:
            value = await adrive(errand.plan(flight), errand.function)
        except Exception as error:
            flights.land(flight, Raised(error))
        else:
            flights.land(flight, Returned(value))

    context = _context_of(flight)
    loop = flight.loop = asyncio.get_running_loop()
    try:
        task = loop.create_task(fly(), context=context)
    except BaseException:
        flights.land(flight, None)
        raise
    flights.keep(flight, task)


def _context_of(flight: Flight) -> Context:
    """A copy of the caller's context, within the flight."""
    context = copy_context()
    outer = flown.get()
    if flight not in outer:
        context.run(flown.set, (*outer, flight))
    return context


async def _ended(task: asyncio.Task[None] | None) -> None:
    """Cancel a computation that nobody wants any more, and wait until it has cleaned up."""
    import asyncio

    if task is None:
        return
    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        task.cancel()
        await asyncio.wait({task})
    elif not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
