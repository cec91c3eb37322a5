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
from resilient.protocols.circuits import CircuitRules
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.postgres import PostgresAt

RULES = CircuitRules(100, 100, 0.5, None, 30.0, 5, 10.0, 600.0)


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


def is_call(request: bytes) -> bool:
    """Whether a function is called, by its name or as a prepared statement."""
    return b"resilient." in request or b"resilient_" in request


def test_a_lost_reply_is_asked_again(run: Run, proxy: FaultProxy, behind: PostgresBackend) -> None:
    """The server did it and the answer was lost: nobody notices, because asking twice is safe."""
    store = locks(behind)
    first = run(store.acquire("k", ttl=30, owner="ann"))
    run(store.release("k", owner="ann"))

    proxy.drop_reply_when(is_call)
    grant = run(store.acquire("k", ttl=30, owner="ann"))
    proxy.drop_reply_when(is_call)
    assert run(store.release("k", owner="ann", fence=grant.fence)) is True

    assert grant.fence > first.fence
    assert run(store.holder("k")) is None
    assert proxy.counts.dropped == 2


def test_a_count_is_not_sent_twice(run: Run, proxy: FaultProxy, behind: PostgresBackend) -> None:
    """An outcome whose report may have arrived is not counted again: the caller is told."""
    circuits = behind.require("circuits")
    run(circuits.record("k", rules=RULES, outcomes="1"))

    proxy.drop_reply_when(is_call)
    with pytest.raises(BackendError) as caught:
        run(circuits.record("k", rules=RULES, outcomes="0"))

    assert caught.value.transient
    assert run(circuits.view("k")).calls == 2


def test_a_silent_network(run: Run, proxy: FaultProxy, behind: PostgresBackend) -> None:
    """No answer is an error after the time for one operation, and all is well afterwards."""
    store = locks(behind)
    run(store.acquire("k", ttl=30, owner="ann"))

    proxy.blackhole()
    started = time.monotonic()
    with pytest.raises(BackendError, match="did not answer in time") as caught:
        run(store.renew("k", owner="ann", ttl=30))
    assert 0.9 < time.monotonic() - started < 5
    assert caught.value.transient

    proxy.restore()
    assert run(store.renew("k", owner="ann", ttl=30)) is True


def test_a_server_that_does_not_shake_hands(
    run: Run, proxy: FaultProxy, behind: PostgresBackend
) -> None:
    """Connecting is bounded too, where the port accepts and nobody speaks."""
    proxy.blackhole()

    with pytest.raises(BackendError) as caught:
        run(locks(behind).acquire("k", ttl=30))

    assert caught.value.transient


def test_connections_that_die_idle(run: Run, proxy: FaultProxy, behind: PostgresBackend) -> None:
    """Even what must not be sent twice survives a connection that died while it lay idle."""
    circuits = behind.require("circuits")
    run(circuits.record("k", rules=RULES, outcomes="1"))
    proxy.reset_all()
    time.sleep(1.1)

    assert run(circuits.record("k", rules=RULES, outcomes="0")).calls == 2


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

    proxy.drop_reply_when(is_call)
    assert drive(renewed())[:51] == [*ours, False]
    assert proxy.counts.dropped == 1
    proxy.refuse()
    assert all(isinstance(answer, BackendError) for answer in drive(renewed())[:51])
