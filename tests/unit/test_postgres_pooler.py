"""Behind a real PgBouncer in transaction mode: a session belongs to nobody between statements."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient.backends.postgres import PostgresBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.protocols.idempotency import Claimed
from resilient.testing.conformance import Run
from tests.support.pgbouncer import installed, pgbouncer
from tests.support.postgres import PostgresAt

pytestmark = pytest.mark.skipif(installed() is None, reason="PgBouncer is not installed")

SESSIONS = 2


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresAt) -> Iterator[str]:
    """Two sessions for everybody."""
    with pgbouncer(postgres_server.url, sessions=SESSIONS) as url:
        yield url


@pytest.fixture
def backend(run: Run, pooler: str, prefix: str) -> Iterator[PostgresBackend]:
    """A backend behind the pooler."""
    backend = from_url(pooler, prefix=prefix)
    with run.closing(backend):
        yield backend


def test_many_share_few_sessions(
    run: Run, backend: PostgresBackend, postgres_server: PostgresAt
) -> None:
    """Whatever was prepared is soon somebody else's: all are served, and nothing is stranded."""
    calls, cache = backend.require("idempotency"), backend.require("cache")
    for turn in range(4):
        claims = run.together(
            *[calls.claim(f"k{turn}", owner=f"o{n}", lease=30, ttl=60) for n in range(24)]
        )
        assert sum(isinstance(claim, Claimed) for claim in claims) == 1
        run.together(*[cache.set(f"k{n}", b"%d" % n, ttl=30) for n in range(24)])
        found = run.together(*[cache.get(f"k{n}") for n in range(24)])
        assert [entry.value for entry in found] == [b"%d" % n for n in range(24)]

    with postgres_server.connect() as connection:
        held: Any = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            " AND pid IN (SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction')"
        ).fetchone()
    assert held[0] == 0


def test_a_lock_is_waited_for(pooler: str, prefix: str) -> None:
    """Nobody listens: who waits looks by itself, and gets the lock soon after its release."""
    backend = from_url(pooler, prefix=prefix)
    order: list[str] = []
    inside = threading.Event()

    @resilient.distributed_lock("k", wait=30, backend=backend)
    def enter(name: str) -> None:
        inside.set()
        order.append(name)
        order.append(name)

    def holds() -> None:
        with resilient.lock("k", backend=backend):
            inside.set()
            waiting.wait(10)
            order.append("first")

    waiting = threading.Event()
    holder = threading.Thread(target=holds)
    holder.start()
    assert inside.wait(10)
    others = [threading.Thread(target=enter, args=(name,)) for name in "abc"]
    for other in others:
        other.start()
    waiting.set()
    for thread in (holder, *others):
        thread.join(30)
    backend.close()

    assert order[0] == "first"
    assert sorted(order[1:]) == sorted("aabbcc")
    assert order[1::2] == order[2::2]


def test_whether_anything_is_heard(pooler: str, postgres_server: PostgresAt, prefix: str) -> None:
    """Where sessions are shared nobody listens, and nothing of it stays in them; else all do."""
    with pgbouncer(postgres_server.url, sessions=4, mode="session") as whole_sessions:
        for url, can_hear in ((pooler, False), (whole_sessions, True)):
            other = from_url(url, prefix=prefix)
            heard: list[str | None] = []
            for _ in range(3):  # on a busy machine a second may be too short
                backend = from_url(url, prefix=prefix)
                backend.hub.listen("cache", heard.append)
                if backend.hub.has_source is can_hear:
                    break
                backend.close()
            assert backend.hub.has_source is can_hear
            assert (backend.hub.recheck < 0.1) is not can_hear
            _, address = Run("sync").listen(backend)
            assert address.startswith("rsl_") is can_hear
            drive(other.require("cache").invalidate_tags(["red"]))
            if can_hear:
                deadline = time.monotonic() + 10
                while not heard and time.monotonic() < deadline:
                    time.sleep(0.005)
                assert heard == ["#red"]
            other.close()
            backend.close()
    with postgres_server.connect() as connection:
        left: Any = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        ).fetchone()
    assert left[0] == 0, "a shared session holds the lock of a process"


def test_values_at_hand(pooler: str, prefix: str) -> None:
    """What is kept in a process only as long as it hears of changes is not kept then."""
    backend, other = from_url(pooler, prefix=prefix), from_url(pooler, prefix=prefix)
    drive(backend.require("cache").get("k"))  # the tables are there
    computed = []

    @resilient.cached("{n}", ttl=600, backend=backend)
    def value(n: int) -> int:
        computed.append(n)
        return len(computed)

    value(1)  # listens, and within a second it is known that nothing is heard
    deadline = time.monotonic() + 20
    while backend.hub.has_source and time.monotonic() < deadline:
        value(1)
    assert not backend.hub.has_source
    before = value(1)
    drive(other.require("cache").clear())
    assert value(1) != before
    backend.close()
    other.close()
