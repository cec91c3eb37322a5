"""How many commands an operation on MongoDB is: one, but where the comment says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient.backends.mongodb import MongoBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.protocols.cache import Filling
from resilient.protocols.circuits import CircuitRules, CircuitState
from resilient.protocols.values import Encoded
from tests.support.mongodb import MongoAt

ONE, DAY = Encoded(b"one"), 86400.0
RULES = CircuitRules(
    window=10, min_calls=2, failure_rate=0.5, consecutive=None, open_for=0.001, permits=1,
    lease=30, ttl=60,
)  # fmt: skip


class Counted:
    """A store whose methods are called in this thread, and count what they send."""

    def __init__(self, backend: MongoBackend, capability: Any) -> None:
        self._backend = backend
        self._store = backend.require(capability)
        self.sent: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            before = self._backend.commands
            answer = drive(getattr(self._store, name)(*args, **options))
            self.sent.append((name, self._backend.commands - before))
            return answer

        return call


@pytest.fixture
def backend(mongo: MongoAt) -> Iterator[MongoBackend]:
    """A backend in a database of its own."""
    backend = from_url(mongo.url)
    yield backend
    backend.close()


def test_circuits(backend: MongoBackend) -> None:
    """All of them, however many outcomes there are, and in whatever state the circuit is."""
    circuits = Counted(backend, "circuits")
    circuits.view("c")
    circuits.record("c", rules=RULES, outcomes="0001110001" * 20)
    seen = circuits.record("c", rules=RULES, outcomes="11")
    circuits.admit("c", rules=RULES, token="t")
    circuits.report("c", rules=RULES, token="t", generation=seen.generation, outcome="0")
    circuits.force("c", CircuitState.FORCED_OPEN)
    circuits.restore("c", rules=RULES, view=seen)
    assert len(circuits.history("c")) >= 2
    circuits.delete("c")
    assert {count for _, count in circuits.sent} == {1}


def test_jobs(backend: MongoBackend) -> None:
    """All of them, also a start that resumes."""
    jobs = Counted(backend, "checkpoints")
    fence = jobs.start("j", owner="ann", lease=30, ttl=DAY).fence
    jobs.start("j", owner="bob", lease=30, ttl=DAY)
    jobs.renew("j", owner="ann", lease=30)
    jobs.save("j", ONE, fence=fence, sequence=1, ttl=DAY, lease=30)
    jobs.save("j", ONE, fence=fence, ttl=DAY)
    jobs.step("j", "s", ONE, fence=fence, ttl=DAY)
    jobs.runner("j")
    jobs.cancel("j")
    jobs.stop("j", owner="ann")
    again = jobs.start("j", owner="bob", lease=30, ttl=DAY)
    assert (again.checkpoint.data, dict(again.steps)) == (ONE, {"s": ONE})
    jobs.finish("j", ONE, fence=again.fence, ttl=DAY)
    for look in (jobs.runner, jobs.steps, jobs.latest, jobs.list):
        look("j")
    jobs.load("j", 1)
    jobs.rewind("j", 1)
    jobs.trim("j", keep=0)
    jobs.delete("j")
    assert {count for _, count in jobs.sent} == {1}


def test_jobs_beside_their_document(backend: MongoBackend) -> None:
    """A large state is written, and then pointed at; the one that it replaces is removed."""
    jobs, large = Counted(backend, "checkpoints"), Encoded(bytes(1 << 20))
    fence = jobs.start("j", owner="ann", lease=30, ttl=DAY).fence
    jobs.save("j", large, fence=fence, keep=1, ttl=DAY)
    jobs.save("j", large, fence=fence, keep=1, ttl=DAY)
    jobs.start("j", owner="ann", lease=30, ttl=DAY)  # which reads it too
    assert [count for _, count in jobs.sent] == [1, 2, 3, 2]


def test_cache(backend: MongoBackend) -> None:
    """A hit is one, with tags too; a miss is a look and a lease, for a hit is in nobody's way."""
    cache = Counted(backend, "cache")
    cache.fetch("k", owner="ann", lease=30)
    cache.fill("k", ONE, owner="ann", ttl=DAY)
    cache.fetch("k", owner="bob", lease=30)
    cache.get("k")
    cache.fetch_many(["k", "k2", "k3"], owner="ann", lease=30)
    cache.fill_many([Filling("k2", ONE, DAY), Filling("k3", ONE, DAY)], owner="ann")
    cache.fetch_many(["k", "k2", "k3"], owner="bob", lease=30)
    cache.fetch("k4", owner="ann", lease=30)
    cache.renew("k4", owner="ann", lease=30)
    cache.abandon("k4", owner="ann")
    cache.set("k", ONE, ttl=DAY)
    cache.expire("k")
    cache.delete("k")
    cache.invalidate_tags(["t1", "t2", "t3"])
    assert cache.sent == [
        *(("fetch", 2), ("fill", 1), ("fetch", 1), ("get", 1)),
        *(("fetch_many", 3), ("fill_many", 2), ("fetch_many", 1)),
        *(("fetch", 2), ("renew", 1), ("abandon", 1), ("set", 1), ("expire", 1), ("delete", 1)),
        ("invalidate_tags", 1),
    ]


def test_cache_with_tags(backend: MongoBackend) -> None:
    """A fill reads the tags, which are documents of their own; a new tag is one command more."""
    cache = Counted(backend, "cache")
    cache.fetch("k", owner="ann", lease=30, tags=["new"])
    cache.fill("k", ONE, owner="ann", ttl=DAY, tags=["new"])
    cache.fetch("k", owner="bob", lease=30, tags=["new"])
    cache.fetch("k2", owner="ann", lease=30, tags=["new"])
    cache.set("k", ONE, ttl=DAY, tags=["new"])
    cache.delete("k")
    assert [count for _, count in cache.sent] == [3, 2, 1, 2, 2, 2]
