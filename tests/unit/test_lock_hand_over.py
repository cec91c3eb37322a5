"""A lock that is handed over: what comes with the wake-up may be too old to be true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import lock
from resilient.engine.clock import ManualClock, installed

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


async def waited_for(store: Any, key: str) -> None:
    """Return once somebody waits for a lock."""
    deadline = time.monotonic() + PATIENCE
    while store.holder(key).waiters == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_what_was_handed_over_too_long_ago_is_asked_for_again(
    store: Any, clock: ManualClock
) -> None:
    """The loop stood still for longer than a gift lives, and somebody else has the lock since."""
    seen: list[str] = []

    async def body() -> None:
        async with lock("k", wait=100) as lease:
            seen.append("the waiter")
            assert store.holder("k").owner == lease.owner
            assert not lease.lost

    async def main() -> None:
        store.acquire("k", owner="first", ttl=30)
        waiting = asyncio.create_task(body())
        await waited_for(store, "k")
        assert store.release("k", owner="first")  # the gift is on its way
        clock.advance(3)
        assert store.acquire("k", owner="third", ttl=30).owner == "third"
        await waited_for(store, "k")
        seen.append("the third")
        assert store.release("k", owner="third")
        await waiting

    asyncio.run(main())
    assert seen == ["the third", "the waiter"]


def test_a_late_gift_that_is_still_held_is_kept(store: Any, clock: ManualClock) -> None:
    """It is asked for once more, under the same fence, and lives for the whole TTL again."""

    async def body() -> tuple[int, float]:
        async with lock("k", ttl=30, wait=100) as lease:
            return lease.fence, lease.remaining()

    async def main() -> None:
        store.acquire("k", owner="first", ttl=30)
        waiting = asyncio.create_task(body())
        await waited_for(store, "k")
        store.release("k", owner="first")
        given = store.holder("k").fence
        clock.advance(1.9)
        fence, left = await waiting
        assert fence == given
        assert 29 < left <= 30

    asyncio.run(main())
