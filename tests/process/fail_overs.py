"""What a fail-over must leave true, whoever sees to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import resilient
from resilient.errors import BackendError
from tests.process import fail_over_workers as workers
from tests.support.processes import group
from tests.support.servers import RedisServer

__all__ = ["survives"]


def survives(
    url: str,
    prefix: str,
    primary: RedisServer,
    replica: RedisServer,
    await_promotion: Callable[[], None],
) -> None:
    """The primary dies while locks are held that the replica has, and such as it has not."""
    modes = ("sync", "async")
    calls = [(url, prefix, mode) for mode in modes]
    with group(workers.hold, calls) as holders, resilient.using(url, prefix=prefix):
        kept = [holder.wait_for("kept") for holder in holders]
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(_wait), threads.submit(asyncio.run, _await())]
            with replica.lagging():
                for holder in holders:
                    holder.send()
                gone = [holder.wait_for("gone") for holder in holders]
                primary.kill()
            await_promotion()
            for mode, fence in zip(modes, gone, strict=True):
                with resilient.lock(f"gone-{mode}", ttl=30, wait=0) as lease:
                    assert lease.fence > fence
            assert [holder.wait_for("over", 60) for holder in holders] == kept
            for mode, fence in zip(modes, kept, strict=True):
                held = resilient.lock(f"kept-{mode}").info()
                assert held is not None
                assert held.fence == fence
            for holder in holders:
                holder.send()
            assert [holder.result(30) for holder in holders] == [{"told": True}] * 2
            after = [each.result(60) for each in waiting]
        assert all(new > old for new, old in zip(after, kept, strict=True))


def _wait() -> int:
    """The fence of the sync lock that is kept, whatever happens while it is waited for."""
    while True:
        try:
            with resilient.lock("kept-sync", ttl=30, wait=20) as lease:
                return lease.fence
        except BackendError:  # an outage that is longer than an operation's own patience
            time.sleep(0.1)


async def _await() -> int:
    """The same of the async one."""
    while True:
        try:
            async with resilient.lock("kept-async", ttl=30, wait=20) as lease:
                fence = lease.fence
            await resilient.aclose()
            return fence
        except BackendError:
            await asyncio.sleep(0.1)
