"""A circuit breaker whose server stands still, refuses, swallows everything, or begins anew."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    HalfOpen,
    circuit_breaker,
)
from resilient.events import BackendTrouble, Event
from resilient.protocols.circuits import Verdict
from resilient.testing.faults import FaultProxy
from tests.support.modes import Mode
from tests.support.scale import measured, scaled
from tests.support.servers import RedisServer, redis_server

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

OPEN = CircuitState.OPEN
SLACK = 2.0
"""Seconds that a busy machine may add."""


class Trouble:
    """A server of our own behind a proxy, and what is done to it."""

    def __init__(self, server: RedisServer, proxy: FaultProxy) -> None:
        self.server = server
        self.url = proxy.url
        self._begin: dict[str, Callable[[], None]] = {
            "frozen": server.pause,
            "refused": proxy.refuse,
            "black-holed": proxy.blackhole,
        }
        self._end = {"frozen": server.resume, "refused": proxy.accept, "black-holed": proxy.restore}

    def begin(self, name: str) -> None:
        """From now on."""
        self._begin[name]()

    def end(self, name: str) -> None:
        """No longer."""
        self._end[name]()


@pytest.fixture(name="proxy")
def _proxy(private_redis: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(private_redis.url) as proxy:
        yield proxy


@pytest.fixture(name="trouble")
def _trouble(private_redis: RedisServer, proxy: FaultProxy) -> Trouble:
    return Trouble(private_redis, proxy)


def is_open_at(server: RedisServer, key: str) -> bool:
    """By the server's word, which is asked on a way of its own."""
    with resilient.using(server.url, prefix="") as backend:
        view = backend.sync.circuits.view(key)
        return view.state is OPEN


def seconds_until(condition: Callable[[], bool], within: float) -> float:
    """How long it takes until it is so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "it has not happened"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("name", "mode_name"), [("frozen", "sync"), ("refused", "async"), ("black-holed", "sync")]
)
def test_without_the_server_it_is_a_local_breaker(
    trouble: Trouble, name: str, mode_name: Any, seen: list[Event]
) -> None:
    """No closed call waits, local thresholds trip, and the server is told soon after its return."""
    fails = False

    async def body(tenant: str) -> None:
        if fails:
            raise ConnectionError

    with Mode(mode_name) as mode, resilient.using(trouble.url, prefix=""):
        decorator = circuit_breaker("s:{tenant}", trip=Consecutive(3), open_for=60)
        call = mode.decorate(decorator, body)
        for tenant in ("well", "ill"):
            mode.call(call, tenant)
        trouble.begin(name)
        took = _paced(mode, call, seconds=scaled(3, 1))
        assert _percentile(took, 0.99) <= 0.001
        fails = True
        for _ in range(3):
            with pytest.raises(ConnectionError):
                mode.call(call, "ill")
        with pytest.raises(CircuitOpen):
            mode.call(call, "ill")
        fails = False
        seconds_until(lambda: any(isinstance(e, BackendTrouble) for e in seen), within=10)
        took = _paced(mode, call, seconds=scaled(3, 1))
        assert _percentile(took, 0.99) <= 0.001
        trouble.end(name)
        told = seconds_until(lambda: is_open_at(trouble.server, "s:ill"), within=1 + SLACK)
        measured(f"{name}: p99 of a closed call", _percentile(took, 0.99) * 1e6, "µs")
        measured(f"{name}: the server is told", told, "s after its return")
        with pytest.raises(CircuitOpen):
            mode.call(call, "ill")
        if mode.is_async:
            mode.call(resilient.aclose)


def _paced(mode: Mode, call: Callable[..., Any], *, seconds: float) -> list[float]:
    """The times of closed calls, one after the other for so long."""
    took: list[float] = []

    async def many() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            await mode.within(call, "well")
            took.append(time.perf_counter() - began)
            await mode.sleep(0.001)

    mode.call(mode.function(many))
    return took


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


# --- permits of probes

LEASE = 60.0
"""Seconds after which a permit would be free by itself: longer than any test."""


def half_open_soon(mode: Mode) -> CircuitBreaker:
    """A breaker that has opened, and whose one probe is due."""
    breaker = CircuitBreaker(
        "s", trip=Consecutive(1), open_for=0.2, half_open=HalfOpen(permits=1, lease=LEASE)
    )
    with pytest.raises(ConnectionError), mode.entered(breaker.guard()):
        raise ConnectionError
    return breaker


def test_a_permit_whose_grant_was_lost_comes_back(
    trouble: Trouble, proxy: FaultProxy, mode: Mode
) -> None:
    """The server gave it, nobody heard of that: it is given back long before its lease ends."""
    with resilient.using(trouble.url, prefix=""):
        breaker = half_open_soon(mode)

        def is_given(key: str) -> bool:
            with resilient.using(trouble.server.url, prefix="") as direct:
                rules = breaker._settings.rules
                admission = direct.sync.circuits.admit(key, rules=rules, token="another's")
                return admission.verdict is Verdict.PROBE

        assert not is_given("other")  # it is closed, and the server knows the script now
        seconds_until(lambda: is_open_at(trouble.server, "s"), within=10)
        time.sleep(0.25)
        proxy.drop_reply_when(lambda request: b"circuit:s" in request, times=2)
        with contextlib.suppress(ConnectionError, CircuitOpen), mode.entered(breaker.guard()):
            raise ConnectionError
        assert proxy.counts.dropped == 2
        took = seconds_until(lambda: is_given("s"), within=LEASE / 3)
        measured("a permit whose grant was lost is free after", took, "s")
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_probe_that_cannot_be_reported_is_reported_later(
    trouble: Trouble, proxy: FaultProxy, mode: Mode
) -> None:
    """The server goes away while the probe runs, and hears of its success after its return."""
    with resilient.using(trouble.url, prefix=""):
        breaker = half_open_soon(mode)
        seconds_until(lambda: is_open_at(trouble.server, "s"), within=10)
        time.sleep(0.25)
        with mode.entered(breaker.guard()):
            proxy.refuse()
        proxy.accept()
        with resilient.using(trouble.server.url, prefix="") as direct:
            took = seconds_until(
                lambda: direct.sync.circuits.view("s").state is CircuitState.CLOSED,
                within=LEASE / 3,
            )
        measured("a probe is reported", took, "s after the server's return")
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_server_that_comes_back_empty_is_told_what_is_open(mode: Mode) -> None:
    """Open again soon, for the rest of its time, in a generation that was never used."""
    open_for = 20.0
    with redis_server() as server, resilient.using(server.url, prefix="") as backend:
        breaker = CircuitBreaker("s", trip=Consecutive(1), open_for=open_for)
        with pytest.raises(ConnectionError), mode.entered(breaker.guard()):
            raise ConnectionError
        opened_before = time.monotonic()
        seconds_until(lambda: is_open_at(server, "s"), within=10)
        before = mode.call(breaker.at().ametrics if mode.is_async else breaker.at().metrics)
        opened_at = time.monotonic() - (open_for - before.reopens_in)
        assert opened_at <= opened_before + SLACK
        server.kill()
        server.start()
        took = seconds_until(lambda: is_open_at(server, "s"), within=1 + SLACK)
        view = backend.sync.circuits.view("s") if not mode.is_async else before
        if mode.is_async:
            view = mode.call(backend.aio.circuits.view, "s")
        left = open_for - (time.monotonic() - opened_at)
        measured("an empty server is told", took, "s after its start")
        measured("the remaining time is wrong by", abs(view.reopens_in - left) * 1000, "ms")
        assert abs(view.reopens_in - left) <= 0.25
        assert view.generation > before.generation
        with contextlib.suppress(CircuitOpen), mode.entered(breaker.guard()):
            pytest.fail("it is open")
        if mode.is_async:
            mode.call(resilient.aclose)
