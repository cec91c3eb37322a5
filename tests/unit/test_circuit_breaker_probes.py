"""The probes of a circuit that was open, and what becomes of their permits."""

from __future__ import annotations

import asyncio

import pytest

from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    FailureRate,
    HalfOpen,
)
from resilient.engine.clock import ManualClock
from tests.support.guarded import Service, state, trip
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


def test_an_open_circuit_is_probed_and_closes(
    service: Service, mode: Mode, clock: ManualClock
) -> None:
    """After `open_for` so many calls as there are permits go through, and close it."""
    call = service.guarded(trip=Consecutive(2), open_for=30, half_open=HalfOpen(permits=3))
    service.fails(call, 2)
    clock.advance(29.9)
    with pytest.raises(CircuitOpen) as info:
        mode.call(call)
    assert info.value.retry_after == pytest.approx(0.1)
    clock.advance(0.2)
    service.succeeds(call, 1)
    assert state(call) is HALF_OPEN
    service.succeeds(call, 2)
    assert state(call) is CLOSED
    service.fails(call, 1)
    assert state(call) is CLOSED


def test_failed_probes_open_it_again(service: Service, mode: Mode, clock: ManualClock) -> None:
    """The round is judged by the failure rate when all probes have ended."""
    rules = {"trip": FailureRate(0.5), "min_calls": 2, "half_open": HalfOpen(permits=4)}
    call = service.guarded(open_for=10, **rules)
    service.fails(call, 2)
    clock.advance(10)
    service.fails(call, 2)
    service.succeeds(call, 1)
    assert state(call) is HALF_OPEN
    service.succeeds(call, 1)
    assert state(call) is OPEN
    with pytest.raises(CircuitOpen):
        mode.call(call)
    clock.advance(10)
    service.succeeds(call, 4)
    assert state(call) is CLOSED


def test_no_more_probes_than_permits(mode: Mode, clock: ManualClock) -> None:
    """While the probes are under way others are refused, and told that they are under way."""
    breaker = CircuitBreaker("service", trip=Consecutive(1), half_open=HalfOpen(permits=2))
    trip(mode, breaker)
    clock.advance(30)
    with mode.entered(breaker.guard()) as first, mode.entered(breaker.guard()) as second:
        assert first.is_probe
        assert second.is_probe
        with (
            pytest.raises(CircuitOpen, match="probes are under way"),
            mode.entered(breaker.guard()),
        ):
            pytest.fail("a third probe")
    assert breaker.at().state is CLOSED


def test_a_permit_comes_back_when_its_probe_says_nothing(
    service: Service, mode: Mode, clock: ManualClock
) -> None:
    """An ignored exception in a probe gives its permit to the next call."""
    call = service.guarded(trip=Consecutive(1), half_open=HalfOpen(permits=1), ignore=LookupError)
    service.fails(call, 1)
    clock.advance(30)
    service.error = KeyError()
    for _ in range(3):
        with pytest.raises(KeyError):
            mode.call(call)
    assert state(call) is HALF_OPEN
    service.succeeds(call, 1)
    assert state(call) is CLOSED


def test_a_permit_comes_back_when_its_probe_is_cancelled(clock: ManualClock) -> None:
    """A cancelled probe neither counts nor keeps its permit."""
    breaker = CircuitBreaker("service", trip=Consecutive(1), half_open=HalfOpen(permits=1))

    @breaker
    async def call(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "well"

    async def main() -> None:
        with pytest.raises(ConnectionError):
            async with breaker.guard():
                raise ConnectionError
        clock.advance(30)
        for _ in range(3):
            task = asyncio.create_task(call(60))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert breaker.at().state is HALF_OPEN
        assert await call(0) == "well"
        assert breaker.at().state is CLOSED

    asyncio.run(main())


def test_a_permit_comes_back_by_its_lease(mode: Mode, clock: ManualClock) -> None:
    """A probe that never reports blocks the round no longer than its lease; late, it is void."""
    half_open = HalfOpen(permits=1, lease=5)
    breaker = CircuitBreaker("service", trip=Consecutive(1), open_for=30, half_open=half_open)
    trip(mode, breaker)
    clock.advance(30)
    lost = breaker.guard()
    if mode.is_async:
        mode.call(lost.__aenter__)
    else:
        lost.__enter__()
    clock.advance(4.9)
    with pytest.raises(CircuitOpen), mode.entered(breaker.guard()):
        pytest.fail("a second probe")
    clock.advance(0.2)
    with mode.entered(breaker.guard()) as probe:
        assert probe.is_probe
        if mode.is_async:
            mode.call(lost.__aexit__, ConnectionError, ConnectionError(), None)
        else:
            lost.__exit__(ConnectionError, ConnectionError(), None)
        assert breaker.at().state is HALF_OPEN
    assert breaker.at().state is CLOSED
