"""What a circuit breaker costs: many calls, many threads, many keys, many nodes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitState,
    Consecutive,
    FailureRate,
    Quorum,
    SlowRate,
    TimeWindow,
    circuit_breaker,
)
from resilient.engine import background
from resilient.engine.listening import LULL
from resilient.events import CircuitChanged, Event
from resilient.resolving import resolve
from tests.support.fixtures import Target
from tests.support.modes import Mode
from tests.support.scale import measured, scaled
from tests.support.servers import RedisAt, redis_server
from tests.support.waiting import until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

OPEN, CLOSED = CircuitState.OPEN, CircuitState.CLOSED
CHANCES = 20
"""Measurements of a ratio: whatever else runs on the machine only makes it worse."""


@pytest.fixture(name="changes")
def _changes() -> Iterator[list[tuple[str, str]]]:
    changes: list[tuple[str, str]] = []

    def see(event: Event) -> None:
        if isinstance(event, CircuitChanged):
            changes.append((event.before, event.after))

    unsubscribe = resilient.subscribe(see)
    yield changes
    unsubscribe()


# --- calls


def test_closed_calls_cost_the_server_nothing(
    redis_server: RedisAt, prefix: str, mode: Mode
) -> None:
    """200,000 calls and more: no command while they run, and at most twelve flushes a second."""

    async def body() -> None:
        """Always well."""

    with resilient.using(redis_server.url, prefix=prefix):
        call = mode.decorate(circuit_breaker("service"), body)
        mode.call(call)

        async def many() -> None:
            until = time.monotonic() + scaled(10, 1)
            for _ in range(200_000):
                await mode.within(call)
            while time.monotonic() < until:
                await mode.within(call)
                await mode.sleep(0.001)

        began = time.monotonic()
        with redis_server.round_trips() as trips:
            mode.call(mode.function(many))
        seconds = time.monotonic() - began
        if mode.is_async:
            mode.call(resilient.aclose)
    measured("round trips of 200,000 calls and more", trips.count / seconds, "a second")
    assert trips.count <= 2 + 12 * seconds


@pytest.mark.timing
@pytest.mark.parametrize(("together", "seconds", "limit"), [(16, 0.01, 1.1), (10, 0.1, 1.5)])
def test_calls_do_not_wait_for_each_other(
    together: int, seconds: float, limit: float, mode: Mode, redis_server: RedisAt, prefix: str
) -> None:
    """So many threads or tasks at once take little longer than one; beyond what they do alone."""
    with resilient.using(redis_server.url, prefix=prefix):

        async def body() -> None:
            await mode.sleep(seconds)

        guarded = mode.decorate(circuit_breaker("service"), body)
        mode.call(guarded)
        one = many = float("inf")
        for _ in range(CHANCES):
            one = min(one, _span(mode, guarded, 1))
            many = min(many, _span(mode, guarded, together))
            if many <= limit * one:
                break
        if mode.is_async:
            mode.call(resilient.aclose)
    measured(f"{together} {mode} calls of {seconds} s", many / one, "times one")
    assert many <= limit * one


def _span(mode: Mode, function: Callable[..., Any], together: int) -> float:
    """From the first begin to the last end of three calls in each of so many threads or tasks."""
    times: list[float] = []

    async def three() -> None:
        began = time.perf_counter()
        for _ in range(3):
            await mode.within(function)
        times.extend((began, time.perf_counter()))

    mode.together(*[mode.function(three)] * together)
    return max(times) - min(times)


# --- threads


def test_threads_lose_no_outcome_on_any_backend(
    target: Target, changes: list[tuple[str, str]]
) -> None:
    """Eight threads, half of them with event loops: exact totals, one event a transition."""
    calls = scaled(20_000, 2_000)
    breaker = CircuitBreaker("many", trip=FailureRate(0.9), window=TimeWindow(3600))
    tripped = CircuitBreaker("tripped", trip=Consecutive(3), open_for=60)

    def body(breaker: CircuitBreaker) -> Callable[[bool], None]:
        @breaker
        def call(fails: bool) -> None:
            if fails:
                raise ConnectionError

        return call

    def abody(breaker: CircuitBreaker) -> Callable[[bool], Any]:
        @breaker
        async def call(fails: bool) -> None:
            if fails:
                raise ConnectionError

        return call

    def work(number: int) -> None:
        if number % 2:
            asyncio.run(awork())
            return
        call, trip = body(breaker), body(tripped)
        for n in range(calls):
            with contextlib.suppress(ConnectionError):
                call(n % 5 == 0)
        for _ in range(20):
            with contextlib.suppress(ConnectionError, resilient.CircuitOpen):
                trip(True)

    async def awork() -> None:
        call, trip = abody(breaker), abody(tripped)
        for n in range(calls):
            with contextlib.suppress(ConnectionError):
                await call(n % 5 == 0)
        for _ in range(20):
            with contextlib.suppress(ConnectionError, resilient.CircuitOpen):
                await trip(True)

    with resilient.using(target.url, prefix=target.prefix):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        until(lambda: breaker.at().metrics().calls >= 8 * calls)  # the last flush has arrived
        metrics = breaker.at().metrics()
        assert (metrics.calls, metrics.failures) == (8 * calls, 8 * calls // 5)
        until(lambda: tripped.at().metrics().state is OPEN)
        assert changes == [("closed", "open")]


@pytest.mark.parametrize("target", ["memory", "sqlite", "redis"], indirect=True)
def test_hung_calls_open_it_while_they_hang(target: Target, changes: list[tuple[str, str]]) -> None:
    """20 calls that do not come back: open soon after they have become slow, none completed."""
    over = scaled(2000, 200) / 1000
    ended: list[list[tuple[str, str]]] = []
    with (
        Mode("async" if target.kind == "sqlite" else "sync") as mode,
        resilient.using(target.url, prefix=target.prefix),
    ):

        async def body() -> None:
            await mode.sleep(over + 1)
            ended.append(list(changes))

        call = mode.decorate(circuit_breaker("s", trip=SlowRate(0.5, over=over)), body)
        mode.together(*[call] * 20)
        if mode.is_async:
            mode.call(resilient.aclose)
    assert ended[0] == [("closed", "open")]


# --- keys and nodes


def test_ten_thousand_keys_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most three threads, two connections, and 2 kB a key.

    And when they are idle, no command for any of them, but for one a half minute by which the
    listening connection finds out whether it is still heard.
    """
    keys, weighed = 10_000, 2_000
    monkeypatch.setattr(background, "LINGER", 2.0)  # seconds, until what nobody uses is given back

    @circuit_breaker("service:{n}")
    def call(n: int) -> None:
        """Always well."""

    with redis_server() as server, resilient.using(server.url), server.client() as client:
        before = threading.active_count()
        call(-1)
        tracemalloc.start()
        try:
            for n in range(weighed):
                call(n)
            until(lambda: int(client.dbsize()) > weighed)
            time.sleep(0.3)  # what was on its way is gone
            gc.collect()
            each = tracemalloc.get_traced_memory()[0] / weighed
        finally:
            tracemalloc.stop()
        measured("10,000 keys", each * keys / 1e6, "MB")
        assert each <= 2_000
        for n in range(weighed, keys):
            call(n)
        until(lambda: int(client.dbsize()) >= keys)
        assert threading.active_count() <= before + 3
        time.sleep(0.5)
        quiet, began = _commands(client), time.monotonic()
        time.sleep(scaled(10, 1))
        until(lambda: _connections(client) <= 2)
        after, seconds = _commands(client), time.monotonic() - began
        pings = after.pop("cmdstat_ping", 0) - quiet.pop("cmdstat_ping", 0)
        assert after == quiet
        assert pings <= 1 + seconds / LULL


def _connections(client: Any) -> int:
    """How many there are, without the one that asks."""
    return sum(each["id"] != str(client.client_id()) for each in client.client_list())


def _commands(client: Any) -> dict[str, int]:
    """How often each command was given, but for those by which the test asks."""
    asks = {"cmdstat_info", "cmdstat_client|id", "cmdstat_client|list"}
    stats = client.info("commandstats")
    return {name: int(stat["calls"]) for name, stat in stats.items() if name not in asks}


@pytest.mark.parametrize("target", ["sqlite", "redis"], indirect=True)
def test_one_bad_node_opens_only_itself(target: Target) -> None:
    """One of ten nodes fails, with a quorum of two: nine stay closed, until a second one fails."""
    backends = [resolve(target.url, target.prefix) for _ in range(10)]
    mode = Mode("async" if target.kind == "sqlite" else "sync")
    nodes = [
        CircuitBreaker("s", trip=Consecutive(3), quorum=Quorum(2), backend=backend)
        for backend in backends
    ]

    def fail(node: CircuitBreaker) -> None:
        for _ in range(3):
            with pytest.raises(ConnectionError), mode.entered(node.guard()):
                raise ConnectionError

    with mode:
        for node in nodes:
            with mode.entered(node.guard()):
                pass
        fail(nodes[0])
        time.sleep(0.5)
        assert [node.at().state for node in nodes] == [OPEN] + [CLOSED] * 9
        fail(nodes[1])
        until(lambda: {node.at().state for node in nodes} == {OPEN})
        for backend in backends:
            mode.call(backend.aclose) if mode.is_async else backend.close()
