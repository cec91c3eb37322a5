"""One circuit breaker between many processes, some of which die, and without its server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
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
from tests.process import breaker_workers
from tests.support.fixtures import Target
from tests.support.modes import Mode
from tests.support.processes import group
from tests.support.servers import RedisAt, RedisServer

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

PROCESSES = 20
CLOSED, OPEN = CircuitState.CLOSED, CircuitState.OPEN


def modes(count: int) -> list[str]:
    """Every other process uses `async with`."""
    return ["sync", "async"] * (count // 2)


def test_all_processes_know_at_once_that_it_is_open(shared_target: Target) -> None:
    """20 processes: open in each of them within 100 ms of the failure that opens it.

    In the best of three rounds: twenty processes on a busy machine get their turns when they do.
    """
    url, prefix = shared_target.url, shared_target.prefix
    arguments = [(url, prefix, mode, n == 0) for n, mode in enumerate(modes(PROCESSES))]
    with group(breaker_workers.see_it_open, arguments) as workers:
        tripping, *others = workers
        for number in range(3):
            for worker in workers:
                assert worker.wait_for("using", 60) == number
            time.sleep(0.3)  # their successes have arrived
            for worker in [*others, tripping]:
                worker.send()
            for worker in workers:
                worker.wait_for("seen", 60)
            for worker in workers:
                worker.send()
        tripped, *seen = [worker.result() for worker in workers]
    delays = [max(process[n] - tripped[n] for process in seen) for n in range(3)]
    assert min(delays) <= 0.1, delays


def test_failures_of_all_processes_count_together(shared_target: Target) -> None:
    """20 processes that fail nine times each, with ten to open it: few of them are let through."""
    arguments = [(shared_target.url, shared_target.prefix, mode) for mode in modes(PROCESSES)]
    with group(breaker_workers.share_failures, arguments) as workers:
        for worker in workers:
            worker.wait_for("waiting")
        for worker in workers:
            worker.send()
        reached = sum(worker.result() for worker in workers)
    assert reached <= 3 * PROCESSES
    with resilient.using(shared_target.url, prefix=shared_target.prefix) as backend:
        assert backend.sync.circuits.view("service").state is OPEN


def test_exactly_so_many_probes_as_there_are_permits(shared_target: Target) -> None:
    """20 processes hammer a half-open circuit: five probes in all, and then it is closed."""
    url, prefix = shared_target.url, shared_target.prefix
    with resilient.using(url, prefix=prefix) as backend:
        arguments = [(url, prefix, mode, 5) for mode in modes(PROCESSES)]
        with group(breaker_workers.hammer, arguments) as workers:
            time.sleep(0.3)
            rules = CircuitBreaker("x", open_for=3, half_open=HalfOpen(permits=5)).rules
            backend.sync.circuits.force("service", OPEN, rules=rules)
            for worker in workers:
                worker.wait_for("open", 60)
            results = [worker.result() for worker in workers]
        assert sum(probes for probes, _ in results) == 5
        assert sum(refused for _, refused in results) > PROCESSES
        assert backend.sync.circuits.view("service").state is CLOSED


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_permit_of_a_killed_probe_comes_back(shared_target: Target, mode: str) -> None:
    """By its lease: others are refused until then, and probe soon after."""
    lease = 1.5
    arguments = (shared_target.url, shared_target.prefix, mode, lease)
    with group(breaker_workers.probe_and_hang, [arguments]) as (prober,):
        assert prober.wait_for("probing") is True
        began = time.monotonic()
        prober.kill()
        with group(breaker_workers.probe_when_possible, [arguments]) as (other,):
            assert other.wait_for("refused") == "half_open"
            waited = other.result() - began
    assert lease - 0.3 <= waited <= lease + 0.5


# --- the server


@pytest.fixture(name="seen")
def _seen() -> Iterator[list[Event]]:
    events: list[Event] = []
    unsubscribe = resilient.subscribe(events.append)
    yield events
    unsubscribe()


def test_closed_calls_cost_the_server_nothing(
    redis_server: RedisAt, prefix: str, mode: Mode
) -> None:
    """Thousands of calls: no command while they run, and few in the background."""

    async def body() -> None:
        """Always well."""

    with resilient.using(redis_server.url, prefix=prefix):
        call = mode.decorate(circuit_breaker("service"), body)
        mode.call(call)

        async def many() -> None:
            for _ in range(20_000):
                await mode.within(call)

        began = time.monotonic()
        with redis_server.round_trips() as trips:
            mode.call(mode.function(many))
        seconds = time.monotonic() - began
        if mode.is_async:
            mode.call(resilient.aclose)
    assert trips.count <= 2 + 12 * seconds


@pytest.mark.parametrize("harm", ["kill", "pause"])
def test_without_the_server_calls_run_behind_a_local_breaker(
    private_redis: RedisServer, mode: Mode, harm: str, seen: list[Event]
) -> None:
    """Killed or standing still: calls run, failures open the circuit here, and it recovers."""
    ok = True

    async def body() -> str:
        if not ok:
            raise ConnectionError
        return "well"

    options: dict[str, Any] = {
        "trip": Consecutive(3),
        "open_for": 0.5,
        "half_open": HalfOpen(permits=2),
    }
    with resilient.using(f"{private_redis.url}?socket_timeout=1"):
        call = mode.decorate(circuit_breaker("service", **options), body)
        assert mode.call(call) == "well"
        getattr(private_redis, harm)()
        took = [_timed(mode, call) for _ in range(200)]
        assert sorted(took)[-3] < 0.02
        ok = False
        for _ in range(3):
            with pytest.raises(ConnectionError):
                mode.call(call)
        with pytest.raises(CircuitOpen):
            mode.call(call)
        ok = True
        began = time.monotonic()
        while circuit_breaker.of(call).at().state is not CLOSED:
            with contextlib.suppress(CircuitOpen):
                assert mode.call(call) == "well"
            time.sleep(0.01)
        assert 0.3 < time.monotonic() - began < 5
        assert any(isinstance(event, BackendTrouble) for event in seen)
        private_redis.resume() if harm == "pause" else private_redis.restart()
        _until_told(mode, call)
        if mode.is_async:
            mode.call(resilient.aclose)


def _timed(mode: Mode, call: Any) -> float:
    began = time.monotonic()
    assert mode.call(call) == "well"
    return time.monotonic() - began


def _until_told(mode: Mode, call: Any) -> None:
    """The server is back: it is told of the calls again, by the next try."""
    circuit = circuit_breaker.of(call).at()
    deadline = time.monotonic() + 20
    while True:
        mode.call(call)
        metrics = mode.call(circuit.ametrics if mode.is_async else circuit.metrics)
        if metrics.generation > 2**40 and metrics.calls > 10:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)
