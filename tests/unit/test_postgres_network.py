"""A network before PostgreSQL that is slow, silent or gone, and what is sent twice then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from resilient.backends.postgres import PostgresBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Together
from resilient.errors import BackendError, ConfigurationError
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.network import BadNetwork
from tests.support.postgres import PostgresAt


@pytest.fixture(name="postgres_server")
def _on_every_version(every_postgres: PostgresAt) -> PostgresAt:
    """All of these tests run on every version that is installed."""
    return every_postgres


@pytest.fixture
def url(postgres_server: PostgresAt) -> str:
    """Of the shared server."""
    return postgres_server.url


@pytest.fixture
def behind(
    run: Run, proxy: FaultProxy, postgres_server: PostgresAt, prefix: str
) -> Iterator[PostgresBackend]:
    """A backend behind that network, that waits for a second."""
    direct = from_url(postgres_server.url, prefix=prefix)
    drive(locks(direct).holder("k"))  # the tables are there: making them may take longer
    direct.close()
    backend = from_url(f"{proxy.url}?timeout=1&connect_timeout=1", prefix=prefix)
    with run.closing(backend):
        yield backend


def locks(backend: PostgresBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


class TestBadNetwork(BadNetwork):
    """Whatever is lost, silent or broken between us and PostgreSQL.

    Functions are called by their names, or as prepared statements.
    """

    calls = (b"resilient.", b"resilient_")


def test_renewals_are_one_trip(proxy: FaultProxy, behind: PostgresBackend) -> None:
    """All leases of a tick are renewed at once, each for itself; a lost answer is asked again."""
    store = locks(behind)
    for number in range(50):
        drive(store.acquire(f"k{number}", ttl=30, owner="ann"))

    async def renewed() -> list[Any]:
        ours = [store.renew(f"k{number}", owner="ann", ttl=30) for number in range(50)]
        theirs = store.renew("k0", owner="bob", ttl=30)
        wrong = store.renew("k0\ud800", owner="ann", ttl=30)
        return await Together([*ours, theirs, wrong])

    drive(renewed())
    proxy.latency(0.1)
    began = time.monotonic()
    *ours, theirs, wrong = drive(renewed())
    took = time.monotonic() - began
    proxy.latency(0)

    assert ours == [True] * 50
    assert theirs is False
    assert isinstance(wrong, ConfigurationError)
    assert took < 50 * 0.1, "one after the other, they wait for the network each"

    proxy.drop_reply_when(TestBadNetwork().is_call)
    assert drive(renewed())[:51] == [*ours, False]
    assert proxy.counts.dropped == 1
    proxy.refuse()
    assert all(isinstance(answer, BackendError) for answer in drive(renewed())[:51])
