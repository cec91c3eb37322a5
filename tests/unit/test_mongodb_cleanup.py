"""Clean-up on MongoDB decides nothing: what has expired is gone, swept or not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient.backends.mongodb import MongoBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.protocols.cache import Busy, Entry, Leased
from resilient.protocols.checkpoints import Started
from resilient.protocols.circuits import CircuitRules, CircuitState
from resilient.protocols.values import Encoded
from tests.support.mongodb import MongoAt

ONE, SHORT = Encoded(b"one"), 0.05
RULES = CircuitRules(
    window=10, min_calls=1, failure_rate=0.5, consecutive=None, open_for=0.01, permits=1,
    lease=30, ttl=SHORT,
)  # fmt: skip

Expire = Callable[[], None]


@pytest.fixture
def backend(mongo: MongoAt) -> Iterator[MongoBackend]:
    """A backend in a database of its own."""
    backend = from_url(f"{mongo.url}?timeout=60")  # large values, on a busy machine
    yield backend
    backend.close()


@pytest.fixture(params=["as it lies", "swept"])
def expire(request: pytest.FixtureRequest, mongo: MongoAt) -> Expire:
    """Let what is short-lived expire; the server removes it at once, or much later."""

    def wait() -> None:
        time.sleep(2 * SHORT)
        if request.param == "swept":
            with mongo.client() as client:
                database = client.get_default_database()
                for name in database.list_collection_names():
                    database[name].delete_many({})

    return wait


def test_cache(backend: MongoBackend, expire: Expire) -> None:
    """The next one computes, under a later fence, and the late value of the first is refused."""
    cache = backend.require("cache")
    first = drive(cache.fetch("k", owner="ann", lease=30, tags=["t"]))
    drive(cache.fill("k", ONE, owner="ann", ttl=SHORT, tags=["t"]))
    late = drive(cache.fetch("late", owner="ann", lease=SHORT))
    expire()
    for key, before in (("k", first), ("late", late)):
        assert drive(cache.get(key)) is None
        next_one = drive(cache.fetch(key, owner="bob", lease=30, tags=["t"]))
        assert isinstance(next_one, Leased)
        assert (next_one.stale, next_one.fence > before.fence) == (None, True)
        assert drive(cache.fill(key, ONE, owner="ann", ttl=30)) is False
        assert isinstance(drive(cache.fetch(key, owner="cid", lease=30, tags=["t"])), Busy)


def test_lost_tags_make_misses(backend: MongoBackend, mongo: MongoAt) -> None:
    """A tag that the server has lost brings nothing back that it once made a miss."""
    cache = backend.require("cache")
    drive(cache.set("old", ONE, ttl=30, tags=["t"]))
    drive(cache.invalidate_tags(["t"]))
    with mongo.client() as client:
        client.get_default_database()["resilient.tags"].delete_many({})
    assert drive(cache.get("old")) is None
    drive(cache.set("new", ONE, ttl=30, tags=["t"]))
    assert isinstance(drive(cache.get("new")), Entry)
    assert drive(cache.get("old")) is None


def test_jobs(backend: MongoBackend, expire: Expire) -> None:
    """A job that has expired begins anew, under a later fence and in another life."""
    jobs = backend.require("checkpoints")
    first = drive(jobs.start("j", owner="ann", lease=30, ttl=30))
    drive(jobs.save("j", ONE, fence=first.fence, ttl=30))
    drive(jobs.finish("j", ONE, fence=first.fence, ttl=SHORT))
    expire()
    assert drive(jobs.latest("j")) is None
    assert drive(jobs.delete("j")) is False
    again = drive(jobs.start("j", owner="bob", lease=30, ttl=30))
    assert isinstance(again, Started)
    assert (again.attempt, again.checkpoint, dict(again.steps)) == (1, None, {})
    assert (again.fence > first.fence, again.life > first.life) == (True, True)
    assert drive(jobs.save("j", ONE, fence=first.fence, ttl=30)) is None
    assert drive(jobs.finish("j", ONE, fence=first.fence, ttl=30)) is False


def test_circuits(backend: MongoBackend, expire: Expire) -> None:
    """A circuit that has expired is closed, and its generation is never used again."""
    circuits = backend.require("circuits")
    opened = drive(circuits.record("c", rules=RULES, outcomes="1"))
    assert opened.state is CircuitState.OPEN
    expire()
    seen = drive(circuits.view("c"))
    assert (seen.state, seen.generation) == (CircuitState.CLOSED, 0)
    late = {"rules": RULES, "generation": opened.generation}
    assert drive(circuits.record("c", outcomes="1", **late)).calls == 0
    again = drive(circuits.record("c", rules=RULES, outcomes="0"))
    assert (again.state, again.generation > opened.generation) == (CircuitState.CLOSED, True)


def test_a_value_larger_than_a_document(
    backend: MongoBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not cached, the next one need not wait, and the log says why."""
    cache: Any = backend.require("cache")
    drive(cache.fetch("k", owner="ann", lease=30))
    with caplog.at_level(logging.WARNING, "resilient"):
        assert drive(cache.fill("k", Encoded(bytes(17 << 20)), owner="ann", ttl=30)) is False
    assert "'k' is not cached" in caplog.text
    assert isinstance(drive(cache.fetch("k", owner="bob", lease=30)), Leased)
    drive(cache.fill("k", Encoded(bytes(15 << 20)), owner="bob", ttl=30))
    assert isinstance(drive(cache.get("k")), Entry)
