"""What the processes of the lock tests do."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import Any

import resilient
from tests.process.lock_crowd_workers import taker
from tests.support.forks import in_child
from tests.support.processes import Worker, receive, tell


def increment(url: str, prefix: str, mode: str, path: str, times: int, fair: bool) -> list[int]:
    """Read, add one and write, under the lock, many times; the fences in order."""
    resilient.configure(url, prefix=prefix)
    counter = Path(path)

    def section(fence: int) -> int:
        value = int(counter.read_text())
        counter.write_text(str(value + 1))
        with open(f"{path}.fences", "a") as fences:
            fences.write(f"{fence}\n")
        return fence

    if mode == "sync":
        return [_locked(section, fair) for _ in range(times)]

    async def many() -> list[int]:
        return [await _alocked(section, fair) for _ in range(times)]

    return asyncio.run(many())


def _locked(section: Any, fair: bool) -> int:
    with resilient.lock("counter", wait=120, fair=fair) as lease:
        return int(section(lease.fence))


async def _alocked(section: Any, fair: bool) -> int:
    async with resilient.lock("counter", wait=120, fair=fair) as lease:
        return int(section(lease.fence))


def hold(url: str, prefix: str, ttl: float, mode: str) -> str:
    """Hold the lock until told to go on; what becomes of it."""
    resilient.configure(url, prefix=prefix)
    try:
        if mode == "sync":
            with resilient.lock("k", ttl=ttl, wait=30) as lease:
                tell("holding", lease.fence)
                receive(60)
                tell("lost", lease.lost)
        else:
            asyncio.run(_ahold(ttl))
    except resilient.LeaseLost as error:
        return f"lost {error.fence}"
    return "released"


async def _ahold(ttl: float) -> None:
    async with resilient.lock("k", ttl=ttl, wait=30) as lease:
        tell("holding", lease.fence)
        try:
            await asyncio.to_thread(receive, 60)
        finally:
            tell("lost", lease.lost)


def take(url: str, prefix: str, ttl: float, wait: float, mode: str) -> list[float]:
    """Take the lock once: when it was granted on the machine's clock, and its fence."""
    resilient.configure(url, prefix=prefix)
    tell("ready")
    receive(60)

    async def locked() -> list[float]:
        async with resilient.lock("k", ttl=ttl, wait=wait) as lease:
            return [time.monotonic(), lease.fence]

    if mode == "async":
        return asyncio.run(locked())
    with resilient.lock("k", ttl=ttl, wait=wait) as lease:
        return [time.monotonic(), lease.fence]


def hand_over(kinds: list[str], url: str, prefix: str) -> None:
    """Take one of several locks when told which, and give it back when told; tell when."""
    takes = {kind: taker(kind, url, prefix, 10) for kind in kinds}
    while (kind := receive(60)) is not None:
        tell("asks")
        with takes[kind]():
            tell("has it", time.monotonic())
            receive(60)
            given = time.monotonic()
        tell("gave it", given)


def handed_over(kind: str, holder: Worker, waiter: Worker, held: float) -> float:
    """Seconds from one worker's release to the other's grant, who has waited for so many by then.

    To be called by who has started the two, with `hand_over`.
    """
    holder.send(kind)
    holder.wait_for("has it")
    waiter.send(kind)
    waiter.wait_for("asks")
    time.sleep(held)
    holder.send()
    granted: float = waiter.wait_for("has it")
    waiter.send()
    waiter.wait_for("gave it")
    given: float = holder.wait_for("gave it")
    return granted - given


def fork_inside(url: str, prefix: str) -> dict[str, Any]:
    """Fork while holding a lock and a connection: the child's way out frees nothing."""
    backend = resilient.configure(url, prefix=prefix)
    report: dict[str, Any] = {}
    with resilient.lock("k", ttl=5) as lease:
        report["child"] = in_child(partial(_child, lease))
        report["still held"] = backend.sync.locks.is_held("k", owner=lease.owner)
        report["lost"] = lease.lost
    report["free after"] = resilient.lock("k").info() is None
    return report


def _child(lease: resilient.LockLease) -> None:
    """In the child: the lease is not ours, and the backend works on sockets of our own."""
    try:
        lease.release()
        raise AssertionError("the child has released the lock of its parent")
    except resilient.LeaseLost:
        pass
    try:
        with resilient.lock("k", wait=0):
            raise AssertionError("the child holds the lock beside its parent")
    except resilient.LockNotAcquired:
        pass
    with resilient.lock("other", wait=0) as own:
        assert own.remaining() > 0
