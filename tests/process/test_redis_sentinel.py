"""Redis behind sentinels: the primary dies, or is replaced, while locks are held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import sentinel
from redis.asyncio import sentinel as async_sentinel

from resilient.backends.redis import from_client, from_url
from resilient.engine.backend import Backend
from resilient.errors import BackendError, ConfigurationError
from resilient.testing.conformance import Run
from tests.process.fail_overs import survives
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
    survives(servers.url, prefix, servers.primary, servers.replica, servers.await_promotion)


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
