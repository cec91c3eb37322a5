"""What a fail-over must leave true, whoever sees to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import resilient
from resilient.errors import BackendError
from tests.process import fail_over_workers as workers
from tests.process.carried_on import await_stored, carry_on, check_carried_on
from tests.support.modes import ModeName
from tests.support.processes import group
from tests.support.servers import RedisServer

__all__ = ["await_replicated", "survives"]


def survives(
    url: str,
    prefix: str,
    primary: RedisServer,
    replica: RedisServer,
    await_promotion: Callable[[], None],
    *,
    mode: ModeName,
) -> None:
    """The primary dies while locks are held that the replica has, and such as it has not.

    And while all else is at work, in one `mode`, which the replica has when it begins.
    """
    modes = ("sync", "async")
    calls = [(url, prefix, each) for each in modes]
    with (
        group(workers.hold, calls) as holders,
        group(carry_on, [(url, prefix, mode)]) as (worker,),
        resilient.using(url, prefix=prefix) as backend,
    ):
        kept = [holder.wait_for("kept") for holder in holders]
        for what in ("charging", "counting"):
            worker.wait_for(what)
        await_stored(backend)
        await_replicated(primary, prefix)
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(_wait), threads.submit(asyncio.run, _await())]
            with replica.lagging():
                for holder in holders:
                    holder.send()
                gone = [holder.wait_for("gone") for holder in holders]
                primary.kill()
            await_promotion()
            for name, fence in zip(modes, gone, strict=True):
                with resilient.lock(f"gone-{name}", ttl=30, wait=0) as lease:
                    assert lease.fence > fence
            assert [holder.wait_for("over", 60) for holder in holders] == kept
            for name, fence in zip(modes, kept, strict=True):
                held = resilient.lock(f"kept-{name}").info()
                assert held is not None
                assert held.fence == fence
            for holder in holders:
                holder.send()
            assert [holder.result(30) for holder in holders] == [{"told": True}] * 2
            after = [each.result(60) for each in waiting]
            worker.send()
            check_carried_on(backend, worker.result(60))
        assert all(new > old for new, old in zip(after, kept, strict=True))


def await_replicated(primary: RedisServer, prefix: str) -> None:
    """Wait until its replica has all that it has: `WAIT` goes by the asker's own writes."""
    with primary.client() as client:
        client.set(f"{prefix}mark", 1, px=60_000)
        assert client.wait(1, 20_000) == 1


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
