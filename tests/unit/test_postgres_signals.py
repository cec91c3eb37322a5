"""Signals on PostgreSQL: who is woken, how soon, and what happens when nobody can listen."""

from __future__ import annotations

import time
from typing import Any

import pytest

from resilient.backends.postgres import PostgresBackend, from_url
from resilient.engine.drivers.sync import drive
from resilient.protocols.circuits import CircuitState, parse_announcement
from resilient.protocols.locks import Grant, Held
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.postgres import PostgresAt
from tests.support.waiting import soon


@pytest.fixture(name="postgres_server")
def _on_every_version(every_postgres: PostgresAt) -> PostgresAt:
    """All of these tests run on every version that is installed."""
    return every_postgres


@pytest.fixture
def url(postgres_server: PostgresAt) -> str:
    """Of the shared server."""
    return postgres_server.url


@pytest.fixture
def backend(served: PostgresBackend) -> PostgresBackend:
    """A backend on the shared server."""
    return served


def test_a_hand_over_is_a_notification(
    run: Run, backend: PostgresBackend, postgres_server: PostgresAt
) -> None:
    """From a release to the waiter: some times a bare NOTIFY from one connection to another."""
    locks = backend.require("locks")
    ours, bare = [], []
    with (
        postgres_server.connect(autocommit=True) as listener,
        postgres_server.connect(autocommit=True) as notifier,
    ):
        listener.execute("LISTEN ping")
        for number in range(60):
            run(locks.acquire("k", ttl=30, owner=f"ann{number}"))
            waiter, address = run.listen(backend)
            run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
            started = time.perf_counter()
            run(locks.release("k", owner=f"ann{number}"))
            assert run.wait(waiter, 5)
            ours.append(time.perf_counter() - started)
            run(locks.release("k", owner="bob"))

            started = time.perf_counter()
            notifier.execute("NOTIFY ping")
            next(listener.notifies(timeout=5))
            bare.append(time.perf_counter() - started)
            if number >= 9 and min(ours) < 10 * min(bare):
                break

    # Who looks by itself, every second or every 50 ms, is a hundred times as late.
    assert min(ours) < 10 * min(bare)


def test_the_dead_are_skipped(run: Run, backend: PostgresBackend) -> None:
    """A waiter whose process is gone takes no lock away from the next one."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=30, owner="ann"))
    for number in range(3):
        dead = f"rsl_{number:016x}|waiter"
        run(locks.acquire("k", ttl=30, owner=dead, waiter=dead))
    waiter, address = run.listen(backend)
    run(locks.acquire("k", ttl=30, owner="bob", waiter=address))

    run(locks.release("k", owner="ann"))

    assert run.wait(waiter, 5)
    assert run(locks.is_held("k", owner="bob"))


def test_a_closed_process_is_gone_at_once(
    run: Run, backend: PostgresBackend, postgres_server: PostgresAt, prefix: str
) -> None:
    """The server knows who listens: no lock is handed over to who has just gone."""
    locks = backend.require("locks")
    other = from_url(postgres_server.url, prefix=prefix)
    run(locks.acquire("k", ttl=30, owner="ann"))
    _, its_address = Run("sync").listen(other)
    drive(other.require("locks").acquire("k", ttl=30, owner="gone", waiter=its_address))
    waiter, address = run.listen(backend)
    run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
    other.close()

    def is_handed_over() -> bool:
        run(locks.release("k", owner="ann"))
        held = run(locks.holder("k"))
        if held is not None and held.owner == "gone":  # its session has not ended quite yet
            run(locks.force_release("k"))
        return held is not None and held.owner == "bob"

    assert soon(is_handed_over)
    assert run.wait(waiter, 5)


def test_transitions_are_announced(run: Run, backend: PostgresBackend) -> None:
    """A circuit that is forced open is open everywhere, whatever its key."""
    heard: list[str | None] = []
    backend.hub.listen("circuits", heard.append)
    view = run(backend.require("circuits").force("a|b:%1\0", CircuitState.OPEN))

    assert soon(lambda: heard)
    key, told = parse_announcement(str(heard[0]))
    assert (key, told.state, told.generation) == ("a|b:%1\0", CircuitState.OPEN, view.generation)
    assert (told.reopens_in, told.reason) == (60.0, view.reason)


@pytest.mark.parametrize("run", ["sync"], indirect=True)
def test_a_further_channel_is_heard_at_once(
    run: Run, postgres_server: PostgresAt, prefix: str
) -> None:
    """Who listens to one more waits for the server only, not for the next sign of life."""
    taken = []
    for _ in range(3):
        backend = from_url(postgres_server.url, prefix=prefix)
        run.listen(backend)
        started = time.perf_counter()
        backend.hub.listen("cache", lambda message: None)
        taken.append(time.perf_counter() - started)
        backend.close()
    assert min(taken) < 0.5


@pytest.mark.parametrize("doubts", [False, True])
def test_many_processes_hear_the_same(
    run: Run, backend: PostgresBackend, postgres_server: PostgresAt, prefix: str, doubts: bool
) -> None:
    """A broadcast reaches every process, and none of them is in the way of the others."""
    other = from_url(postgres_server.url, prefix=prefix)
    heard: dict[str, list[str | None]] = {"one": [], "other": []}
    backend.hub.listen("cache", heard["one"].append)
    other.hub.listen("cache", heard["other"].append, doubts=doubts)
    before, began = other.statements, time.monotonic()
    time.sleep(2.2)
    # A sign of life each second, where somebody relies on it, and nothing else.
    asked = other.statements - before
    assert asked <= (time.monotonic() - began + 1 if doubts else 0)

    run(backend.require("cache").invalidate_tags(["red"]))

    assert soon(lambda: heard == {"one": ["#red"], "other": ["#red"]})
    other.close()


def test_what_is_too_long_to_be_sent(run: Run, backend: PostgresBackend) -> None:
    """A message beyond the 8000 bytes of a payload arrives as "something was missed"."""
    heard: list[str | None] = []
    backend.hub.listen("circuits", heard.append)
    run(backend.require("circuits").force("k", CircuitState.OPEN, reason="forced" + "x" * 9000))

    assert soon(lambda: heard)
    assert heard == [None]


@pytest.mark.parametrize("run", ["sync"], indirect=True)
def test_after_a_gap_everybody_is_told(run: Run, postgres_server: PostgresAt, prefix: str) -> None:
    """What was sent while the connection was away is lost, and nobody goes on without knowing."""
    with FaultProxy(postgres_server.url) as proxy:
        backend = from_url(proxy.url, prefix=prefix)
        heard: list[str | None] = []
        backend.hub.listen("cache", heard.append)
        waiter, address = run.listen(backend)

        proxy.refuse()
        assert soon(lambda: not backend.hub.is_listening)
        assert heard == []
        proxy.accept()

        assert run.wait(waiter, 10)
        assert soon(lambda: heard == [None])
        assert soon(lambda: backend.hub.is_listening)
        drive(backend.require("cache").delete("k"))
        assert soon(lambda: heard == [None, "k"])
        locks = backend.require("locks")
        drive(locks.acquire("k", ttl=30, owner="ann"))

        def is_handed_over() -> bool:
            drive(locks.acquire("k", ttl=30, owner="bob", waiter=address))
            drive(locks.release("k", owner="ann"))
            return run.wait(waiter, 0.5)

        assert soon(is_handed_over), "the server does not know of the new connection"
        backend.close()


@pytest.mark.parametrize("run", ["sync"], indirect=True)
def test_a_silent_connection_is_noticed(run: Run, postgres_server: PostgresAt, prefix: str) -> None:
    """A network that swallows everything: noticed by a sign of life that does not come."""
    with FaultProxy(postgres_server.url) as proxy:
        backend = from_url(f"{proxy.url}?timeout=1", prefix=prefix)
        heard: list[str | None] = []
        backend.hub.listen("cache", heard.append, doubts=True)

        proxy.blackhole()
        assert soon(lambda: not backend.hub.is_listening)
        assert soon(lambda: heard == [None])
        proxy.restore()

        assert soon(lambda: heard == [None, None])
        backend.close()


def test_without_listening(run: Run, postgres_server: PostgresAt, prefix: str) -> None:
    """Behind a pooler nobody listens: a lock is not handed over, and who looks again gets it."""
    backend = from_url(f"{postgres_server.url}?listen=off", prefix=prefix)
    with run.closing(backend):
        locks: Any = backend.require("locks")
        assert backend.hub.recheck < 0.1
        run(locks.acquire("k", ttl=30, owner="ann"))
        waiter, address = run.listen(backend)
        busy = run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
        assert isinstance(busy, Held)
        run(locks.release("k", owner="ann"))
        assert not run.wait(waiter, 0.05)
        assert isinstance(run(locks.acquire("k", ttl=30, owner="bob", waiter=address)), Grant)
