"""The async driver: answers a plan's operations in the running event loop.

What a plan asks of a transport is always answered, and plans side by side always end: a
cancellation that arrives meanwhile is thrown into the plan together with the knowledge that the
command is over, so that it can be undone. Once a plan is unwinding, further cancellations wait
until its clean-up is through.
"""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar
from weakref import ref

from resilient.engine import clock
from resilient.engine.drivers import immediate
from resilient.engine.drivers.steps import Closing, Done, Outcome, is_masked, thrown
from resilient.engine.lease import Lease
from resilient.engine.plan import Ask, Body, Listen, Operation, Plan, Sleep, Together, Wait
from resilient.engine.signals import Hub, new_waiter_id
from resilient.engine.stopwatch import paused

__all__ = ["Interruption", "LoopWaiter", "Reply", "Stepper", "adrive"]

T = TypeVar("T")


class Reply(asyncio.Future[Any]):
    """The answer to a command that is under way: whoever awaits it cannot give it up.

    A task that is cancelled while it awaits one is told so when the answer is there
    (`Task.cancel` asks the future first, and this one declines).
    """

    def cancel(self, msg: Any | None = None) -> bool:
        """Decline: the command may have taken effect already."""
        return False

    @classmethod
    def of(cls, awaitable: Coroutine[Any, Any, Any]) -> Reply:
        """The answer of a coroutine, which goes on in a task of its own."""
        return cls.behind(asyncio.get_running_loop().create_task(awaitable))

    @classmethod
    def behind(cls, future: asyncio.Future[Any]) -> Reply:
        """The answer of a task or another future."""
        reply = cls(loop=future.get_loop())
        future.add_done_callback(reply._take)
        return reply

    def _take(self, future: asyncio.Future[Any]) -> None:
        if self.done():
            return
        if future.cancelled():
            self.set_exception(ConnectionAbortedError("the event loop is shutting down"))
        elif error := future.exception():
            self.set_exception(error)
        else:
            self.set_result(future.result())


async def adrive(plan: Plan[T], function: Callable[[Any], Awaitable[Any]] | None = None) -> T:
    """Run a plan to its end; where it awaits its `Body`, await `function(body.value)`."""
    stepper = Stepper(plan)
    step = await stepper.advance()
    while type(step) is Body:
        try:
            if function is None:
                answer = None
            elif step.lease is None or not step.cancel:
                answer = await function(step.value)
            else:
                answer = await Interruption(step.lease).guard(function(step.value))
        except (StopIteration, StopAsyncIteration) as stop:
            step = await stepper.throw_stop(stop)
        except BaseException as error:
            step = await stepper.advance(error=error)
        else:
            step = await stepper.advance(answer)
    value: T = step.value
    return value


class Stepper:
    """One plan on its way, and the cancellations that wait for its clean-up to end."""

    __slots__ = ("_plan", "_unwinding")

    def __init__(self, plan: Plan[Any]) -> None:
        self._plan = plan
        self._unwinding = False

    @types.coroutine
    def advance(
        self, answer: Any = None, error: BaseException | None = None
    ) -> Generator[Any, Any, Outcome]:
        """Step the plan until it awaits its `Body` or is done."""
        plan, send = self._plan, self._plan.send
        deferred: BaseException | None = None
        if error is not None and isinstance(error, asyncio.CancelledError):
            self._unwinding = True
        try:
            while True:
                try:
                    operation: Any = send(answer) if error is None else thrown(plan, error)
                except StopIteration as stop:
                    operation = Done(stop.value)
                except Closing:
                    raise GeneratorExit from None
                except Exception:
                    if deferred is not None:
                        raise deferred  # noqa: B904 - as if it had interrupted the clean-up here
                    raise
                kind = type(operation)
                if kind is Body or kind is Done:
                    if deferred is not None:
                        raise deferred
                    outcome: Outcome = operation
                    return outcome
                answer = error = reply = None
                try:
                    if kind is Ask:
                        reply = operation.transport.asend(operation.command)
                        answer = yield from reply
                    elif kind is Together:
                        reply = _together(operation)
                        answer = yield from reply
                    elif (immediately := immediate.ANSWERS.get(kind)) is not None:
                        answer = immediately(operation)
                    elif isinstance(operation, Operation):
                        answer = yield from ANSWERS[kind](operation).__await__()
                    else:
                        answer = yield operation  # a third party's awaitable: the loop's business
                except asyncio.CancelledError as cancelled:
                    if not self._unwinding:
                        self._unwinding, error = True, cancelled
                    else:
                        deferred = cancelled
                        answer, error = _late_answer(reply)
                except BaseException as raised:
                    error = raised
        finally:
            error = deferred = None  # their tracebacks hold this frame: a cycle otherwise

    async def throw_stop(self, stop: Exception) -> Outcome:
        """Throw a `StopIteration` of the user's into the plan, and let it out again as itself."""
        try:
            return await self.advance(error=stop)
        except RuntimeError as masked:
            if not is_masked(masked, stop):
                raise
        raise stop


def _late_answer(reply: asyncio.Future[Any] | None) -> tuple[Any, BaseException | None]:
    """The answer, or the error, of a command during which a clean-up was cancelled once more."""
    if reply is None or not reply.done():
        return None, None
    if (error := reply.exception()) is not None:
        return None, error
    return reply.result(), None


class Interruption:
    """Cancels whoever runs a body when the body's lease is lost, and tells that apart."""

    __slots__ = ("__weakref__", "_fired", "_lease", "_loop", "_task")

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._fired = False
        mine = ref(self)  # or the lease and this would hold one another
        lease.when_lost(lambda: _interrupted(mine()))

    def begin(self) -> None:
        """The body runs in the current task from now on."""
        self._task = asyncio.current_task()
        if self._lease.is_missing:
            # Not at once: the running task would be cancelled where it next suspends itself, which
            # may be beyond the body.
            self._loop.call_soon(self._fire)

    def end(self, error: BaseException | None) -> BaseException | None:
        """The body rests: `LeaseLost` where our cancellation ended it, else its own error."""
        task, self._task = self._task, None
        if task is None or not self._fired:
            return error
        self._fired = False
        others = task.uncancel()
        if others == 0 and isinstance(error, asyncio.CancelledError):
            return self._lease.error()
        return error

    async def guard(self, body: Awaitable[Any]) -> Any:
        """Await a body; raise `LeaseLost` if it was cancelled because the lease is lost."""
        self.begin()
        try:
            answer = await body
        except BaseException as error:
            settled = self.end(error)
            try:
                if settled is None or settled is error:
                    raise
                raise settled from error
            finally:
                settled = None  # its traceback holds this frame: a cycle, if the frame holds it
        self.end(None)
        return answer

    def interrupt(self) -> None:
        """Cancel the body, from any thread."""
        # A closed loop runs no body any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._fire)

    def _fire(self) -> None:
        if self._task is not None and not self._fired:
            self._fired = True
            self._task.cancel()


def _interrupted(watch: Interruption | None) -> None:
    if watch is not None:  # else nobody runs that body any more
        watch.interrupt()


class LoopWaiter:
    """The wait of one task."""

    __slots__ = ("__weakref__", "_flag", "_hub", "_loop", "channel", "gift", "id")

    def __init__(self, hub: Hub, channel: str) -> None:
        self._hub = hub
        self.id = new_waiter_id()
        self.gift = ""
        self.channel = channel
        self._loop = asyncio.get_running_loop()
        self._flag = LoopFlag(self._loop)

    def wake(self) -> None:
        """Wake the task, from any thread; a wake-up before the wait counts."""
        if asyncio._get_running_loop() is self._loop:
            self._flag.set()
            return
        try:
            self._loop.call_soon_threadsafe(self._flag.set)
        except RuntimeError:  # the loop is closed, and the task with it
            return

    async def wait(self, seconds: float) -> bool:
        """Wait until woken; false if that did not happen within so many seconds."""
        if not self.channel:
            self._hub.attend()
        with paused():
            if isinstance(clock.current, clock.ManualClock):
                woken = await clock.current.apause(self._flag, seconds)
            else:
                woken = await self._flag.wait(seconds)
        self._flag.clear()
        return woken


class LoopFlag:
    """What one task waits for until the loop sets it: an event and a timeout, for less."""

    __slots__ = ("_future", "_is_set", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        self._is_set = False

    def set(self) -> None:
        """Let who waits go on; it stays set."""
        self._is_set = True
        self._end()

    def clear(self) -> None:
        """Have it wait the next time."""
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._is_set

    async def wait(self, seconds: float) -> bool:
        """Wait until it is set; false if it was not within so many seconds."""
        if not self._is_set:
            self._future = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._end)
            try:
                await self._future
            finally:
                timer.cancel()
                self._future = None
        return self._is_set

    def _end(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


async def _listen(operation: Listen) -> LoopWaiter:
    hub = operation.hub
    # A loop hears by itself what is for its own waiters, and nothing else.
    alone = not operation.broadcasts
    waiter = LoopWaiter(hub, (hub.channel_here() or await hub.listen_here()) if alone else "")
    hub.add(waiter)
    # Connecting may block: not in the loop. Once the source listens this costs nothing.
    if not (waiter.channel or hub.is_listening):
        await Reply.behind(hub.astart())
    return waiter


async def _sleep(operation: Sleep) -> None:
    with paused():
        if isinstance(clock.current, clock.ManualClock):
            clock.current.sleep(operation.seconds)
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(operation.seconds)


def _together(operation: Together) -> Reply:
    """In tasks of one turn of the loop: a transport makes one pipeline of what they ask."""
    return Reply.behind(asyncio.gather(*map(adrive, operation.plans), return_exceptions=True))


ANSWERS: dict[type, Callable[[Any], Coroutine[Any, Any, Any]]] = {
    Sleep: _sleep,
    Listen: _listen,
    Wait: lambda operation: operation.waiter.wait(operation.seconds),
}
