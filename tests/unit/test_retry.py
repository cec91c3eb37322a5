"""`@retry`: what is tried again, how often, after which pauses, and at what cost."""

from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import resilient
from resilient import CircuitBreaker, CircuitOpen, ConfigurationError, Consecutive, retry
from resilient.config import disabled
from resilient.engine.clock import ManualClock, installed
from resilient.events import Event, RetryScheduled
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(name="pauses")
def _pauses() -> Iterator[list[float]]:
    found: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            found.append(event.pause)

    unsubscribe = resilient.subscribe(note)
    yield found
    unsubscribe()


class Flaky:
    """A call that raises what it is given, one after the other, and then answers."""

    def __init__(self, mode: Mode, *errors: BaseException, takes: float = 0.0) -> None:
        self.errors = list(errors)
        self.calls = 0
        self._mode = mode
        self._takes = takes

    def __call__(self, decorator: Callable[[Any], Any]) -> Callable[..., Any]:
        """The call behind a decorator."""

        async def call(answer: str = "pong") -> str:
            from resilient.engine import clock

            self.calls += 1
            clock.current.sleep(self._takes)
            if self.errors:
                raise self.errors.pop(0)
            return answer

        return self._mode.decorate(decorator, call)


def test_a_transient_failure_is_tried_again(mode: Mode, pauses: list[float]) -> None:
    """The function is called again with the same arguments, and its answer is the call's."""
    flaky = Flaky(mode, ConnectionError(), TimeoutError())
    call = flaky(retry(on=(ConnectionError, TimeoutError)))
    assert mode.call(call, answer="again") == "again"
    assert flaky.calls == 3
    assert len(pauses) == 2


def test_other_exceptions_pass_at_once(mode: Mode, pauses: list[float]) -> None:
    """At the first call, and at a later one."""
    flaky = Flaky(mode, KeyError("first"), ConnectionError(), KeyError("second"))
    call = flaky(retry(on=ConnectionError))
    with pytest.raises(KeyError, match="first"):
        mode.call(call)
    assert (flaky.calls, pauses) == (1, [])
    with pytest.raises(KeyError, match="second"):
        mode.call(call)
    assert flaky.calls == 3


def test_a_function_may_decide(mode: Mode) -> None:
    """`on` may be a predicate over the exception."""
    flaky = Flaky(mode, OSError(11, "again"), OSError(28, "disk full"))
    call = flaky(retry(on=lambda error: isinstance(error, OSError) and error.errno == 11))
    with pytest.raises(OSError, match="disk full"):
        mode.call(call)
    assert flaky.calls == 2


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_bounded(mode: Mode, attempts: int) -> None:
    """The last exception is raised: the very object, without context, with its own traceback."""
    errors = [ConnectionError(number) for number in range(9)]
    flaky = Flaky(mode, *errors)
    call = flaky(retry(on=ConnectionError, attempts=attempts, timeout=None))
    with pytest.raises(ConnectionError) as info:
        mode.call(call)
    last = errors[attempts - 1]
    assert info.value is last
    assert last.__context__ is None
    assert last.__cause__ is None
    assert traceback.extract_tb(last.__traceback__)[-1].line == "raise self.errors.pop(0)"
    assert flaky.calls == attempts


def test_time_is_bounded(mode: Mode, clock: ManualClock, pauses: list[float]) -> None:
    """No attempt begins after the time-out, which counts from the call; no pause is slept in vain.

    A failing attempt takes 4 s here, and a pause 1 s: after the second there is no room.
    """
    began = clock.now()
    flaky = Flaky(mode, *[ConnectionError() for _ in range(9)], takes=4)
    call = flaky(
        retry(on=ConnectionError, attempts=None, timeout=10, wait_initial=1, wait_jitter=0)
    )
    with pytest.raises(ConnectionError):
        mode.call(call)
    assert pauses == [1.0]
    assert clock.now() - began == pytest.approx(9)


def test_pauses_grow_up_to_a_limit(mode: Mode, pauses: list[float], clock: ManualClock) -> None:
    """They double, and the clock shows that they are slept."""
    began = clock.now()
    flaky = Flaky(mode, *[ConnectionError() for _ in range(6)])
    options: dict[str, Any] = {"wait_initial": "100ms", "wait_max": 1, "wait_jitter": 0}
    mode.call(flaky(retry(on=ConnectionError, attempts=9, **options)))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1, 1])
    assert clock.now() - began == pytest.approx(sum(pauses))


def test_pauses_are_jittered(mode: Mode, pauses: list[float]) -> None:
    """Up to `wait_jitter` is added, at random, and never more than `wait_max` results."""
    options: dict[str, Any] = {"wait_initial": 0.5, "wait_max": 1.2, "wait_jitter": 1}
    for _ in range(50):
        mode.call(Flaky(mode, ConnectionError())(retry(on=ConnectionError, **options)))
    assert min(pauses) >= 0.5
    assert max(pauses) <= 1.2
    assert len({round(pause, 6) for pause in pauses if pause < 1.2}) > 20
    assert max(pauses) - min(pauses) > 0.4


def test_a_rejection_says_when_to_come_back(
    mode: Mode, pauses: list[float], clock: ManualClock
) -> None:
    """An open circuit is tried again when it may let calls through, if that is in time."""
    with resilient.using("memory://"):
        breaker = CircuitBreaker("s", trip=Consecutive(1), open_for=20)
        flaky = Flaky(mode, ConnectionError())
        guarded = flaky(breaker)
        patient = retry(on=(ConnectionError, CircuitOpen), wait_jitter=0)(guarded)
        assert mode.call(patient) == "pong"
        assert pauses == pytest.approx([0.1, 19.9])
        for _ in range(4):  # the other probes
            mode.call(guarded)
        flaky.errors.append(ConnectionError())
        with pytest.raises(ConnectionError):
            mode.call(guarded)
        before = clock.now()
        with pytest.raises(CircuitOpen):
            mode.call(retry(on=CircuitOpen, timeout=10)(guarded))
        with pytest.raises(CircuitOpen):
            mode.call(retry(on=ConnectionError)(guarded))
        assert clock.now() == before


def test_each_retry_is_an_event(mode: Mode) -> None:
    """It names the function, the attempt that failed, the pause and the error."""
    seen: list[Event] = []
    unsubscribe = resilient.subscribe(seen.append)
    errors = [ConnectionError(), ConnectionError()]
    mode.call(Flaky(mode, *errors)(retry(on=ConnectionError)))
    unsubscribe()
    events = [event for event in seen if isinstance(event, RetryScheduled)]
    assert [(each.attempt, each.error) for each in events] == [(1, errors[0]), (2, errors[1])]
    assert all(each.function.endswith("call") and each.pause > 0 for each in events)


def test_cancellation_ends_it() -> None:
    """A cancelled attempt or pause is not tried again."""
    calls = 0

    @retry(on=Exception, wait_initial=60)
    async def call(seconds: float) -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(seconds)
        raise ConnectionError

    async def main() -> None:
        task = asyncio.create_task(call(60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls == 1

    asyncio.run(main())


def test_a_cancelled_pause_is_over() -> None:
    """The real clock this time: the task ends at once."""
    from resilient.engine.clock import SystemClock

    calls = 0

    @retry(on=Exception, wait_initial=20, wait_max=20)
    async def call() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError

    async def main() -> None:
        task = asyncio.create_task(call())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with installed(SystemClock()):
        asyncio.run(asyncio.wait_for(main(), 5))
    assert calls == 1


def test_the_end_of_an_iterator_is_no_failure() -> None:
    """`StopIteration` passes as it is, even with `on=Exception`, early and late."""
    errors: list[Exception] = [StopIteration("early"), ConnectionError(), StopIteration("late")]

    @retry(on=Exception)
    def call() -> None:
        raise errors.pop(0)

    for says in ("early", "late"):
        with pytest.raises(StopIteration, match=says):
            call()


def test_each_call_has_its_own_attempts(mode: Mode) -> None:
    """Calls side by side, and one after the other, share nothing."""

    async def call(n: int) -> int:
        counts[n] = counts.get(n, 0) + 1
        await mode.sleep(0.001)
        if counts[n] < 4:
            raise ConnectionError
        return counts[n]

    counts: dict[int, int] = {}
    retried = mode.decorate(retry(on=ConnectionError, attempts=4), call)
    assert mode.together(*[functools.partial(retried, n) for n in range(8)]) == [4] * 8


def test_disabled_policies_try_once(mode: Mode) -> None:
    """In a test that asks for it, the first failure is the last."""
    flaky = Flaky(mode, ConnectionError(), ConnectionError())
    call = flaky(retry(on=ConnectionError))
    with disabled(), pytest.raises(ConnectionError):
        mode.call(call)
    assert flaky.calls == 1
    assert mode.call(call) == "pong"


class Client:
    """Retried methods of every kind."""

    def __init__(self) -> None:
        self.calls = 0

    @retry(on=ConnectionError)
    def get(self, answer: str, *, times: int = 2) -> str:
        """A method."""
        self.calls += 1
        if self.calls < times:
            raise ConnectionError
        return answer

    @retry(on=ConnectionError)
    @classmethod
    def name(cls) -> str:
        """A class method, decorated from above."""
        return cls.__name__

    @staticmethod
    @retry(on=ConnectionError)
    def twice(n: int) -> int:
        """A static method."""
        return n * 2


def test_methods_of_every_kind_are_retried() -> None:
    """Each binds as it would undecorated."""
    client = Client()
    assert client.get("x", times=3) == "x"
    assert client.calls == 3
    assert Client.name() == client.name() == "Client"
    assert Client.twice(2) == client.twice(2) == 4
    assert str(inspect.signature(Client.get)) == (
        "(self, answer: 'str', *, times: 'int' = 2) -> 'str'"
    )


def test_what_cannot_be_retried_is_refused_when_decorated() -> None:
    """The bodies of generators run after the call; a coroutine out of a `def` does too."""

    def stream() -> Iterator[int]:
        yield 1

    async def astream() -> AsyncIterator[int]:
        yield 1

    async def later() -> None:
        """Never runs."""

    def answers_later() -> Any:
        return later()

    for function in (stream, astream):
        with pytest.raises(ConfigurationError, match="generator"):
            retry(on=OSError)(function)
    with pytest.raises(ConfigurationError, match="decorate an `async def` instead"):
        retry(on=OSError)(answers_later)()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"on": ()}, "on="),
        ({"on": "OSError"}, "on='OSError'"),
        ({"on": (OSError, "x")}, "on="),
        ({"on": KeyboardInterrupt}, "subclasses of Exception"),
        ({"on": asyncio.CancelledError}, "subclasses of Exception"),
        ({"on": OSError, "attempts": 0}, "attempts=0"),
        ({"on": OSError, "attempts": True}, "attempts=True"),
        ({"on": OSError, "attempts": 2.5}, "attempts=2.5"),
        ({"on": OSError, "timeout": 0}, "timeout=0"),
        ({"on": OSError, "timeout": float("nan")}, "timeout=nan"),
        ({"on": OSError, "wait_max": -1}, "wait_max=-1"),
        ({"on": OSError, "wait_initial": 0}, "wait_initial=0"),
        ({"on": OSError, "wait_jitter": "1 s"}, "wait_jitter='1 s'"),
        ({"on": OSError, "attempts": None, "timeout": None}, "set one of them"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], says: str) -> None:
    """By an error of our tree that names it."""
    with pytest.raises(ConfigurationError, match=says):
        retry(**options)


def test_on_is_required() -> None:
    """Only the caller knows what is transient."""
    with pytest.raises(ConfigurationError, match="needs on="):
        retry()  # type: ignore[call-arg]  # what is to be refused


def test_nothing_is_imported_before_the_first_failure() -> None:
    """tenacity comes with the first failure."""
    code = """
import sys, resilient
fails = False
@resilient.retry(on=ConnectionError, wait_initial=0.001, wait_jitter=0)
def call():
    global fails
    if fails:
        fails = False
        raise ConnectionError
call()
assert "tenacity" not in sys.modules
fails = True
call()
assert "tenacity" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
