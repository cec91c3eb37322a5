"""`lock_all`: what becomes of several locks when one is entered again, lost, or cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import distributed_lock, lock_all
from resilient.engine.clock import ManualClock, installed
from resilient.protocols.locks import Held
from resilient.testing.conformance import Run
from tests.support.fixtures import Target
from tests.support.modes import Mode

PATIENCE = 20.0
"""Seconds that a waiter waits for a signal before the clock moves by itself: never, here."""


@pytest.fixture(name="clock")
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock(patience=PATIENCE)
    with installed(clock):
        yield clock


@pytest.fixture(name="store")
def _store(clock: ManualClock) -> Iterator[Any]:
    with resilient.using("memory://") as backend:
        yield backend.sync.locks


def test_one_of_several_locks_is_entered_again(mode: Mode, store: Any) -> None:
    """The inner end leaves it to the outer, and who looks through the outer leases finds an end."""

    async def nothing() -> None:
        return None

    again = mode.decorate(distributed_lock("a", reentrant=True, wait=0), nothing)
    other = mode.decorate(distributed_lock("c", reentrant=True, wait=0), nothing)

    async def body() -> bool:
        await mode.within(again)
        await mode.within(other)
        return store.holder("a") is None

    def under_all() -> Any:
        with lock_all("a", "b"):
            return mode.function(body)()

    async def aunder_all() -> Any:
        async with lock_all("a", "b"):
            return await body()

    assert mode.call(aunder_all if mode.is_async else under_all) is False
    assert store.holder("a") is None


def test_several_locks_of_which_one_is_lost_before_the_last_is_had(
    store: Any, clock: ManualClock
) -> None:
    """The body does not begin, and none of them is held."""
    ran: list[object] = []

    async def body() -> None:
        async with lock_all("a", "b", ttl=30, wait=100):
            ran.append(1)

    async def main() -> None:
        store.acquire("b", owner="somebody", ttl=1000)
        waiting = asyncio.create_task(body())
        deadline = time.monotonic() + PATIENCE
        while store.holder("b").waiters == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        clock.advance(31)
        store.release("b", owner="somebody")
        with pytest.raises(resilient.LeaseLost, match="'a'"):
            await waiting

    asyncio.run(main())
    assert ran == []
    assert store.holder("b") is None


GONE = {"memory": "gone", "redis": "gone:signal:0|waiter", "postgres": "rsl_gone|waiter"}
"""The addresses of waiters whose processes are gone."""


@pytest.mark.parametrize("every_target", list(GONE), indirect=True)
def test_the_dead_keep_nobody_from_several_locks(every_target: Target) -> None:
    """A lock that has expired is theirs who wait for it, as far as they still do."""
    with resilient.using(every_target.url, prefix=every_target.prefix) as backend:
        locks = backend.sync.locks
        locks.acquire("k", ttl=30, owner="ann")
        locks.acquire("k", ttl=30, owner="gone", waiter=GONE[every_target.kind])
        locks.renew("k", owner="ann", ttl=0.1)  # only now: that one must not have come too late
        deadline = time.monotonic() + 8.0  # before the place of the dead one is over by itself
        while locks.holder("k") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)

        grants = locks.acquire_all(["k", "z"], ttl=30, owner="cid")

        assert isinstance(grants, list)
        assert [grant.owner for grant in grants] == ["cid", "cid"]
        assert [locks.holder(key).owner for key in ("k", "z")] == ["cid", "cid"]


@pytest.mark.parametrize("every_target", ["memory", "redis", "postgres"], indirect=True)
def test_who_has_waited_longer_comes_before_several_locks(every_target: Target) -> None:
    """Who still waits is handed the lock that has expired, and is told."""
    with resilient.using(every_target.url, prefix=every_target.prefix) as backend:
        locks, run = backend.sync.locks, Run("sync")
        waiter, address = run.listen(backend)
        locks.acquire("k", ttl=0.1, owner="ann")
        locks.acquire("k", ttl=30, owner="bob", waiter=address)
        deadline = time.monotonic() + 8.0
        while locks.holder("k") is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)

        assert isinstance(locks.acquire_all(["z", "k"], ttl=30, owner="cid"), Held)

        assert run.wait(waiter, 10)
        assert locks.is_held("k", owner="bob")
        assert locks.holder("z") is None
