"""One plan on its way: stepped like by any driver, but on the virtual clock of a simulation."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient.engine.drivers.steps import Done, thrown
from resilient.engine.plan import (
    NOW,
    RANDOM,
    Ask,
    Body,
    IsDead,
    Listen,
    Plan,
    Sleep,
    Together,
    Wait,
)

if TYPE_CHECKING:
    from resilient.testing.simulation.world import Client

__all__ = ["ANSWERED_AT_ONCE", "ANSWERED_LATER", "Cancelled", "SimulatedWaiter", "Task"]


class SimulatedWaiter:
    """One plan's wait."""

    __slots__ = ("__weakref__", "_resume", "_woken", "gift", "id")

    channel = ""

    def __init__(self, name: str) -> None:
        self.id = name
        self._woken = False
        self.gift = ""
        self._resume: Callable[[bool], None] | None = None

    def wake(self, gift: str = "") -> None:
        """Wake it, perhaps with something; a wake-up before the wait counts."""
        self.gift = gift or self.gift
        self._woken = True
        if self._resume is not None:
            self._settle()

    def begin(self, resume: Callable[[bool], None]) -> None:
        """Wait from now on."""
        self._resume = resume
        if self._woken:
            self._settle()

    def expire(self, resume: Callable[[bool], None]) -> None:
        """The time of this wait is over."""
        if self._resume is resume:
            self._settle()

    def _settle(self) -> None:
        resume, woken = self._resume, self._woken
        self._resume, self._woken = None, False
        assert resume is not None
        resume(woken)


class Cancelled(BaseException):
    """What a cancelled plan is told, as `asyncio.CancelledError` in an event loop."""


class _Abandoned(BaseException):
    """The process of a plan is no more."""


class Task:
    """One plan on its way in one client.

    Attributes:
        done: Whether it has come to its end.
        value: What it returned.
        error: What it raised.
    """

    def __init__(
        self, client: Client, plan: Plan[Any], body: Callable[[Any], Plan[Any]] | None = None
    ) -> None:
        self.client = client
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._plan = plan
        self._body = body
        self._callbacks: list[Callable[[], None]] = []
        self._turn = 0
        """The number of the operation that it awaits; what answers an earlier one is too late."""
        self._awaits: type = object
        self._inner: Task | None = None
        self._is_cancelled = False
        self._context = copy_context()  # as every thread and task of a process has its own
        client.simulation.register(self)

    def abandon(self) -> None:
        """End the plan without answering anything that it still asks."""
        while not self.done:
            try:
                asked = self._context.run(self._plan.throw, _Abandoned())
                for plan in asked.plans if isinstance(asked, Together) else ():
                    plan.close()
            except (_Abandoned, StopIteration):
                self.done = True

    def cancel(self) -> None:
        """Have what the plan awaits raise `Cancelled`, as in an event loop.

        A sleep and a wait do so at once, a body as soon as it lets it out; what was asked, and
        plans that run side by side, come to their ends before.
        """
        if self.done:
            return
        if self._awaits is Sleep or self._awaits is Wait:
            self._turn += 1
            self.step(error=Cancelled())
        elif self._awaits is Body and self._inner is not None and not self._inner.done:
            self._inner.cancel()
        else:
            self._is_cancelled = True

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back when the plan has ended, in the same client."""
        self._callbacks.append(callback)

    def step(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Step the plan until it waits for something, or ends."""
        if self._is_cancelled:
            self._is_cancelled, error = False, Cancelled()
        try:
            operation = self._context.run(self._next, answer, error)
        except (Exception, Cancelled) as raised:
            self._end(None, raised)
            return
        kind = type(operation)
        if kind is Done:
            self._end(operation.value, None)
            return
        self._turn += 1
        self._awaits = kind
        ANSWERED_LATER[kind](self, operation)

    def _next(self, answer: Any, error: BaseException | None) -> Any:
        """What the plan awaits next that is not answered at once, or `Done`."""
        plan = self._plan
        try:
            operation = plan.send(answer) if error is None else thrown(plan, error)
            while (answered := ANSWERED_AT_ONCE.get(type(operation))) is not None:
                operation = plan.send(answered(self, operation))
        except StopIteration as stop:
            return Done(stop.value)
        return operation

    def _end(self, value: Any, error: BaseException | None) -> None:
        self.done, self.value, self.error = True, value, error
        for callback in self._callbacks:
            callback()

    def later(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Go on with an answer, when the client runs."""
        self.client.resume(self.step, answer, error)

    def _go_on(self, turn: int, answer: Any = None) -> None:
        """Go on with the answer to what a cancellation may have interrupted."""
        if self._turn == turn:
            self.step(answer)

    def _ask(self, operation: Ask) -> None:
        operation.transport.ask(operation.command, self.step)  # type: ignore[attr-defined]  # a simulated transport

    def _sleep(self, operation: Sleep) -> None:
        client = self.client
        client.simulation.after(operation.seconds, client.resume, self._go_on, self._turn)

    def _wait(self, operation: Wait) -> None:
        waiter = operation.waiter
        assert isinstance(waiter, SimulatedWaiter)
        go_on = partial(self.client.resume, self._go_on, self._turn)
        self.client.simulation.after(operation.seconds, waiter.expire, go_on)
        waiter.begin(go_on)

    def _run_body(self, operation: Body) -> None:
        if self._body is None:
            self.later()
        else:
            self._follow(Task(self.client, self._body(operation.value)))

    def _follow(self, task: Task) -> None:
        self._inner = task
        task.when_done(lambda: self.later(task.value, task.error))
        self.client.resume(task.step)

    def _together(self, operation: Together) -> None:
        tasks = [Task(self.client, plan) for plan in operation.plans]
        if not tasks:
            self.later([])

        def ended() -> None:
            if all(task.done for task in tasks):
                self.later([task.error or task.value for task in tasks])

        for task in tasks:
            task.when_done(ended)
            self.client.resume(task.step)


ANSWERED_AT_ONCE: dict[type, Callable[[Task, Any], Any]] = {
    type(NOW): lambda task, _: task.client.clock(),
    type(RANDOM): lambda task, _: task.client.simulation.random.random(),
    IsDead: lambda task, operation: False,
    Listen: lambda task, operation: task.client.simulation.new_waiter(task.client),
}
ANSWERED_LATER: dict[type, Callable[[Task, Any], None]] = {
    Ask: Task._ask,
    Sleep: Task._sleep,
    Wait: Task._wait,
    Body: Task._run_body,
    Together: Task._together,
}
