"""`@cached` on Redis under fire: lost connections, lost data, invalidations at any moment."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import LocalCache, cached
from resilient.backends.redis import from_url
from resilient.backends.redis.cache_records import BORN
from resilient.engine.drivers.sync import drive
from resilient.engine.flights import Flights
from resilient.testing.faults import FaultProxy
from tests.support.fixtures import TARGETS, Target, alternating
from tests.support.modes import Mode
from tests.support.scale import best_of, measured, scaled
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

BATCH = 1000
LARGE = 8_000_000
HEARD = 3.0
"""Seconds after which a change was not heard of, however busy the machine is."""
COPIES = """
local record = redis.call('GET', KEYS[1])
local start = string.gsub(KEYS[1], '%-1$', '')
for n = ARGV[1], ARGV[2] do redis.call('SET', start .. string.format('%d', n), record) end
"""
"""Stores the value of the call `-1` as that of many others."""


@pytest.mark.parametrize("how", ["killed", "black hole"])
def test_a_lost_connection(redis_server: RedisServer, prefix: str, mode: Mode, how: str) -> None:
    """Nothing that is older than 2 s is served by a process that has gone deaf; it recovers in 3 s.

    Both as shares of that: what notices it is a thread, which a busy machine may keep waiting.
    """

    def share(attempt: int) -> float:
        stale, deaf = seconds_lost(redis_server, f"{prefix}{attempt}:", mode, how)
        measured(f"{mode} {how}: an old value was served for", stale, "s")
        measured(f"{mode} {how}: back after", deaf, "s")
        return max(stale / 2, deaf / 3)

    assert best_of(share, 1, f"{mode} {how}: of what is allowed", "") <= 1


def seconds_lost(server: RedisServer, prefix: str, mode: Mode, how: str) -> tuple[float, float]:
    """For how long an old value is served without a connection, and none is kept after that."""
    source = ["old"]

    async def f() -> str:
        return source[0]

    other = from_url(server.url, prefix=prefix).require("cache")
    with (
        FaultProxy(server.url) as proxy,
        resilient.using(f"{proxy.url}?socket_timeout=1", prefix=prefix),
    ):
        read = mode.decorate(cached("k", ttl=600, local=LocalCache(ttl=600)), f)
        entries = cached.of(read)
        assert [mode.call(read), mode.call(read)] == ["old", "old"]
        assert entries.stats().local_hits >= 1
        assert entries.stats().max_staleness == 2.0
        if how == "killed":
            proxy.refuse()
        else:
            proxy.blackhole()
        source[0] = "new"
        drive(other.delete(entries.key()))  # past the proxy: it is not heard
        began = asked = time.monotonic()
        while mode.call(read) == "old":
            time.sleep(0.005)
            asked = time.monotonic()
        restored = time.monotonic()
        if how == "killed":
            proxy.accept()
        else:
            proxy.restore()
        hits = entries.stats().local_hits
        while entries.stats().local_hits == hits:
            assert mode.call(read) == "new"
            assert time.monotonic() - restored < 30.0
            time.sleep(0.005)
        return asked - began, time.monotonic() - restored


def test_flushed_server(redis_server: RedisServer, prefix: str, mode: Mode) -> None:
    """A server that has lost everything, or the tags alone, causes misses and nothing stale."""
    source = [0]

    async def f() -> int:
        return source[0]

    with resilient.using(redis_server.url, prefix=prefix):
        read = mode.decorate(cached("k", ttl=600, local=None, tags=("t",)), f)
        for lost in ("everything", "tags", "tag"):
            assert mode.call(read) == source[0]
            source[0] += 1
            assert mode.call(read) == source[0] - 1, "it is kept, until it is lost"
            with redis_server.client() as client:
                if lost == "everything":
                    client.flushdb()
                else:
                    pattern = "cache-tag:*" if lost == "tags" else "cache-tag:t"
                    assert client.delete(*client.keys(f"{prefix}{pattern}")) >= 1
            assert mode.call(read) == source[0], lost


@alternating("sync", TARGETS)
def test_invalidations_at_any_moment(mode: Mode, shared_target: Target) -> None:
    """Keys, tags, namespaces, at random points of computations: no later read is stale."""
    assert stale_reads(mode, shared_target, "auto") == 0


@alternating("async", TARGETS)
def test_invalidations_at_any_moment_without_a_layer(mode: Mode, shared_target: Target) -> None:
    """The same where every read asks the backend."""
    assert stale_reads(mode, shared_target, None) == 0


def stale_reads(mode: Mode, target: Target, local: Any) -> int:
    """Invalidate a value again and again while two others read it: how often it was read stale."""
    chance = random.Random(7)
    source, done = [0], [False]

    async def f() -> int:
        seen = source[0]
        if chance.random() < 0.5:
            await mode.sleep(chance.random() * 0.002)
        return seen

    read = mode.decorate(cached("k", ttl=600, local=local, tags=("t",)), f)
    entries = cached.of(read)
    tagged = resilient.ainvalidate_tags if mode.is_async else resilient.invalidate_tags
    ways: list[Callable[[], Any]] = [entries.invalidate, entries.clear, partial(tagged, "t")]

    async def keep_reading() -> int:
        while not done[0]:
            await mode.within(read)
            await mode.sleep(0.0005)
        return 0

    async def keep_invalidating() -> int:
        stale = 0
        try:
            for _ in range(scaled(10_000 / 4, 100)):
                await mode.sleep(chance.random() * 0.002)
                source[0] += 1
                await mode.within(chance.choice(ways))
                stale += await mode.within(read) < source[0]
        finally:
            done[0] = True
        return stale

    callers = map(mode.function, (keep_invalidating, keep_reading, keep_reading))
    with resilient.using(target.url, prefix=target.prefix):
        return sum(mode.together(*callers, timeout=110))


def stays_stale(server: RedisServer, prefix: str, rounds: int) -> bool:
    """Read a value of 8 MB while another client changes it; whether the old one ever stayed."""
    chance = random.Random(8)

    def f() -> bytes:
        return b"computed"

    with resilient.using(server.url, prefix=prefix), server.client() as client:
        read = cached(ttl=600, local=LocalCache(ttl=600), backend_timeout="10s")(f)
        entries = cached.of(read)
        name = f"{prefix}cache:{entries.key()}"

        def record(value: bytes) -> bytes:
            entries.at().set(value)
            stored: Any = client.get(name)
            return bytes(stored)

        old, new = record(b"x" * LARGE), record(b"new")
        born = int(old[:BORN])
        assert read() == b"new"
        for number in range(rounds):
            client.set(name, b"%d" % (born + number) + old[BORN:])
            while entries.stats().local_size:
                time.sleep(0.0005)
            reader = threading.Thread(target=read)
            reader.start()
            time.sleep(chance.random() * 0.01)
            if number % 2:
                client.delete(name)
            else:
                client.set(name, new)
            reader.join()
            changed = time.monotonic()
            while read() not in (b"new", b"computed"):
                if time.monotonic() > changed + HEARD:
                    return True
                time.sleep(0.001)
    return False


def test_a_large_value_that_is_changed_while_it_is_read(
    redis_server: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before a foreign write is not kept after it; without the flight it would be."""
    assert not stays_stale(redis_server, prefix, scaled(200, 15))
    monkeypatch.setattr(Flights, "there", lambda self, key, born: None)
    assert stays_stale(redis_server, f"{prefix}control:", 200)


def test_a_large_namespace_is_cleared(redis_server: RedisServer, prefix: str) -> None:
    """However many there are: by the function's control or by hand one command, no scan, ≤ 1 ms."""
    entries = scaled(1_000_000, 20_000)

    def f(n: int) -> str:
        return "computed"

    with resilient.using(redis_server.url, prefix=prefix) as backend:
        read = cached("{n}", ttl=600, local=None, namespace="large")(f)
        read(-1)
        key = cached.of(read).key(-1)
        with redis_server.client() as client:
            for start in range(0, entries, BATCH):
                client.eval(COPIES, 1, f"{prefix}cache:{key}", str(start), str(start + BATCH - 1))
        assert cached.of(read).peek(entries - 1) == "computed"
        others = f"another application's {prefix}cache:{key}"
        with redis_server.client() as client:
            client.set(others, "its value", ex=600)
        by_hand = partial(backend.sync.cache.invalidate_tags, ["@large"])
        best = float("inf")
        ways: list[Callable[[], Any]] = [cached.of(read).clear, by_hand]
        for clear in ways * 5:
            with redis_server.client() as client:
                server: Any = client
                server.config_resetstat()
                clear()
                stats = client.info("commandstats")
            ran = {name.removeprefix("cmdstat_"): each for name, each in stats.items()}
            assert ran["evalsha"]["calls"] == 1
            assert not ran.keys() & {"keys", "scan", "flushdb", "flushall", "unlink", "del"}
            best = min(best, ran["evalsha"]["usec"])
        measured(f"{entries} entries cleared in", best, "µs of the server's")
        assert best <= 1000
        with redis_server.client() as client:
            assert client.get(others) == b"its value"
        for n in (0, entries // 2, entries - 1, -1):
            assert cached.of(read).peek(n) is resilient.MISSING
        assert read(entries - 1) == "computed"
