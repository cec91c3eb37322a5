"""Redis behind sentinels: the primary dies, or is replaced, while locks are held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import sentinel
from redis.asyncio import sentinel as async_sentinel

import resilient
from resilient.backends.redis import from_client, from_url
from resilient.engine.backend import Backend
from resilient.errors import BackendError, ConfigurationError
from resilient.testing.conformance import Run
from tests.process import fail_over_workers as workers
from tests.support.processes import group
from tests.support.sentinels import SERVICE, Sentinels, sentinels

Sentinel: Any = sentinel.Sentinel  # its methods have no annotations
AsyncSentinel: Any = async_sentinel.Sentinel

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def servers() -> Iterator[Sentinels]:
    """A primary, its replica, and three sentinels."""
    with sentinels() as group:
        yield group


def locks(backend: Backend) -> Any:
    """Its locks."""
    return backend.require("locks")


@pytest.mark.parametrize("kind", ["url", "blocking", "async", "pair"])
def test_clients(run: Run, kind: str, servers: Sentinels, prefix: str) -> None:
    """A URL, or what `master_for` makes, serves both kinds of callers at the primary."""
    blocking = Sentinel(servers.places).master_for(SERVICE)
    asynchronous = AsyncSentinel(servers.places).master_for(SERVICE)
    given: dict[str, Any] = {
        "blocking": blocking,
        "async": asynchronous,
        "pair": (blocking, asynchronous),
    }
    backend = (
        from_url(servers.url, prefix=prefix)
        if kind == "url"
        else from_client(given[kind], prefix=prefix)
    )
    with run.closing(backend):
        run(locks(backend).acquire("k", ttl=30, owner="ann"))
        waiter, address = run.listen(backend)
        run(locks(backend).acquire("k", ttl=30, owner="bob", waiter=address))
        run(locks(backend).release("k", owner="ann"))
        assert run.wait(waiter, 10)
        with servers.primary.client() as client:
            assert client.hget(f"{prefix}lock:k", "owner") == b"bob"


def test_what_sentinels_do_not_know(run: Run, servers: Sentinels) -> None:
    """Another service is none; nor is what reads from replicas, or a `Sentinel` by itself."""
    backend = from_url(servers.url.replace(SERVICE, "other"), prefix="")
    with run.closing(backend), pytest.raises(BackendError, match="No master found for 'other'"):
        run(locks(backend).acquire("k", ttl=30))
    manager = Sentinel(servers.places)
    with pytest.raises(ConfigurationError, match=r"use Sentinel\.master_for\('mymaster'\)"):
        from_client(manager.slave_for(SERVICE))
    with pytest.raises(ConfigurationError, match=r"master_for\(\)"):
        from_client(manager)


def test_a_primary_dies_while_locks_are_held(servers: Sentinels, prefix: str) -> None:
    """What the replica had is kept and goes on to who waits; the loss of what it had not is told.

    Until its holder hears of that, both it and the next one believe to hold that lock: this is what
    asynchronous replication can lose. The fence of the next one is higher nevertheless, so that
    the late writes of the first are refused.
    """
    modes = ("sync", "async")
    calls = [(servers.url, prefix, mode) for mode in modes]
    with group(workers.hold, calls) as holders, resilient.using(servers.url, prefix=prefix):
        kept = [holder.wait_for("kept") for holder in holders]
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(_wait), threads.submit(asyncio.run, _await())]
            with servers.replica.lagging():
                for holder in holders:
                    holder.send()
                gone = [holder.wait_for("gone") for holder in holders]
                servers.primary.kill()
            servers.await_promotion()
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


def test_a_primary_becomes_a_replica(run: Run, prefix: str) -> None:
    """Who is connected to it is led to the new one, and no call fails."""
    with sentinels(watchers=1) as servers:
        backend = from_url(servers.url, prefix=prefix)
        with run.closing(backend):
            run(locks(backend).acquire("k", ttl=60, owner="ann"))
            with servers.primary.client() as client:
                client.wait(1, 10_000)
            servers.exchange()
            run(locks(backend).acquire("l", ttl=60, owner="ann"))
            assert run(locks(backend).renew("k", owner="ann", ttl=60))
            with servers.primary.client() as client:
                assert client.exists(f"{prefix}lock:k", f"{prefix}lock:l") == 2
