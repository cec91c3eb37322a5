"""Single flight: callers that want the same thing at the same time share one computation.

Threads, and tasks of any number of event loops, ride one flight. The first one flies it: a thread
by itself; a task by starting another task, so that it may be cancelled without cancelling what
others wait for. That task ends with its last rider.

A flight that comes to nothing (its thread was interrupted, its task cancelled, its loop closed)
has its riders elect another. An exception is a result, and all riders get it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from resilient.engine.drivers.sync import drive
from resilient.engine.forks import forget_in_child
from resilient.engine.plan import Plan

if TYPE_CHECKING:
    import asyncio

__all__ = ["Flight", "Flights", "ashare", "share"]

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which a caller that is itself being waited for waits for others: two computations
may each want the other's result. After that it computes for itself."""
LOOK = 1.0
"""Seconds after which riders from elsewhere look whether the flight's event loop is still there."""

_flown: ContextVar[tuple[Flight, ...]] = ContextVar("resilient.flights", default=())
"""The flights within which this code runs, innermost last."""


class Flight:
    """One computation, and who waits for it.

    Attributes:
        key: What is computed.
        tags: What it can be told to be stale by, besides its key.
        stale: Whether it was, since it began: its result is true for its riders, who came before,
            but not to be kept.
        is_nested: Whether another flight waits for it.
    """

    __slots__ = (
        "_loop",
        "_outcome",
        "_riders",
        "_table",
        "_task",
        "is_nested",
        "key",
        "landed",
        "stale",
        "tags",
    )

    def __init__(self, table: Flights, key: str, tags: Iterable[str], *, is_nested: bool) -> None:
        self.key = key
        self.tags = frozenset(tags)
        self.is_nested = is_nested
        self.stale = False
        self.landed = False
        self._table = table
        self._riders: list[Rider] = []
        self._outcome: Outcome = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def is_stale(self) -> bool:
        """Whether its result must not be kept."""
        return self.stale


class Rider(Protocol):
    """Whoever waits for a flight."""

    def wake(self) -> None:
        """Tell it, from any thread, that the flight has landed."""
        ...


class Returned(Generic[T]):
    """The result of a flight."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class Raised:
    """The exception in which a flight ended, and where it was raised."""

    __slots__ = ("error", "traceback")

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.traceback: TracebackType | None = error.__traceback__


Outcome: TypeAlias = Returned[Any] | Raised | None
"""`None`: it came to nothing."""


class Flights:
    """The flights of one backend in this process. Thread-safe."""

    def __init__(self) -> None:
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        # Reentrant: the garbage collector may close a generator, or end a task, in here.
        self._lock = threading.RLock()
        self._flying: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # a loop refers to its tasks weakly

    def __len__(self) -> int:
        return len(self._flying)

    def call_off(self, key: str) -> None:
        """Whatever computes this key is stale: its result is not kept, and nobody joins it."""
        with self._lock:
            flight = self._flying.pop(key, None)
            if flight is not None:
                flight.stale = True

    def call_off_tag(self, tag: str) -> None:
        """The same for every flight with this tag."""
        with self._lock:
            for flight in list(self._flying.values()):
                if tag in flight.tags:
                    self.call_off(flight.key)

    def call_off_all(self) -> None:
        """The same for every flight."""
        with self._lock:
            for key in list(self._flying):
                self.call_off(key)

    # --- used by `share` and `ashare`

    def board(
        self, key: str, tags: Iterable[str], rider: Rider, here: object
    ) -> tuple[Flight | None, bool]:
        """The flight of a key, and whether the rider has to fly it.

        No flight at all: it would wait for itself, because this code runs inside of it, or blocks
        the very loop `here` on which it flies.
        """
        outer = [flight for flight in _flown.get() if not flight.landed]
        if any(flight.key == key and flight._table is self for flight in outer):
            return None, False
        with self._lock:
            flight = self._flying.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flying[key] = Flight(self, key, tags, is_nested=bool(outer))
            elif here is not None and flight._loop is here and isinstance(rider, ThreadRider):
                return None, False
            flight._riders.append(rider)
        return flight, leads

    def land(self, flight: Flight, outcome: Outcome) -> None:
        """The flight is over: nobody can join it any more, and its riders are told."""
        with self._lock:
            if flight.landed:
                return
            flight.landed = True
            self._remove(flight)
            riders = list(flight._riders)
            if riders:
                flight._outcome = outcome
        for rider in riders:
            rider.wake()

    def taken(self, flight: Flight, rider: Rider) -> Returned[Any] | None:
        """What came of it, for one rider; `None` if nothing did. Raises what it raised."""
        with self._lock:
            outcome = flight._outcome
            flight._riders.remove(rider)
            if not flight._riders:
                flight._outcome = None
        if not isinstance(outcome, Raised):
            return outcome
        error, traceback = outcome.error, outcome.traceback
        try:
            # All riders raise the one exception: each from where it was raised first, or else its
            # traceback would grow by the frames of every rider.
            raise error.with_traceback(traceback)
        finally:
            del error, traceback, outcome  # or this frame and the traceback hold one another

    def left(self, flight: Flight, rider: Rider) -> asyncio.Task[None] | None:
        """A rider waits no longer; the task to cancel, if it was the last one to want it."""
        with self._lock:
            flight._riders.remove(rider)
            if flight._riders or flight.landed:
                return None
            self._remove(flight)  # nobody shall join what is about to be cancelled
            return flight._task

    def start(
        self,
        flight: Flight,
        plan: Callable[[Flight], Plan[Any]],
        function: Callable[[Any], Awaitable[Any]],
    ) -> None:
        """Fly it in a task of its own, in the running loop and a copy of the caller's context."""
        import asyncio

        context = copy_context()
        context.run(_flown.set, (*_flown.get(), flight))
        loop = flight._loop = asyncio.get_running_loop()
        try:
            task = loop.create_task(self._fly(flight, plan, function), context=context)
        except BaseException:
            self.land(flight, None)
            raise
        flight._task = task
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self.land(flight, None)  # unless it has; it may be cancelled before it began

        task.add_done_callback(over)

    async def _fly(
        self,
        flight: Flight,
        plan: Callable[[Flight], Plan[Any]],
        function: Callable[[Any], Awaitable[Any]],
    ) -> None:
        from resilient.engine.drivers.aio import adrive

        try:
            value = await adrive(plan(flight), function)
        except Exception as error:
            self.land(flight, Raised(error))
        else:
            self.land(flight, Returned(value))

    def _remove(self, flight: Flight) -> None:
        if self._flying.get(flight.key) is flight:
            del self._flying[flight.key]

    def is_lost(self, flight: Flight) -> bool:
        """Whether it will never land by itself: its loop was closed under it."""
        return not flight.landed and flight._loop is not None and flight._loop.is_closed()


def share(
    flights: Flights,
    key: str,
    tags: Iterable[str],
    plan: Callable[[Flight], Plan[T]],
    alone: Callable[[], Plan[T]],
    function: Callable[[Any], Any],
) -> tuple[T, bool]:
    """Run a plan, or wait for the thread or task that runs it: the result, and whether it is ours.

    Args:
        flights: Who flies now.
        key: What is wanted.
        tags: What it can be told to be stale by, besides its key.
        plan: What makes it.
        alone: What makes it for this caller only, where waiting would never end.
        function: What the plans' `Body` calls.
    """
    while True:
        rider = ThreadRider()
        flight, leads = flights.board(key, tags, rider, _running_loop())
        if flight is None:
            return drive(alone(), function), True
        if leads:
            return _lead(flights, flight, rider, plan, function), True
        began, nested = time.monotonic(), _is_nested()
        while not rider.wait(LOOK):
            if flights.is_lost(flight):
                flights.land(flight, None)
            elif nested and time.monotonic() - began > PATIENCE:
                flights.left(flight, rider)
                return drive(alone(), function), True
        outcome = flights.taken(flight, rider)
        if outcome is not None:
            return outcome.value, False


def _lead(
    flights: Flights,
    flight: Flight,
    rider: Rider,
    plan: Callable[[Flight], Plan[T]],
    function: Callable[[Any], Any],
) -> T:
    outcome: Outcome = None
    outer = _flown.set((*_flown.get(), flight))
    try:
        flight._riders.remove(rider)
        value = drive(plan(flight), function)
        outcome = Returned(value)
        return value
    except Exception as error:
        outcome = Raised(error)
        raise
    finally:
        _flown.reset(outer)
        flights.land(flight, outcome)
        del outcome  # or this frame and its traceback hold one another


async def ashare(
    flights: Flights,
    key: str,
    tags: Iterable[str],
    plan: Callable[[Flight], Plan[T]],
    alone: Callable[[], Plan[T]],
    function: Callable[[Any], Awaitable[Any]],
) -> tuple[T, bool]:
    """The same for a task."""
    import asyncio

    from resilient.engine.drivers.aio import adrive

    while True:
        rider = TaskRider()
        flight, leads = flights.board(key, tags, rider, None)
        if flight is None:
            return await adrive(alone(), function), True
        try:
            if leads:
                flights.start(flight, plan, function)
            landed = await _landed(flights, flight, rider)
        except BaseException:
            await _ended(flights.left(flight, rider))
            raise
        if not landed:
            flights.left(flight, rider)
            return await adrive(alone(), function), True
        outcome = flights.taken(flight, rider)
        if outcome is not None:
            return outcome.value, leads
        if leads:
            raise asyncio.CancelledError  # as the bare function would have raised it


async def _landed(flights: Flights, flight: Flight, rider: TaskRider) -> bool:
    """Wait until a flight has landed; false if that may never be."""
    nested = _is_nested()
    if flight._loop is rider.loop and not nested:
        return await rider.wait(None)
    began = time.monotonic()
    while not await rider.wait(LOOK):
        if flights.is_lost(flight):
            flights.land(flight, None)
        elif nested and time.monotonic() - began > PATIENCE:
            return False
    return True


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


class ThreadRider:
    """A thread that waits."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        """The flight has landed."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Block until it has; false if it has not within so many seconds."""
        return self._event.wait(seconds)


class TaskRider:
    """A task that waits."""

    __slots__ = ("_landed", "loop")

    def __init__(self) -> None:
        import asyncio

        self.loop = asyncio.get_running_loop()
        self._landed: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> None:
        """The flight has landed."""
        if _running_loop() is self.loop:
            self._set()
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if not self._landed.done():
            self._landed.set_result(None)

    async def wait(self, seconds: float | None) -> bool:
        """Wait until it has; false if it has not within so many seconds."""
        if seconds is None:
            await self._landed
            return True
        import asyncio

        done, _ = await asyncio.wait({self._landed}, timeout=seconds)
        return bool(done)


def _is_nested() -> bool:
    """Whether others wait for what the caller computes."""
    return any(not flight.landed for flight in _flown.get())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    import sys

    # Where nobody has imported asyncio, no loop runs.
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()
