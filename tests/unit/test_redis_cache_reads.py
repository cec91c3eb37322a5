"""How values are read from a server: by plain commands where they are, by the script where not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.protocols.cache import Entry, Leased
from resilient.protocols.values import Encoded
from tests.support.servers import RedisAt, RedisServer

ONE, TWO = Encoded(b"one"), Encoded(b"two")


@pytest.fixture
def backend(redis_server: RedisServer, prefix: str) -> Iterator[RedisBackend]:
    """A backend of one process."""
    backend = from_url(redis_server.url, prefix=prefix)
    yield backend
    backend.close()


def calls(server: RedisAt, command: str) -> int:
    """How often the server ran a command."""
    with server.client() as client:
        stats = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {}).get("calls", 0))


def filled(backend: RedisBackend, tags: tuple[str, ...] = ()) -> None:
    """Compute the value."""
    cache = backend.require("cache")
    assert isinstance(drive(cache.fetch("k", owner="ann", lease=30, tags=tags)), Leased)
    assert drive(cache.fill("k", ONE, owner="ann", ttl=30, tags=tags))


def test_a_hit_runs_no_script(redis_server: RedisServer, backend: RedisBackend) -> None:
    """What this process has seen is read by MGET, in one round trip, its tags included."""
    filled(backend, ("t",))
    cache = backend.require("cache")
    drive(cache.fetch("k", owner="bob", lease=30, tags=("t",)))
    before = calls(redis_server, "evalsha"), calls(redis_server, "mget")
    with redis_server.round_trips() as trips:
        for _ in range(10):
            found = drive(cache.fetch("k", owner="bob", lease=30, tags=("t",)))
            assert isinstance(found, Entry)
            assert (found.value, 0 < found.fresh <= found.ttl <= 30) == (ONE, True)
    assert trips.count == 10
    assert calls(redis_server, "evalsha") == before[0]
    assert calls(redis_server, "mget") >= before[1] + 10


def test_a_value_that_is_gone(
    redis_server: RedisServer, backend: RedisBackend, prefix: str
) -> None:
    """What another process deleted, or the server lost, is a miss that comes with a lease."""
    cache = backend.require("cache")
    other = from_url(redis_server.url, prefix=prefix)
    elsewhere = other.require("cache")
    filled(backend)
    drive(elsewhere.delete("k"))
    filled(backend)
    with redis_server.client() as client:
        client.delete(f"{prefix}cache:k")
    filled(backend)
    drive(elsewhere.expire("k"))
    again = drive(cache.fetch("k", owner="bob", lease=30))
    other.close()
    assert isinstance(again, Leased)
    assert again.stale is not None
    assert (again.stale.value, again.stale.ttl < 0) == (ONE, True)


def test_tags_that_are_gone(redis_server: RedisServer, backend: RedisBackend, prefix: str) -> None:
    """A tag that is invalidated, or that the server has evicted, makes what is seen a miss."""
    cache = backend.require("cache")
    filled(backend, ("t",))
    drive(cache.invalidate_tags(["t"]))
    filled(backend, ("t",))
    with redis_server.client() as client:
        assert client.delete(f"{prefix}cache-tag:t") == 1
    filled(backend, ("t",))


def test_a_foreign_value_is_none(
    redis_server: RedisServer, backend: RedisBackend, prefix: str
) -> None:
    """What another program wrote under the key is a miss, and replaced."""
    cache = backend.require("cache")
    with redis_server.client() as client:
        client.set(f"{prefix}cache:k", b"short")
    assert drive(cache.get("k")) is None
    filled(backend)
    drive(cache.set("k", TWO, ttl=30))
    found = drive(cache.get("k"))
    assert found is not None
    assert found.value == TWO
