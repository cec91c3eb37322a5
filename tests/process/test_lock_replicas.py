"""`replicas=`: a grant that survives the loss of the primary, or none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

import resilient
from resilient import distributed_lock
from resilient.backends.redis import locks
from tests.support.modes import Mode
from tests.support.servers import SYNC_AT_ONCE, RedisServer, redis_server

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and its replica."""
    with redis_server(config=SYNC_AT_ONCE) as primary, redis_server() as replica:
        replica.follow(primary)
        yield primary, replica


async def _nothing() -> int:
    return resilient.current_lease().fence


def test_a_grant_is_at_the_replica_before_the_body_runs(
    mode: Mode, servers: tuple[RedisServer, RedisServer], prefix: str
) -> None:
    """With as many replicas as asked for; where there are fewer, the lock is given back."""
    primary, replica = servers
    with resilient.using(primary.url, prefix=prefix):
        with mode.entered(resilient.lock("k", replicas=1)), replica.client() as client:
            assert client.exists(f"{prefix}lock:k")
        with (
            pytest.raises(resilient.BackendError, match="1 of 2 replicas"),
            mode.entered(resilient.lock("k", replicas=2)),
        ):
            pass
        info = resilient.lock("k").info()
        if mode.is_async:
            mode.call(resilient.aclose)
    assert info is None


def test_a_replica_that_stands_still_lets_nobody_in(
    mode: Mode, servers: tuple[RedisServer, RedisServer], prefix: str
) -> None:
    """The grant is taken back, so that nobody holds what a fail-over would forget."""
    primary, replica = servers
    locked = mode.decorate(resilient.distributed_lock("k", replicas=1), _nothing)
    with resilient.using(primary.url, prefix=prefix):
        with replica.paused(), pytest.raises(resilient.BackendError, match="0 of 1 replicas"):
            mode.call(locked)
        assert resilient.lock("k").info() is None
        assert mode.call(locked) > 0
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_wait_for_replicas_holds_up_nothing_else(
    servers: tuple[RedisServer, RedisServer], prefix: str
) -> None:
    """What the same loop asks meanwhile is answered at once: it has a connection of its own."""
    primary, _ = servers

    async def waits_and_asks() -> bool:
        async with resilient.lock("other"):  # connected
            pass
        waits = asyncio.ensure_future(resilient.lock("k", replicas=2).__aenter__())
        with primary.client() as client:
            for _ in range(10_000):
                if cast(dict[str, Any], client.info("clients"))["blocked_clients"]:
                    break
                await asyncio.sleep(0.001)
        for _ in range(3):
            async with resilient.lock("other"):
                pass
        answered_first = not waits.done()
        with pytest.raises(resilient.BackendError, match="1 of 2 replicas"):
            await waits
        await resilient.aclose()
        return answered_first

    with resilient.using(primary.url, prefix=prefix):
        assert asyncio.run(waits_and_asks())


def test_a_lock_that_is_handed_over_is_at_the_replicas_too(
    mode: Mode,
    servers: tuple[RedisServer, RedisServer],
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A waiter is let in by no holder's release before as many replicas have its grant."""
    monkeypatch.setattr(locks, "REPLICAS_WAIT", 50)
    primary, _ = servers
    with resilient.using(primary.url, prefix=prefix) as backend:
        for replicas, outcome in ((1, int), (2, resilient.BackendError)):
            waits = distributed_lock("k", wait=30, replicas=replicas)
            backend.sync.locks.acquire("k", ttl=60, owner="somebody")
            releasing = threading.Thread(target=released_when_waited_for, args=(backend,))
            releasing.start()
            locked = mode.decorate(waits, _nothing)
            (answer,) = mode.together(locked, return_exceptions=True)
            releasing.join()
            assert isinstance(answer, outcome), answer
            assert backend.sync.locks.holder("k") is None
        if mode.is_async:
            mode.call(resilient.aclose)


def released_when_waited_for(backend: Any) -> None:
    """Give the lock back as soon as somebody waits for it."""
    deadline = time.monotonic() + 20
    while backend.sync.locks.holder("k").waiters == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    backend.sync.locks.release("k", owner="somebody")


def test_nobody_waits_for_replicas_of_a_lock_that_is_held(
    mode: Mode, servers: tuple[RedisServer, RedisServer], prefix: str
) -> None:
    """There is no grant that they could have; what else is sent meanwhile is not held up."""
    primary, _ = servers

    def waits() -> int:
        with primary.client() as client:
            stats = cast(dict[str, Any], client.info("commandstats"))
        return int(stats.get("cmdstat_wait", {"calls": 0})["calls"])

    locked = mode.decorate(distributed_lock("k", wait=0, replicas=2), _nothing)
    with resilient.using(primary.url, prefix=prefix) as backend:
        backend.sync.locks.acquire("k", ttl=60, owner="somebody")
        before = waits()
        with pytest.raises(resilient.LockNotAcquired):
            mode.call(locked)
        assert waits() == before
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_fail_over_knows_who_holds_the_lock(prefix: str) -> None:
    """The new primary refuses others, lets the holder go on, and gives it a larger fence."""
    with redis_server(config=SYNC_AT_ONCE) as primary, redis_server() as replica:
        replica.follow(primary)
        with (
            resilient.using(primary.url, prefix=prefix),
            resilient.lock("k", ttl=60, replicas=1) as lease,
        ):
            token = lease.transfer()
        primary.kill()
        with replica.client() as client:
            client.replicaof("NO", "ONE")
        with resilient.using(replica.url, prefix=prefix):
            with pytest.raises(resilient.LockNotAcquired), resilient.lock("k", wait=0):
                pass
            with resilient.lock("k").adopted(token) as adopted:
                assert adopted.fence > lease.fence
            with resilient.lock("k", wait=0) as later:
                assert later.fence > adopted.fence


def test_where_there_are_no_replicas_nothing_is_promised() -> None:
    """A backend that has none says so, and does not run the body."""
    with (
        resilient.using("memory://"),
        pytest.raises(resilient.CapabilityMissing, match="replicas=1"),
        resilient.lock("k", replicas=1),
    ):
        pass
