"""What lies on the server: nothing for ever, fences that outlive everything, tags that get lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.errors import ConfigurationError
from resilient.protocols.circuits import CircuitRules, CircuitState
from resilient.protocols.locks import LOCK, LockMode, semaphore_of
from resilient.protocols.values import Encoded
from tests.support.servers import RedisAt, RedisServer

RULES = CircuitRules(10, 2, 0.5, 3, 0.001, 2, 10.0, 600.0)
VALUE = Encoded(b"value")


@pytest.fixture
def backend(every_redis: RedisAt, prefix: str) -> Iterator[RedisBackend]:
    """A backend on each kind of server."""
    backend = from_url(every_redis.url, prefix=prefix)
    yield backend
    backend.close()


def use_locks(backend: RedisBackend) -> None:
    """Every operation of the locks."""
    locks = backend.require("locks")
    drive(locks.acquire("k", ttl=30, owner="ann"))
    drive(locks.acquire("k", ttl=30, owner="bob", waiter="channel|bob"))
    drive(locks.renew("k", owner="ann", ttl=60))
    drive(locks.release("k", owner="ann"))
    drive(locks.acquire("l", ttl=30 * 86400.0, owner="ann"))
    drive(locks.acquire("l", ttl=30, owner="bob", waiter="channel|bob"))
    drive(locks.force_release("l"))
    drive(locks.acquire("m", ttl=30, owner="ann"))
    drive(locks.acquire("m", ttl=30, owner="bob", waiter="channel|bob"))
    drive(locks.acquire("m", ttl=30, owner="cid", waiter="channel|cid"))
    drive(locks.withdraw("m", owner="ann", waiter="channel|ann"))
    drive(locks.withdraw("n", owner="ann", waiter="channel|ann"))


def test_a_queue_of_the_dead_leaves_nothing(
    backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """Those who died waiting are passed over, and nothing else knew of them."""
    locks = backend.require("locks")
    with every_redis.client() as client:
        drive(locks.acquire("k", ttl=60, owner="ann"))
        before = set(client.keys(f"*{prefix}*"))
        (memory,) = client.keys(f"*{prefix}*:memory")
        known = client.hkeys(memory)
        for number in range(5):
            drive(locks.acquire("k", ttl=30, owner=f"bob{number}", waiter=f"gone|{number}"))
        (queue,) = client.keys(f"*{prefix}*:waiters")
        assert set(client.keys(f"*{prefix}*")) == before | {queue}
        assert (client.zcard(queue), client.hkeys(memory)) == (5, known)
        drive(locks.release("k", owner="ann"))
        assert drive(locks.holder("k")) is None
        assert not client.exists(queue)
        assert set(client.hkeys(memory)) == {*known, b"released"}


@pytest.mark.parametrize("mode", [LOCK, semaphore_of(3)], ids=["lock", "semaphore"])
def test_the_memory_of_a_lock_outlives_every_hold(
    backend: RedisBackend, every_redis: RedisAt, prefix: str, mode: LockMode
) -> None:
    """Each renewal has it live for longer, so that the next fence is larger than this one."""
    locks = backend.require("locks")
    with every_redis.client() as client:
        drive(locks.acquire("k", ttl=60, owner="ann", mode=mode))
        (memory,) = client.keys(f"*{prefix}*:memory")
        client.pexpire(memory, 60_000)  # held for almost as long as it lives
        assert drive(locks.renew("k", owner="ann", ttl=60, mode=mode))
        assert client.pttl(memory) > 86_400_000


def use_circuits(backend: RedisBackend) -> None:
    """Every operation of the circuits, through all states."""
    circuits = backend.require("circuits")
    drive(circuits.record("k", rules=RULES, outcomes="01"))
    time.sleep(0.005)
    admission = drive(circuits.admit("k", rules=RULES, token="a"))
    generation = admission.view.generation
    drive(circuits.report("k", rules=RULES, token="a", generation=generation, outcome="0"))
    drive(circuits.admit("k", rules=RULES, token="b"))
    drive(circuits.record("l", rules=RULES, outcomes="0"))
    drive(circuits.force("m", CircuitState.OPEN))
    drive(circuits.force("n", CircuitState.HALF_OPEN, rules=RULES))


def use_cache(backend: RedisBackend) -> None:
    """Every operation of the cache."""
    cache = backend.require("cache")
    drive(cache.fetch("k", owner="ann", lease=30, tags=["red"]))
    drive(cache.fetch("k", owner="bob", lease=30, tags=["blue"], waiter="channel|bob"))
    drive(cache.renew("k", owner="ann", lease=60))
    drive(cache.fill("k", VALUE, owner="ann", ttl=30, tags=["red", "green"]))
    drive(cache.set("l", VALUE, tags=["red", "white"]))
    drive(cache.fetch("m", owner="ann", lease=30))
    drive(cache.fetch("n", owner="ann", lease=30))
    drive(cache.fetch("n", owner="bob", lease=30, waiter="channel|bob"))
    drive(cache.abandon("n", owner="ann"))
    drive(cache.invalidate_tags(["red", "black"]))


def use_idempotency(backend: RedisBackend) -> None:
    """Every operation of the idempotency store."""
    store = backend.require("idempotency")
    drive(store.claim("k", owner="ann", lease=30, ttl=60))
    drive(store.claim("k", owner="bob", lease=30, ttl=60, waiter="channel|bob"))
    drive(store.renew("k", owner="ann", lease=600))
    drive(store.complete("k", owner="ann", result=VALUE, ttl=60))
    drive(store.claim("l", owner="ann", lease=30, ttl=60))
    drive(store.claim("l", owner="bob", lease=30, ttl=60, waiter="channel|bob"))
    drive(store.abandon("l", owner="ann"))
    drive(store.claim("m", owner="ann", lease=30, ttl=60))
    drive(store.delete("m"))


def use_checkpoints(backend: RedisBackend) -> None:
    """Every operation of the checkpoints."""
    store = backend.require("checkpoints")
    started = drive(store.start("k", owner="ann", lease=30, ttl=60))
    drive(store.start("k", owner="bob", lease=30, ttl=60, waiter="channel|bob"))
    for _ in range(7):
        drive(store.save("k", VALUE, fence=started.fence, keep=3, lease=30))
    drive(store.step("k", "one", VALUE, fence=started.fence, ttl=90, lease=30))
    drive(store.renew("k", owner="ann", lease=600))
    drive(store.trim("k", keep=2))
    drive(store.finish("k", VALUE, fence=started.fence, ttl=60))
    drive(store.save("l", VALUE))
    drive(store.start("m", owner="ann", lease=30, ttl=60))
    drive(store.stop("m", owner="ann"))
    started = drive(store.start("n", owner="ann", lease=30, ttl=60))
    drive(store.step("n", "one", VALUE, fence=started.fence, ttl=90, lease=30))
    drive(store.delete("n"))
    drive(store.save("o", VALUE))
    drive(store.trim("o", keep=0))
    drive(store.delete("o"))


@pytest.mark.parametrize(
    "use", [use_locks, use_circuits, use_cache, use_idempotency, use_checkpoints]
)
def test_nothing_is_kept_for_ever(
    use: Any, backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """Whatever is done, every key that is left has a time to live."""
    use(backend)

    with every_redis.client() as client:
        left = {name: client.pttl(name) for name in client.scan_iter(f"*{prefix}*", count=10_000)}
    assert left
    assert {name: ttl for name, ttl in left.items() if not 0 < ttl < 63 * 86_400_000} == {}


def test_fences_survive_the_loss_of_all_data(private_redis: RedisServer) -> None:
    """A flushed server never gives a fence, or a generation, that it gave before."""
    backend = from_url(private_redis.url, prefix="")

    def fences() -> list[int]:
        cache, circuits = backend.require("cache"), backend.require("circuits")
        return [
            drive(backend.require("locks").acquire("k", ttl=30, owner="ann")).fence,
            drive(cache.fetch("k", owner="ann", lease=30)).fence,
            drive(circuits.force("k", CircuitState.OPEN)).generation,
            drive(backend.require("idempotency").claim("k", owner="ann", lease=30, ttl=60)).fence,
            drive(backend.require("checkpoints").start("k", owner="ann", lease=30, ttl=60)).fence,
        ]

    before = fences()
    with private_redis.client() as client:
        client.flushall()
    after = fences()
    backend.close()

    assert all(late > early for early, late in zip(before, after, strict=True))


def test_fences_grow_although_the_clock_stands_behind(
    backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """After a fail-over to a server whose clock is late: larger than the last one all the same."""
    locks = backend.require("locks")
    drive(locks.acquire("k", ttl=30, owner="ann"))
    drive(locks.release("k", owner="ann"))
    ahead = 9_000_000_000_000_000
    with every_redis.client() as client:
        client.hset(f"{{{prefix}lock:k}}:memory", "fence", ahead)

    assert drive(locks.acquire("k", ttl=30, owner="bob")).fence == ahead + 1


def test_a_lost_tag_is_a_miss(backend: RedisBackend, every_redis: RedisAt, prefix: str) -> None:
    """A tag that the server evicted may have been invalidated: its values are not served."""
    cache = backend.require("cache")
    drive(cache.set("k", VALUE, ttl=30, tags=["red", "blue"]))
    assert drive(cache.get("k")) is not None
    with every_redis.client() as client:
        assert client.delete(f"{prefix}cache-tag:red") == 1

    assert drive(cache.get("k")) is None
    assert not drive(cache.has("k"))
    # The next one who wants it begins the tag anew, and what lies there stays a miss.
    leased = drive(cache.fetch("k", owner="ann", lease=30, tags=["red", "blue"]))
    assert leased.fence > 0
    assert drive(cache.get("k")) is None
    assert drive(cache.fill("k", VALUE, owner="ann", ttl=30, tags=["red", "blue"]))
    assert drive(cache.get("k")) is not None


def test_a_tag_that_the_lease_did_not_name(backend: RedisBackend) -> None:
    """Tags may be known only when the value is: they begin with it."""
    cache = backend.require("cache")
    drive(cache.fetch("k", owner="ann", lease=30))
    assert drive(cache.fill("k", VALUE, owner="ann", ttl=30, tags=["late"])) is True
    assert drive(cache.get("k")) is not None

    drive(cache.invalidate_tags(["late"]))

    assert drive(cache.get("k")) is None


def test_an_invalidation_meanwhile_wins(backend: RedisBackend) -> None:
    """Also under a tag that nobody had named before it was invalidated."""
    cache = backend.require("cache")
    drive(cache.fetch("k", owner="ann", lease=30))
    drive(cache.invalidate_tags(["late"]))

    assert drive(cache.fill("k", VALUE, owner="ann", ttl=30, tags=["late"])) is False
    assert drive(cache.get("k")) is None


def test_tags_live_as_long_as_their_values(
    backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """A long-lived value keeps its tags; a short-lived one does not shorten them."""
    cache = backend.require("cache")
    year = 365 * 86400.0
    drive(cache.fetch("k", owner="ann", lease=30, tags=["red"]))
    drive(cache.fill("k", VALUE, owner="ann", ttl=year, tags=["red"]))
    drive(cache.set("l", VALUE, ttl=1, tags=["red"]))
    drive(cache.invalidate_tags(["red"]))

    with every_redis.client() as client:
        assert client.ttl(f"{prefix}cache-tag:red") > year - 10


def test_keys_of_other_tenants_are_left_alone(every_redis: RedisAt, prefix: str) -> None:
    """Clearing and listing keep to the prefix, whatever characters it has."""
    one = from_url(every_redis.url, prefix=f"{prefix}a*:")
    other = from_url(every_redis.url, prefix=f"{prefix}ab:")
    for backend in (one, other):
        drive(backend.require("cache").set("k", VALUE, ttl=30))

    assert drive(one.require("cache").clear()) == 1

    assert drive(one.require("cache").keys()) == []
    assert drive(other.require("cache").keys()) == ["k"]
    one.close()
    other.close()


def test_many_keys(backend: RedisBackend) -> None:
    """More than one step of a scan."""
    cache = backend.require("cache")
    for number in range(1500):
        drive(cache.set(f"k{number:04}", VALUE, ttl=30))

    assert sorted(drive(cache.keys("k00*"))) == [f"k{number:04}" for number in range(100)]
    assert len(drive(cache.keys())) == 1500
    assert drive(cache.clear()) == 1500
    assert drive(cache.keys()) == []


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_times_that_make_no_sense(ttl: float, backend: RedisBackend) -> None:
    """Refused before anything is sent."""
    with pytest.raises(ConfigurationError, match="ttl="):
        drive(backend.require("locks").acquire("k", ttl=ttl))
    with pytest.raises(ConfigurationError, match="ttl="):
        drive(backend.require("cache").set("k", VALUE, ttl=ttl))


def test_a_key_that_is_no_text(backend: RedisBackend) -> None:
    """Half a surrogate pair has no UTF-8 form."""
    with pytest.raises(ConfigurationError, match="UTF-8"):
        drive(backend.require("locks").acquire("\ud800", ttl=30))


def test_an_expired_job_comes_not_back(
    backend: RedisBackend, every_redis: RedisAt, prefix: str
) -> None:
    """What is left of a job that expired belongs to no later job of its name."""
    store = backend.require("checkpoints")
    started = drive(store.start("k", owner="ann", lease=30, ttl=60))
    drive(store.save("k", VALUE, fence=started.fence, sequence=1))
    drive(store.step("k", "one", VALUE, fence=started.fence, ttl=60, lease=30))
    with every_redis.client() as client:
        assert client.delete(f"{prefix}checkpoint-run:k") == 1

    assert drive(store.latest("k")) is None
    assert drive(store.load("k", 1)) is None
    again = drive(store.start("k", owner="bob", lease=30, ttl=60))
    assert (again.checkpoint, dict(again.steps), again.attempt) == (None, {}, 1)
    assert again.fence > started.fence
    assert drive(store.save("k", VALUE, fence=started.fence, sequence=1)) is None
