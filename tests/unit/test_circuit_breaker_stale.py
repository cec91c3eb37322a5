"""Calls that come to nothing: stale, cancelled and refused ones, and those that are replayed."""

from __future__ import annotations

import asyncio
import traceback

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    FailureRate,
    HalfOpen,
    Outcome,
    SlowRate,
    circuit_breaker,
)
from resilient.engine.clock import ManualClock
from tests.support.guarded import by_hand, fail
from tests.support.modes import Mode

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


pytestmark = pytest.mark.usefixtures("backend")


def test_stale_calls_are_counted(mode: Mode, clock: ManualClock) -> None:
    """A call that ends in another state than it began in has no effect, and is counted as such."""
    breaker = CircuitBreaker("s", trip=Consecutive(1))
    outer = [breaker.guard() for _ in range(3)]
    for guard in outer:
        mode.call(guard.__aenter__) if mode.is_async else guard.__enter__()
    fail(mode, breaker)
    for guard, error in zip(outer, (None, None, ConnectionError()), strict=True):
        kind = None if error is None else type(error)
        if mode.is_async:
            mode.call(guard.__aexit__, kind, error, None)
        else:
            guard.__exit__(kind, error, None)
    assert by_hand(mode, breaker, "metrics").stale == 3


def test_a_hundred_cancellations_change_nothing() -> None:
    """Still closed, and while it is half-open no permit is lost."""
    with resilient.using("memory://"):
        breaker = CircuitBreaker(
            "s", trip=Consecutive(1), open_for=0.01, half_open=HalfOpen(permits=1)
        )

        @breaker
        async def call(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return "well"

        async def cancelled() -> None:
            task = asyncio.create_task(call(60))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        async def main() -> None:
            for _ in range(100):
                await cancelled()
            assert breaker.at().state is CLOSED
            with pytest.raises(ConnectionError):
                async with breaker.guard():
                    raise ConnectionError
            await asyncio.sleep(0.05)
            for _ in range(100):
                await cancelled()
            assert breaker.at().state is HALF_OPEN
            assert await call(0) == "well"
            assert breaker.at().state is CLOSED

        asyncio.run(main())


def test_two_thousand_refusals_are_of_constant_depth(mode: Mode, clock: ManualClock) -> None:
    """Each is an exception of its own, with a traceback of its own."""

    async def body() -> None:
        raise ConnectionError

    call = mode.decorate(circuit_breaker("s", trip=Consecutive(1)), body)
    with pytest.raises(ConnectionError):
        mode.call(call)
    depths = set()
    for _ in range(2000):
        with pytest.raises(CircuitOpen) as info:
            mode.call(call)
        depths.add(len(list(traceback.walk_tb(info.value.__traceback__))))
    assert len(depths) == 1


def test_replay_shows_what_other_thresholds_would_have_done() -> None:
    """The recorded outcomes of an outage, under three breakers."""
    recorded = [
        Outcome(at=n, failed=20 <= n < 60, took=3.0 if n >= 80 else 0.1) for n in range(100)
    ]
    eager = CircuitBreaker("s", trip=Consecutive(3), open_for=10, half_open=HalfOpen(permits=1))
    lazy = CircuitBreaker("s", trip=FailureRate(0.9), min_calls=90)
    slow = CircuitBreaker("s", trip=SlowRate(0.2, over=2), min_calls=10)
    found = eager.replay(recorded)
    assert found.calls == 100
    assert (found.rejected, found.failures_spared) == (36, 34)
    assert [each.after for each in found.transitions[:2]] == [OPEN, HALF_OPEN]
    assert lazy.replay(recorded)[:3] == (100, 0, 0)
    assert [each.reason for each in slow.replay(recorded).transitions] == ["slow_rate"]
