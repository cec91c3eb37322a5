"""What is done to a circuit by hand, and what is seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    ConfigurationError,
    Consecutive,
    HalfOpen,
)
from resilient.engine.clock import ManualClock, installed
from resilient.events import CircuitWouldOpen, Event
from tests.support.guarded import by_hand, fail, succeed
from tests.support.modes import Mode

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture(name="clock")
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with installed(clock), resilient.using("memory://"):
        yield clock


@pytest.mark.parametrize(
    ("control", "state"),
    [("force_closed", "forced_closed"), ("metrics_only", "metrics_only"), ("disable", "disabled")],
)
def test_nothing_opens_it_by_hand_for_a_time(
    mode: Mode, clock: ManualClock, seen: list[Event], control: str, state: str
) -> None:
    """Failures pass through until it is over; then they count again."""
    breaker = CircuitBreaker("s", trip=Consecutive(2))
    by_hand(mode, breaker, control, duration=600, reason="INC-7", by="ana")
    assert breaker.at().state.value == state
    fail(mode, breaker, 5)
    view = by_hand(mode, breaker, "metrics")
    assert view.reason == "forced by ana: INC-7"
    assert view.calls == (0 if state == "disabled" else 5)
    would = [event for event in seen if isinstance(event, CircuitWouldOpen)]
    assert len(would) == (0 if state == "disabled" else 1)
    clock.advance(601)
    by_hand(mode, breaker, "metrics")
    fail(mode, breaker, 2)
    assert breaker.at().state is OPEN


def test_forced_open_says_why_and_goes_on_as_usual(mode: Mode, clock: ManualClock) -> None:
    """Refused until its time is over, whoever asks; then it is probed. The history tells it."""
    breaker = CircuitBreaker("s", half_open=HalfOpen(permits=1))
    by_hand(mode, breaker, "force_open", duration="10m", reason="INC-7", by="ana")
    with pytest.raises(CircuitOpen, match=r"by hand \(forced by ana: INC-7\)") as info:
        succeed(mode, breaker)
    assert info.value.retry_after == pytest.approx(600)
    clock.advance("10m")
    succeed(mode, breaker)
    assert breaker.at().state is CLOSED
    history = by_hand(mode, breaker, "history")
    assert [(each.after, each.reason) for each in history] == [
        (CLOSED, "probes_passed"),
        (HALF_OPEN, "override_ended"),
        (CircuitState.FORCED_OPEN, "forced by ana: INC-7"),
    ]
    by_hand(mode, breaker, "force_open")
    clock.advance("24h")
    with pytest.raises(CircuitOpen):
        succeed(mode, breaker)
    by_hand(mode, breaker, "reset")
    succeed(mode, breaker)


def test_forcing_a_circuit(mode: Mode, clock: ManualClock) -> None:
    """Open for as long as asked, closed at once, and begun anew."""
    breaker = CircuitBreaker("s:{tenant}", trip=Consecutive(2), open_for=30)
    circuit = breaker.at(tenant="acme")
    control = partial(by_hand, mode, breaker, tenant="acme")
    control("force_open", duration="10m")
    assert circuit.state is CircuitState.FORCED_OPEN
    clock.advance("9m")
    with pytest.raises(CircuitOpen) as info, mode.entered(breaker.guard(tenant="acme")):
        pytest.fail("it is open")
    assert info.value.retry_after == pytest.approx(60)
    assert "forced" in str(info.value)
    assert "open for 540.0 s" in str(info.value)
    control("force_closed")
    with mode.entered(breaker.guard(tenant="acme")) as call:
        assert (call.key, call.is_probe) == ("s:acme", False)
    with pytest.raises(ConnectionError), mode.entered(breaker.guard(tenant="acme")):
        raise ConnectionError
    assert control("metrics")[3:6] == (2, 1, 1)
    control("reset")
    assert control("metrics")[3:6] == (0, 0, 0)
    with pytest.raises(ConfigurationError, match="duration"):
        control("force_open", duration=-1)


def test_a_blocking_form_in_a_loop_warns(clock: ManualClock) -> None:
    """`guard`, `metrics` and the others say which form to use instead."""
    breaker = CircuitBreaker("service")

    async def main() -> None:
        with pytest.warns(resilient.BlockingCallInLoop, match="async with"), breaker.guard():
            pass
        with pytest.warns(resilient.BlockingCallInLoop, match="ametrics") as warnings:
            breaker.at().metrics()
        assert warnings[0].filename == __file__

    asyncio.run(main())


def test_state_asks_nobody(clock: ManualClock) -> None:
    """A circuit that this process has never used is closed as far as it knows."""
    breaker = CircuitBreaker("service:{n}")
    assert breaker.at(n=1).state is CLOSED
    assert "closed" in repr(breaker.at(n=1))
    assert repr(breaker) == "CircuitBreaker('service:{n}')"
    with pytest.raises(TypeError, match="n"):
        breaker.at()
    with pytest.raises(resilient.KeyMissing):
        breaker.guard(n=None)
