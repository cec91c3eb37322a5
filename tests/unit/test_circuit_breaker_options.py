"""The options of `@circuit_breaker`: what opens a circuit, what counts, what closes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import (
    Backoff,
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    FailureRate,
    HalfOpen,
    Ramp,
    SlowRate,
    TimeWindow,
    circuit_breaker,
    distributed_lock,
)
from resilient.engine.clock import ManualClock
from resilient.policies.circuit_breaker.upstream import asked_pause
from resilient.protocols.circuit_table import BY_HAND, TRANSITIONS, diagram
from tests.support.guarded import fail, succeed
from tests.support.modes import Mode

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("backend")


# --- the state machine


def test_the_diagram_in_the_docs_is_the_table() -> None:
    """It is generated: `python -c "from resilient.protocols.circuit_table import diagram; ..."`."""
    page = (ROOT / "docs/decorators/circuit-breaker.md").read_text()
    assert f"```mermaid\n{diagram()}\n```" in page


def test_the_scripts_move_by_the_table() -> None:
    """Every transition that a script of Redis makes has its event in the table."""
    import re

    folder = ROOT / "resilient/backends/redis/lua/circuits"
    lua = "\n".join(path.read_text() for path in folder.glob("*.lua"))
    moves = set(re.findall(r"enter\('(\w+)', '(\w+)'", lua))
    moves |= {("open", event) for event in re.findall(r"open\('(\w+)'", lua)}
    moves |= {("open", event) for event in re.findall(r"return '(\w+)'", lua)}
    table = {(after.value, event) for (_, event), after in TRANSITIONS.items()}
    assert moves == table
    assert "'restored'" in lua
    assert {"forced", "restored"} == BY_HAND


# --- windows


def test_a_time_window_forgets(mode: Mode, clock: ManualClock) -> None:
    """Failures of a minute ago do not count any more."""
    breaker = CircuitBreaker(
        "s", trip=FailureRate(0.5), window=TimeWindow(60, buckets=6), min_calls=10
    )
    for _ in range(3):
        fail(mode, breaker, 9)
        assert breaker.at().state is CLOSED
        clock.advance(61)
    fail(mode, breaker, 10)
    assert breaker.at().state is OPEN


# --- slowness


def test_slow_calls_open_it(mode: Mode, clock: ManualClock) -> None:
    """A call over the limit is slow, one at the limit is not; a slow failure counts as both."""
    trip = SlowRate(0.5, over=2) | FailureRate(0.9)
    call_for = _timed_call(mode, clock, trip=trip, min_calls=4)
    for seconds in (2, 2, 0, 3):
        mode.call(call_for, seconds)
    assert circuit_breaker.of(call_for).at(0).state is CLOSED
    mode.call(call_for, 2.01)
    mode.call(call_for, 5)
    assert circuit_breaker.of(call_for).at(0).state is OPEN


def _timed_call(mode: Mode, clock: ManualClock, **options: Any) -> Callable[..., Any]:
    async def body(seconds: float, fails: bool = False) -> None:
        clock.advance(seconds or 0.001)
        if fails:
            raise ConnectionError

    return mode.decorate(circuit_breaker("s", **options), body)


def test_our_own_queueing_is_not_the_services_time(mode: Mode) -> None:
    """What a lock inside the function waits for is taken out of its time; its own sleep is not."""
    with resilient.using("memory://"):

        async def body(seconds: float) -> None:
            await mode.sleep(seconds)

        inner = mode.decorate(distributed_lock("busy", wait=5), body)
        guarded = circuit_breaker("s", trip=SlowRate(0.1, over=0.5), min_calls=1)(inner)
        mode.together(*[partial(guarded, 0.1)] * 6)
        assert circuit_breaker.of(guarded).at(0).state is CLOSED
        mode.call(guarded, 0.6)
        assert circuit_breaker.of(guarded).at(0).state is OPEN


def test_a_slow_call_that_fails_later_counts_once(mode: Mode) -> None:
    """It is slow when it becomes so, and a failure when it ends: one call."""
    with resilient.using("memory://"):

        async def body() -> None:
            await mode.sleep(0.2)
            raise ConnectionError

        trip = SlowRate(1.0, over=0.05) | FailureRate(1.0)
        call = mode.decorate(circuit_breaker("s", trip=trip), body)
        with pytest.raises(ConnectionError):
            mode.call(call)
        control = circuit_breaker.of(call).at()
        view = mode.call(control.ametrics if mode.is_async else control.metrics)
        assert (view.calls, view.failures, view.slow) == (1, 1, 1)


# --- what counts


def test_answers_may_be_failures(mode: Mode, clock: ManualClock) -> None:
    """`record_result` judges what the function answers; in a block, `call.result` does."""

    async def body(status: int) -> int:
        return status

    options: dict[str, Any] = {"trip": Consecutive(2), "record_result": lambda n: n >= 500}
    call = mode.decorate(circuit_breaker("s", **options), body)
    for status in (200, 503, 200, 503, 500):
        assert mode.call(call, status) == status
    with pytest.raises(CircuitOpen):
        mode.call(call, 200)
    breaker = CircuitBreaker("t", **options)
    for status in (503, 200, 500, 500):
        with mode.entered(breaker.guard()) as guarded:
            assert guarded.result(status) == status
    assert breaker.at().state is OPEN


def test_a_block_may_say_how_it_ended(mode: Mode, clock: ManualClock) -> None:
    """`call.fail()` and `call.ignore()`, whatever comes after."""
    breaker = CircuitBreaker("s", trip=Consecutive(2))
    for _ in range(3):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard()) as call:
            call.ignore()
            raise ConnectionError
    assert breaker.at().state is CLOSED
    for _ in range(2):
        with mode.entered(breaker.guard()) as call:
            call.fail()
    assert breaker.at().state is OPEN


def test_a_fallback_may_answer_failures(mode: Mode, clock: ManualClock) -> None:
    """With `fallback_on="error"`: what is recorded, before it is open and after."""
    given: list[str] = []

    async def body(error: Exception | None) -> str:
        if error is not None:
            raise error
        return "well"

    def fallback(error: Exception, _: Any) -> str:
        given.append(type(error).__name__)
        return "instead"

    decorator = circuit_breaker(
        "s", trip=Consecutive(2), ignore=KeyError, fallback=fallback, fallback_on="error"
    )
    call = mode.decorate(decorator, body)
    assert mode.call(call, None) == "well"
    with pytest.raises(KeyError):
        mode.call(call, KeyError())
    assert [mode.call(call, ConnectionError()) for _ in range(3)] == ["instead"] * 3
    assert given == ["ConnectionError", "ConnectionError", "CircuitOpen"]


# --- how long it is open


def test_back_off_grows_and_calms_down(mode: Mode, clock: ManualClock) -> None:
    """Each failed round makes it wait longer, up to the longest; a calm spell begins anew."""
    breaker = CircuitBreaker(
        "s",
        trip=Consecutive(1),
        open_for=Backoff(5, factor=2, max=15, jitter=0, calm=60),
        half_open=HalfOpen(permits=1),
    )
    waits = []
    for _ in range(4):
        fail(mode, breaker)
        waits.append(_wait(mode, breaker))
        clock.advance(waits[-1])
    assert waits == pytest.approx([5, 10, 15, 15])
    succeed(mode, breaker)
    clock.advance(61)
    fail(mode, breaker)
    assert _wait(mode, breaker) == pytest.approx(5)


def _wait(mode: Mode, breaker: CircuitBreaker) -> float:
    with pytest.raises(CircuitOpen) as info, mode.entered(breaker.guard()):
        pytest.fail("it is open")
    assert info.value.retry_after is not None
    return info.value.retry_after


class Response:
    """What httpx, requests and others hang on their errors."""

    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Unavailable(ConnectionError):
    """A service that says when to come back."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Unavailable(retry_after=90), 90),
        (Unavailable(retry_after=timedelta(minutes=2)), 120),
        (Unavailable(retry_after=float("inf")), 0),
        (Unavailable(response=Response(Retry_After="120")), 120),
        (Unavailable(response=Response(Retry_After="9" * 9)), 3600),
        (
            Unavailable(
                response=Response(
                    Retry_After="Wed, 21 Oct 2015 07:28:00 GMT",
                    Date="Wed, 21 Oct 2015 07:27:00 GMT",
                )
            ),
            60,
        ),
        (Unavailable(response=Response(Retry_After="soon")), 0),
        (Unavailable(response=None), 0),
        (ConnectionError(), 0),
    ],
)
def test_how_long_a_service_asks_to_be_left_alone(error: Exception, seconds: float) -> None:
    """Seconds, a duration, or a header in either of its two forms."""
    assert asked_pause(error) == seconds


def test_the_service_says_for_how_long(mode: Mode, clock: ManualClock) -> None:
    """The failure that opens it makes it wait at least so long; not if that is not wanted."""
    for option, expected in (({}, 90), ({"retry_after": None}, 30)):
        breaker = CircuitBreaker(f"s{expected}", trip=Consecutive(2), **option)  # type: ignore[arg-type]  # each is right
        fail(mode, breaker, 2, Unavailable(retry_after=90))
        assert _wait(mode, breaker) == pytest.approx(expected)


def test_a_ramp_lets_calls_through_little_by_little(mode: Mode, clock: ManualClock) -> None:
    """After it has closed, a share that grows; in the end all, on the fast path."""
    breaker = CircuitBreaker(
        "s", trip=Consecutive(1), ramp=Ramp(over=100, start=0.1), half_open=HalfOpen(permits=1)
    )
    fail(mode, breaker)
    clock.advance(30)
    succeed(mode, breaker)
    shares, told = [], set[str]()
    for _ in range(3):
        passed = 0
        for _ in range(400):
            try:
                succeed(mode, breaker)
                passed += 1
            except CircuitOpen as refused:
                told.add(str(refused).partition("lets ")[2][:15])
        shares.append(passed / 400)
        clock.advance(45)
    assert told == {"only some calls"}
    assert 0.02 < shares[0] < 0.25
    assert 0.35 < shares[1] < 0.65
    assert 0.8 < shares[2] < 1
    clock.advance(20)
    succeed(mode, breaker, 50)
