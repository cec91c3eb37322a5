"""Crowds that want one lock: a nursery process forks them, so that they start at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import resilient
from tests.support.forks import forked

Take = Callable[[], Any]
"""Makes a context manager that holds the lock; its value may have a fence."""


def taker(kind: str, url: str, prefix: str, ttl: float) -> Take:
    """This library's lock (fair, barging, or on the SQLite of that URL), another's, or a token."""
    if kind in ("resilient", "async", "barging"):
        resilient.configure(url, prefix=prefix)
        return lambda: resilient.lock(kind, ttl=ttl, wait=60, fair=kind != "barging")
    if kind.startswith("sqlite:"):
        return lambda: resilient.lock("k", ttl=ttl, wait=60, backend=kind)
    if kind == "async blpop":
        from redis.asyncio import Redis

        return partial(_async_token, Redis.from_url(url), prefix + "token")
    import redis

    client = redis.Redis.from_url(url)
    if kind == "redis-py":
        return lambda: client.lock(prefix + "k", timeout=ttl, blocking_timeout=60)
    if kind == "python-redis-lock":
        import redis_lock

        return lambda: redis_lock.Lock(client, prefix + "k", expire=max(1, round(ttl)))
    return lambda: _token(client, prefix + "token")


@contextlib.contextmanager
def _token(client: Any, key: str) -> Iterator[None]:
    """The least that a lock can be: a token in a list, lost for ever with whoever has it."""
    client.blpop([key])
    try:
        yield
    finally:
        client.rpush(key, "token")


@contextlib.asynccontextmanager
async def _async_token(client: Any, key: str) -> AsyncIterator[None]:
    """As `_token`."""
    await client.blpop([key])
    try:
        yield
    finally:
        await client.rpush(key, "token")


def warmed(url: str) -> None:
    """Import what the children will use, so that none of them has to."""

    resilient.configure(url)
    resilient.close()


def hammer(
    kinds: list[str], url: str, prefix: str, processes: int, seconds: float, rounds: int, path: str
) -> list[dict[str, list[list[float]]]]:
    """Many processes take a lock for 1 ms again and again, one kind of lock after the other.

    Returns:
        Of each process, of each kind, of each round: how long it waited, each time.
    """
    ready = multiprocessing.Barrier(processes)

    def child(number: int) -> None:
        turns = {kind: turns_of(kind, url, prefix) for kind in kinds}
        for taking in turns.values():
            taking(0.001)  # connected, and every script known
        waits: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, taking in turns.items():
                ready.wait(60)
                waits[kind].append(taking(seconds))
        Path(f"{path}.{number}").write_text(json.dumps(waits))

    warmed(url)
    for pid in [forked(partial(child, number), lifetime=0) for number in range(processes)]:
        os.waitpid(pid, 0)
    return [json.loads(Path(f"{path}.{number}").read_text()) for number in range(processes)]


def turns_of(kind: str, url: str, prefix: str) -> Callable[[float], list[float]]:
    """Takes a lock for so many seconds, again and again; `"async..."`: in an event loop."""
    take = taker(kind, url, prefix, 10)
    if not kind.startswith("async"):
        return partial(waited, take)
    runner = asyncio.Runner()
    return lambda seconds: runner.run(awaited(take, seconds))


async def awaited(take: Take, seconds: float) -> list[float]:
    """As `waited`, in an event loop."""
    waits: list[float] = []
    end = time.monotonic() + seconds
    while (asked := time.monotonic()) < end:
        async with take():
            waits.append(time.monotonic() - asked)
            await asyncio.sleep(0.001)
    return waits


def waited(take: Take, seconds: float) -> list[float]:
    """Take it for 1 ms as often as is possible: how long each took to be had."""
    waits: list[float] = []
    end = time.monotonic() + seconds
    while (asked := time.monotonic()) < end:
        with take():
            waits.append(time.monotonic() - asked)
            time.sleep(0.001)
    return waits


def storm(kind: str, url: str, prefix: str, seconds: float, ttl: float, path: str) -> None:
    """Six processes take the lock for 1 ms again and again, and one is killed every 0.3 s."""
    warmed(url)
    chance = random.Random(11)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def child() -> None:
        take = taker(kind, url, prefix, ttl)
        while True:
            with take() as lease:
                fence = getattr(lease, "fence", 0)
                os.write(file, f"{fence} {time.monotonic()}\n".encode())
                time.sleep(0.001)

    pids = [forked(child, lifetime=0) for _ in range(6)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.3)
        victim = chance.randrange(6)
        os.kill(pids[victim], signal.SIGKILL)
        os.waitpid(pids[victim], 0)
        pids[victim] = forked(child, lifetime=0)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
