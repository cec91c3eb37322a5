"""Redis behind sentinels: how it is given, and who is asked for the primary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from redis import sentinel
from redis.asyncio import sentinel as async_sentinel

from resilient.backends.redis import from_client, from_url
from resilient.engine.backend import Backend, Mode
from resilient.errors import BackendError, ConfigurationError
from resilient.testing.conformance import Run
from tests.support.sentinels import SERVICE, Sentinels, sentinels

Sentinel: Any = sentinel.Sentinel  # its methods have no annotations
AsyncSentinel: Any = async_sentinel.Sentinel


@pytest.fixture(scope="module")
def servers() -> Iterator[Sentinels]:
    """A primary, its replica, and a sentinel that can do nothing by itself."""
    with sentinels(watchers=1) as group:
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
    with run.closing(backend), pytest.raises(BackendError, match="No master found") as caught:
        run(locks(backend).acquire("k", ttl=30))
    assert "'other'" in str(caught.value)
    assert "redis.connection" not in str(caught.value)  # nothing of what clients are made of
    manager = Sentinel(servers.places)
    with pytest.raises(ConfigurationError, match=r"use Sentinel\.master_for\('mymaster'\)"):
        from_client(manager.slave_for(SERVICE))
    with pytest.raises(ConfigurationError, match=r"master_for\(\)"):
        from_client(manager)


@pytest.mark.parametrize(("mode", "told"), [("sync", True), ("async", False)])
def test_a_primary_is_replaced(mode: Mode, told: bool, prefix: str) -> None:
    """Who is connected to it is led to the new one, and no call fails.

    One that does not know of it refuses writes too, if it must have a replica.
    """
    run = Run(mode)
    with sentinels(watchers=1) as servers:
        backend = from_url(servers.url, prefix=prefix)
        with run.closing(backend):
            run(locks(backend).acquire("k", ttl=60, owner="ann"))
            with servers.primary.client() as client:
                client.wait(1, 10_000)
                client.config_set("min-replicas-to-write", 1)
            servers.exchange(told=told)
            if not told:
                with servers.replica.client() as client:
                    while cast(Any, client.info("replication"))["connected_slaves"]:
                        time.sleep(0.01)
            run(locks(backend).acquire("l", ttl=60, owner="ann"))
            assert run(locks(backend).renew("k", owner="ann", ttl=60))
            with servers.primary.client() as client:
                assert client.exists(f"{prefix}lock:k", f"{prefix}lock:l") == 2
    run.close()
