"""Budgets of backend calls, and backends that are known to be away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from resilient import BackendError
from resilient.engine import clock
from resilient.engine.backend import Backend
from resilient.engine.budget import remaining, within
from resilient.engine.clock import ManualClock
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.resolving import resolve
from tests.support.modes import Mode
from tests.support.servers import RedisServer


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend whose worker lives as long as the test."""
    backend = resolve("memory://")
    yield backend
    backend.close()


class Probe:
    """Fails until told otherwise."""

    def __init__(self) -> None:
        self.asked = 0
        self.works = False

    async def __call__(self) -> None:
        self.asked += 1
        if not self.works:
            raise BackendError("still away")


def until(condition: Any, manual: ManualClock, seconds: float) -> float:
    """Move a clock on until something is so; the seconds that took."""
    began = manual.now()
    while not condition() and manual.now() - began < seconds:
        manual.advance(0.05)
        time.sleep(0.005)
    assert condition()
    return manual.now() - began


def test_an_outage_ends_with_the_first_answer(backend: Backend) -> None:
    """It is probed ever more rarely, and over soon after the recovery."""
    with clock.installed(manual := ManualClock()):
        probe = Probe()
        backend.outage.begin(probe)
        backend.outage.begin(Probe())
        for _ in range(600):
            manual.advance(0.05)
            time.sleep(0.001)
        assert backend.outage.is_on
        assert 5 <= probe.asked <= 85
        probe.works = True
        assert until(lambda: not backend.outage.is_on, manual, 30) <= 5
        backend.outage.begin(probe)
        assert until(lambda: not backend.outage.is_on, manual, 30) <= 5


def test_an_outage_is_known_once_and_its_end_is_told(backend: Backend) -> None:
    """To whoever wants to know; a sign of life brings the end forward."""
    with clock.installed(manual := ManualClock()):
        over: list[float] = []
        backend.outage.when_over(lambda: over.append(manual.now()))
        probe = Probe()
        assert backend.outage.begin(probe) is True
        assert backend.outage.begin(probe) is False
        probe.works = True
        backend.outage.hurry()
        deadline = time.monotonic() + 5
        while not over and time.monotonic() < deadline:
            time.sleep(0.001)
        assert over == [manual.now()]
        backend.outage.hurry()
        assert probe.asked == 1


def test_closing_ends_an_outage(backend: Backend) -> None:
    """Nobody would look any more: the next caller finds out."""
    backend.outage.begin(Probe())
    backend.close()
    assert not backend.outage.is_on


def test_budgets_nest() -> None:
    """An inner budget is no longer than the outer one, and ends with its plan."""

    async def look() -> float | None:
        return remaining()

    async def outer() -> tuple[float | None, float | None, float | None]:
        return await within(9, look()), await within(2, look()), remaining()

    large, small, left = drive(within(5, outer()))
    assert large is not None
    assert small is not None
    assert left is not None
    assert 4 < large <= 5
    assert 1 < small <= 2
    assert 4 < left <= 5
    assert remaining() is None


def test_a_frozen_server_takes_no_longer_than_the_budget(
    mode: Mode, private_redis: RedisServer
) -> None:
    """A server that stands still costs the budget; its connection serves others afterwards."""
    backend = resolve(private_redis.url)
    store = backend.require("cache")
    run = adrive if mode.is_async else drive
    ask = partial(store.has, "k")
    assert mode.call(lambda: run(within(5, ask()))) is False
    with private_redis.paused():
        began = time.monotonic()
        with pytest.raises(BackendError, match="in time"):
            mode.call(lambda: run(within(0.1, ask())))
        took = time.monotonic() - began
        assert 0.09 < took < 2
        with pytest.raises(BackendError, match="spent"):
            mode.call(lambda: run(within(0, ask())))
    assert mode.call(lambda: run(ask())) is False
    assert mode.call(lambda: run(within(5, ask()))) is False
    mode.call(backend.aclose) if mode.is_async else backend.close()
