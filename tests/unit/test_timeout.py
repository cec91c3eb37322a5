"""`@timeout`: a limit on the time that a call takes."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilient import ConfigurationError, TimedOut, timeout
from resilient.config import disabled
from resilient.engine.circuits.outcomes import FAILURE
from resilient.policies.circuit_breaker.options import declared
from tests.support.modes import Mode

SHORT = 0.01
"""A time that is over, however fast the machine is: what it limits never ends by itself."""


@pytest.fixture(name="end")
def _end() -> Iterator[threading.Event]:
    """What threads wait for that nobody waits for."""
    end = threading.Event()
    yield end
    end.set()


def limited(mode: Mode, after: Any, body: Any) -> Any:
    """The function under a limit that its mode allows."""
    return mode.decorate(timeout(after, thread=not mode.is_async), body)


def test_a_call_in_time_is_what_it_was(mode: Mode) -> None:
    """Its answer, its exception, its arguments and its context are the function's own."""
    known: contextvars.ContextVar[str] = contextvars.ContextVar("known")

    async def call(x: int, *, fails: bool = False) -> tuple[int, str]:
        if fails:
            raise LookupError(x)
        return x, known.get()

    known.set("of the caller")
    call_limited = limited(mode, 60, call)
    assert mode.call(call_limited, 7) == (7, "of the caller")
    with pytest.raises(LookupError, match="7"):
        mode.call(call_limited, 7, fails=True)


def test_a_task_is_cancelled() -> None:
    """It is over when its caller is told so, and may clean up."""
    seen: list[str] = []

    @timeout(SHORT)
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(TimedOut, match=r"forever did not end within 0.01 s") as caught:
        asyncio.run(forever())
    assert seen == ["cancelled"]
    assert isinstance(caught.value, TimeoutError)


def test_a_thread_is_left_to_itself(end: threading.Event) -> None:
    """Its caller goes on, and it may end when it likes."""
    ended = threading.Event()

    @timeout(SHORT, thread=True)
    def slow() -> None:
        end.wait()
        ended.set()

    with pytest.raises(TimedOut, match="slow did not end"):
        slow()
    assert not ended.is_set()
    end.set()
    assert ended.wait(30)


def test_a_time_out_of_the_body_is_its_own(mode: Mode) -> None:
    """Whatever limits are inside of it."""

    async def call() -> None:
        raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket") as caught:
        mode.call(limited(mode, 60, call))
    assert not isinstance(caught.value, TimedOut)


def test_one_that_comes_of_the_cancellation_is_the_bodys_too() -> None:
    """What it makes of the cancellation is told as it is."""

    @timeout(SHORT)
    async def call() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise TimeoutError("given up") from None

    with pytest.raises(TimeoutError, match="given up"):
        asyncio.run(call())


def test_a_cancellation_from_outside_is_none() -> None:
    """It passes, and reaches the body."""

    async def main() -> None:
        begun = asyncio.Event()

        @timeout(60)
        async def call() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(call())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_breaker_counts_it_as_a_failure() -> None:
    """It says something of the dependency, unlike our own refusals."""
    settings = declared("test", {}).settings(None)
    assert settings.outcome(TimedOut("slow")) == FAILURE


def test_disabled_policies_let_calls_take_their_time() -> None:
    """In a test that asks for it nothing is cut short, and no thread is started."""

    @timeout(60, thread=True)
    def call() -> str:
        return threading.current_thread().name

    with disabled():
        assert call() == threading.current_thread().name
    assert call() != threading.current_thread().name


def test_what_is_wrong_is_said_when_decorated() -> None:
    """A `def` that nobody could stop, a task in a thread, a generator, a wrong duration."""

    def call() -> None: ...

    async def acall() -> None: ...

    def items() -> Iterator[int]:
        yield 1

    def answers_a_coroutine() -> Any:
        return acall()

    wrong: Any
    for wrong, word in (
        (lambda: timeout(2)(call), "thread=True"),
        (lambda: timeout(2, thread=True)(acall), "cancelled in its loop"),
        (lambda: timeout(2, thread=True)(items), "generator"),
        (lambda: timeout(0), "after=0"),
        (lambda: timeout("soon"), "after='soon'"),
        (lambda: timeout(2, thread=1), "thread=1"),  # type: ignore[arg-type]  # that is shown
        (lambda: timeout(call), "parentheses"),  # type: ignore[arg-type]  # too
        (timeout(2, thread=True)(answers_a_coroutine), "coroutine"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            wrong()
