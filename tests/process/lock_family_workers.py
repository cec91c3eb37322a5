"""Crowds at the lock family; a directory, which knows nothing of locks, tells who is inside."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import resilient
from tests.process.lock_crowd_workers import warmed
from tests.support.forks import forked

KEYS = ("a", "b", "c", "d", "e")
OPTIONS: Any = {"ttl": 5, "wait": 60}


class Room:
    """Who is inside of what: a file each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def entered(self, name: str, allowed: Callable[[list[str]], bool]) -> Iterator[None]:
        """Be inside; a violation is whoever else is inside and may not be."""
        own = self._path / name
        own.touch(exist_ok=False)
        inside = os.listdir(self._path)
        try:
            assert allowed(inside), f"{inside} are inside together"
            yield
        finally:
            own.unlink()


Visit = tuple[Any, list[tuple[Room, str, Callable[[list[str]], bool]]]]
"""What to lock, and which rooms it opens."""


def alone(inside: list[str]) -> bool:
    """Nobody else is here."""
    return len(inside) == 1


def several_locks(path: Path, who: str, chance: random.Random) -> Visit:
    """A random subset of the locks."""
    keys = chance.sample(KEYS, chance.randint(1, 3))
    return resilient.lock_all(*keys, **OPTIONS), [(Room(path / key), who, alone) for key in keys]


def semaphore(path: Path, who: str, chance: random.Random) -> Visit:
    """One of three permits."""
    room = (Room(path), who, lambda inside: len(inside) <= 3)
    return resilient.semaphore("s", limit=3, **OPTIONS), [room]


def read_write(path: Path, who: str, chance: random.Random) -> Visit:
    """A reader mostly, a writer sometimes."""
    if chance.random() < 0.3:
        return resilient.write_lock("k", **OPTIONS), [(Room(path), f"writer-{who}", alone)]
    readers_only = lambda inside: not any(n.startswith("writer") for n in inside)  # noqa: E731 - a fact by its name
    return resilient.read_lock("k", **OPTIONS), [(Room(path), f"reader-{who}", readers_only)]


VISITS = {"lock_all": several_locks, "semaphore": semaphore, "read_write": read_write}


def crowd(
    kind: str, url: str, prefix: str, mode: str, members: int, seconds: float, path: str
) -> list[Any]:
    """Visit again and again, in many processes (threads on memory): how often, or what failed."""
    ready = (threading if url.startswith("memory") else multiprocessing).Barrier(members)
    outcomes = Path(path) / "outcomes"
    outcomes.mkdir()

    def member(number: int) -> None:
        try:
            ready.wait(60)
            end = time.monotonic() + seconds
            done: Any = _visits(kind, mode, number, end, Path(path) / "rooms")
        except BaseException as error:
            done = repr(error)
        (outcomes / str(number)).write_text(str(done))

    def in_process(number: int) -> None:
        resilient.configure(url, prefix=prefix)
        member(number)

    if url.startswith("memory"):
        resilient.configure(url, prefix=prefix)
        threads = [threading.Thread(target=member, args=(n,)) for n in range(members)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        warmed(url)
        for pid in [forked(partial(in_process, number), lifetime=0) for number in range(members)]:
            os.waitpid(pid, 0)
    return [(outcomes / str(number)).read_text() for number in range(members)]


def _visits(kind: str, mode: str, number: int, end: float, path: Path) -> int:
    chance, visit = random.Random(number), VISITS[kind]

    def inside(rooms: list[Any]) -> None:
        if not rooms:
            time.sleep(0.001)
            return
        room, who, allowed = rooms[0]
        with room.entered(who, allowed):
            inside(rooms[1:])

    async def asynchronous() -> int:
        count = 0
        while time.monotonic() < end:
            lock, rooms = visit(path, str(number), chance)
            async with lock:
                inside(rooms)
            count += 1
        await resilient.aclose()
        return count

    if mode == "async":
        return asyncio.run(asynchronous())
    count = 0
    while time.monotonic() < end:
        lock, rooms = visit(path, str(number), chance)
        with lock:
            inside(rooms)
        count += 1
    return count
