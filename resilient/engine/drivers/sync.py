"""The sync driver: answers a plan's operations in the calling thread, by blocking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from time import monotonic
from types import CoroutineType
from typing import Any, TypeVar

from resilient.engine import clock
from resilient.engine.drivers import immediate
from resilient.engine.drivers.steps import Closing, Done, Outcome, is_masked, resume, thrown
from resilient.engine.plan import Ask, Body, Listen, Plan, Sleep, Together, Wait
from resilient.engine.signals import Hub, new_waiter_id
from resilient.engine.stopwatch import paused
from resilient.errors import CapabilityMissing, ConfigurationError
from resilient.protocols.signals import Bell

__all__ = ["Flag", "ThreadWaiter", "advance", "drive", "throw_stop", "unawaited"]

T = TypeVar("T")


def drive(plan: Plan[T], function: Callable[[Any], Any] | None = None) -> T:
    """Run a plan to its end; where it awaits its `Body`, call `function(body.value)`."""
    # The way of every call: `advance` in one piece with the function, for a third of the cost.
    answer: Any = None
    error: BaseException | None = None
    send = plan.send
    try:
        while True:
            try:
                operation = send(answer) if error is None else thrown(plan, error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            except Closing:
                raise GeneratorExit from None
            except RuntimeError as masked:
                if not is_masked(masked, error):
                    raise
                break
            answer = error = None
            kind = type(operation)
            try:
                if kind is Ask:
                    answer = operation.transport.send(operation.command)
                elif kind is not Body:
                    answer = ANSWERS.get(kind, _refuse)(operation)
                elif function is not None:
                    answer = function(operation.value)
                    if type(answer) is CoroutineType:
                        raise unawaited(answer)
            except BaseException as raised:
                error = raised
        assert error is not None
        raise error
    finally:
        error = None  # its traceback holds this frame: a cycle, if the frame holds it


def throw_stop(plan: Plan[Any], stop: Exception) -> Outcome:
    """Throw a `StopIteration` of the user's into a plan, and let it out again as itself."""
    try:
        return advance(plan, error=stop)
    except RuntimeError as masked:
        if not is_masked(masked, stop):
            raise
    raise stop


def advance(plan: Plan[Any], answer: Any = None, error: BaseException | None = None) -> Outcome:
    """Step a plan until it awaits its `Body` or is done."""
    send = plan.send
    try:
        while True:
            try:
                operation = send(answer) if error is None else thrown(plan, error)
            except StopIteration as stop:
                return Done(stop.value)
            except Closing:
                raise GeneratorExit from None
            answer = error = None
            kind = type(operation)
            if kind is Body:
                body: Body = operation
                return body
            try:
                if kind is Ask:
                    answer = operation.transport.send(operation.command)
                else:
                    answer = ANSWERS.get(kind, _refuse)(operation)
            except BaseException as raised:
                error = raised
    finally:
        error = None  # its traceback holds this frame: a cycle, if the frame holds it


class Flag:
    """What a thread waits for until another one sets it: an event, without its Python code.

    Attributes:
        bell: What interrupts the thread while it does not wait for the flag, but reads.

    Args:
        hub: What the thread may read while it waits: what sets the flag arrives there.
    """

    __slots__ = ("_hub", "_lock", "bell")

    def __init__(self, hub: Hub | None = None) -> None:
        self._hub = hub
        self._lock = threading.Lock()  # held while the flag is not set
        self._lock.acquire()
        self.bell: Bell | None = None

    def set(self) -> None:
        """Let who waits go on; it stays set."""
        try:  # noqa: SIM105  # whoever waits for a lock waits for this
            self._lock.release()
        except RuntimeError:  # it is set already
            pass
        bell = self.bell
        if bell is not None:
            bell.ring()

    def clear(self) -> None:
        """Have it wait the next time."""
        self._lock.acquire(blocking=False)

    def is_set(self) -> bool:
        """Whether it is set."""
        return not self._lock.locked()

    def wait(self, seconds: float) -> bool:
        """Block until it is set; false if it was not within so many seconds."""
        if self._hub is not None and seconds > 0 and self._lock.locked():
            until = monotonic() + seconds
            self._hub.read_for(self, seconds)
            if not self._lock.locked():
                return True
            seconds = until - monotonic()
        is_set = self._lock.acquire(timeout=seconds) if seconds > 0 else self.is_set()
        if is_set:
            self.set()
        return is_set


class ThreadWaiter:
    """The wait of one thread."""

    __slots__ = ("__weakref__", "event", "gift", "id")

    channel = ""

    def __init__(self, hub: Hub | None = None) -> None:
        self.id = new_waiter_id()
        self.gift = ""
        self.event = Flag(hub)

    def wake(self) -> None:
        """Wake the thread; a wake-up before the wait counts."""
        self.event.set()


def _listen(operation: Listen) -> ThreadWaiter:
    waiter = ThreadWaiter(operation.hub)
    operation.hub.add(waiter)
    operation.hub.start()
    return waiter


def _wait(operation: Wait) -> bool:
    waiter = operation.waiter
    assert isinstance(waiter, ThreadWaiter)
    with paused():
        woken = clock.current.pause(waiter.event, min(operation.seconds, threading.TIMEOUT_MAX))
    waiter.event.clear()
    return woken


def _together(operation: Together) -> list[Any]:
    """Step all plans side by side; what they ask of one transport in a round is one trip.

    Each steps in a context of its own, as a task would: they set context variables in turns.
    """
    contexts = [copy_context() for _ in operation.plans]
    results: list[Any] = [None] * len(operation.plans)
    waiting: dict[int, tuple[Plan[Any], Any, BaseException | None]] = {
        index: (plan, None, None) for index, plan in enumerate(operation.plans)
    }
    while waiting:
        asked: dict[int, Ask] = {}
        for index, (plan, answer, error) in waiting.items():
            try:
                results[index] = contexts[index].run(_until_asked, plan, answer, error)
            except Exception as raised:
                results[index] = raised
            if type(results[index]) is Ask:
                asked[index] = results[index]
        answers = _send_all(asked)
        waiting = {
            index: (
                (operation.plans[index], None, reply)
                if isinstance(reply, BaseException)
                else (operation.plans[index], reply, None)
            )
            for index, reply in answers.items()
        }
    return results


def _until_asked(plan: Plan[Any], answer: Any, error: BaseException | None) -> Any:
    """Step a plan until it asks its transport something (that `Ask`), or ends (its value)."""
    while True:
        operation = resume(plan, answer, error)
        if type(operation) is Ask:
            return operation
        if type(operation) is Done:
            return operation.value
        answer = error = None
        answering = ANSWERS.get(type(operation))
        try:
            if answering is None:
                raise _needs_loop(operation)
            answer = answering(operation)
        except BaseException as raised:
            error = raised


def _send_all(asked: dict[int, Ask]) -> dict[int, Any]:
    """The answer, or the exception, to each of the questions: one trip a transport."""
    answers: dict[int, Any] = {}
    by_transport: dict[int, list[int]] = {}
    for index, ask in asked.items():
        by_transport.setdefault(id(ask.transport), []).append(index)
    for indices in by_transport.values():
        transport: Any = asked[indices[0]].transport
        commands = [asked[index].command for index in indices]
        send_many = getattr(transport, "send_many", None)
        replies = (
            send_many(commands)
            if send_many is not None
            else [_attempt(transport.send, command) for command in commands]
        )
        answers.update(zip(indices, replies, strict=True))
    return answers


def _attempt(send: Callable[[Any], Any], command: Any) -> Any:
    try:
        return send(command)
    except Exception as error:
        return error


def _sleep(operation: Sleep) -> None:
    with paused():
        clock.current.sleep(operation.seconds)


def _refuse(operation: Any) -> Any:
    raise _needs_loop(operation)


def _needs_loop(operation: Any) -> CapabilityMissing:
    return CapabilityMissing(
        f"the backend awaited {operation!r}, which needs a running event loop: it serves async "
        "callers only (declare modes={'async'} on it), and this function is sync"
    )


def unawaited(coroutine: CoroutineType[Any, Any, Any]) -> ConfigurationError:
    """The error for a sync function that answered a coroutine, which is closed."""
    name = coroutine.__qualname__
    coroutine.close()
    return ConfigurationError(
        f"a sync function returned the coroutine {name}, which would run unprotected after the "
        "call: decorate an `async def` instead"
    )


ANSWERS: dict[type, Callable[[Any], Any]] = {
    **immediate.ANSWERS,
    Sleep: _sleep,
    Listen: _listen,
    Wait: _wait,
    Together: _together,
}
