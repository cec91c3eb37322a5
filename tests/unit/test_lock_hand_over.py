"""Waiting for a lock: what comes with a wake-up may be too old, and the server may be away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

import resilient
from resilient import BackendError, distributed_lock, lock
from resilient.engine.clock import ManualClock, installed
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


# --- the server is away


def away_for(
    seconds: float, after: int, backend: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have attempts to take a lock fail for so many seconds from now, but for the first ones."""
    acquire, until, attempts = backend.locks.acquire, clock.now() + seconds, count(1)

    async def failing(key: str, **options: Any) -> Any:
        if next(attempts) > after and clock.now() < until:
            raise BackendError("the server is away")
        return await acquire(key, **options)

    monkeypatch.setattr(backend.locks, "acquire", failing)


@pytest.mark.parametrize(
    ("wait", "after", "granted", "least", "most"),
    [
        pytest.param(30, 2, True, 6, 30, id="waits for long enough"),
        pytest.param(None, 2, True, 6, 30, id="waits for ever"),
        pytest.param(3, 2, False, 3, 6, id="waits for less"),
        pytest.param(30, 0, False, 2, 4, id="away from the first"),
    ],
)
def test_who_waits_outlasts_an_outage(
    mode: Mode,
    monkeypatch: pytest.MonkeyPatch,
    wait: float | None,
    after: int,
    granted: bool,
    least: float,
    most: float,
) -> None:
    """Six seconds without a server: `wait=` says for how long somebody who waits is patient."""
    clock = ManualClock(patience=0.001)
    with installed(clock), resilient.using("memory://") as backend:
        backend.sync.locks.acquire("k", owner="first", ttl=5)
        began = clock.now()
        away_for(6, after, backend, clock, monkeypatch)

        async def body() -> None:
            pass

        locked = mode.decorate(distributed_lock("k", wait=wait), body)
        with contextlib.nullcontext() if granted else pytest.raises(BackendError):
            mode.call(locked)
        assert least <= clock.now() - began < most
        assert backend.sync.locks.holder("k") is None or not granted
