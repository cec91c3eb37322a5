"""Steps that are written on what the process remembers: by one statement, and only if it is true.

Most tests write down which statements the connection runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend
from resilient.engine import chance
from resilient.engine.clock import ManualClock, installed
from resilient.engine.drivers.sync import drive
from resilient.protocols.checkpoints import CheckpointStore, Started
from resilient.protocols.values import Encoded

TTL = 1_000.0
ONE, TWO = Encoded(b"one"), Encoded(b"two")


@pytest.fixture(name="backend")
def _backend(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteBackend]:
    monkeypatch.setattr(chance, "random", lambda: 0.5)  # no sweep comes between
    backend = SqliteBackend(path)
    yield backend
    backend.close()


@pytest.fixture(name="other")
def _other(path: Path) -> Iterator[SqliteBackend]:
    other = SqliteBackend(path)
    yield other
    other.close()


def jobs(backend: SqliteBackend) -> CheckpointStore:
    """Where its jobs are."""
    assert backend.checkpoints is not None
    return backend.checkpoints


def start(backend: SqliteBackend, owner: str = "ann", lease: float = 30.0) -> Started:
    """Become the runner of the job."""
    started = drive(jobs(backend).start("job", owner=owner, lease=lease, ttl=TTL))
    assert isinstance(started, Started)
    return started


def step(backend: SqliteBackend, name: str, fence: int, value: Encoded = ONE) -> bool:
    """Store the result of a step."""
    return drive(jobs(backend).step("job", name, value, fence=fence, ttl=TTL))


def known(backend: SqliteBackend) -> dict[str, Encoded]:
    """The steps that are stored."""
    return dict(drive(jobs(backend).steps("job")))


class Statements:
    """The statements that a backend runs in a `with` block, by their first words."""

    def __init__(self, backend: SqliteBackend) -> None:
        self._database = backend._transport._database
        self.seen: list[str] = []

    def __enter__(self) -> list[str]:
        with self._database.connection() as connection:
            connection.set_trace_callback(lambda text: self.seen.append(text.split()[0]))
        return self.seen

    def __exit__(self, *error: object) -> None:
        with self._database.connection() as connection:
            connection.set_trace_callback(None)


def test_one_statement(backend: SqliteBackend) -> None:
    """A step is one statement, once the job has been seen; it is there for everybody."""
    fence = start(backend).fence
    assert step(backend, "first", fence)
    with Statements(backend) as seen:
        for number in range(3):
            assert step(backend, str(number), fence)
    assert seen == ["INSERT"] * 3
    assert known(backend) == dict.fromkeys(["first", "0", "1", "2"], ONE)


def test_asked_again(backend: SqliteBackend) -> None:
    """The first result stays, whoever asks again: it takes a transaction to see that."""
    fence = start(backend).fence
    assert step(backend, "first", fence)
    assert step(backend, "again", fence)
    with Statements(backend) as seen:
        assert step(backend, "again", fence, TWO)
    assert seen[:2] == ["INSERT", "BEGIN"]
    assert known(backend)["again"] == ONE


def taken_over(other: SqliteBackend, clock: ManualClock) -> None:
    """Another runner, after the lease."""
    clock.advance(31)
    start(other, "bob")


def forgotten(other: SqliteBackend, clock: ManualClock) -> None:
    """The job was deleted."""
    drive(jobs(other).delete("job"))


def begun_anew(other: SqliteBackend, clock: ManualClock) -> None:
    """The job was deleted, and is run by somebody else."""
    drive(jobs(other).delete("job"))
    start(other, "bob")


def stopped(other: SqliteBackend, clock: ManualClock) -> None:
    """The run was ended, by somebody who found its process dead."""
    drive(jobs(other).stop("job", owner="ann"))


def expired(other: SqliteBackend, clock: ManualClock) -> None:
    """Nobody has asked for the job for as long as it is kept."""
    clock.advance(TTL + 1)


def removed(other: SqliteBackend, clock: ManualClock) -> None:
    """The file was removed, and another one is in its place."""
    clock.advance(0.01)  # fences are drawn from it where nothing is left
    path = Path(other.path)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink()
    start(other, "bob")


@pytest.mark.parametrize(
    "event",
    [taken_over, forgotten, begun_anew, stopped, expired, removed],
    ids=lambda e: e.__name__,
)
def test_a_stale_runner_writes_nothing(
    event: Any, backend: SqliteBackend, other: SqliteBackend
) -> None:
    """What is remembered is compared in the statement that writes: it is true no longer."""
    clock = ManualClock()
    with installed(clock):
        fence = start(backend).fence
        assert step(backend, "first", fence)
        assert step(backend, "second", fence)
        event(other, clock)
        before = known(other)
        assert not step(backend, "stale", fence)
        assert not step(backend, "first", fence, TWO)
        assert known(other) == before


def test_a_change_is_learned(backend: SqliteBackend, other: SqliteBackend) -> None:
    """A job that goes on in another state is seen as it is, and remembered so."""
    fence = start(backend).fence
    assert step(backend, "first", fence)
    assert drive(jobs(other).cancel("job"))
    with Statements(backend) as seen:
        assert step(backend, "second", fence)
        assert step(backend, "third", fence)
    assert seen[:2] == ["INSERT", "BEGIN"]
    assert seen[-2:] == ["COMMIT", "INSERT"]
    runner: Any = drive(jobs(backend).runner("job"))
    assert runner.cancelled


def test_an_expired_step_is_replaced(backend: SqliteBackend) -> None:
    """A row whose time is over is none: the statement writes over it."""
    with installed(ManualClock()):
        fence = start(backend).fence
        assert step(backend, "old", fence)
        with backend._transport._database.connection() as connection:
            connection.execute("UPDATE clustered SET expires = 1 WHERE kind = 'step'")
        assert step(backend, "new", fence, TWO)
        with Statements(backend) as seen:
            assert step(backend, "old", fence, TWO)
        assert seen == ["INSERT"]
        assert known(backend) == {"old": TWO, "new": TWO}


def test_tenants_remember_for_themselves(backend: SqliteBackend, path: Path) -> None:
    """A job of the same name, of another tenant, is another job."""
    tenant = SqliteBackend(path, prefix="b:")
    fence, theirs = start(backend).fence, start(tenant, "bob").fence
    for name in ("first", "second"):
        assert step(backend, name, fence)
        assert step(tenant, name, theirs, TWO)
        assert not step(tenant, name, fence)
    assert known(backend) == {"first": ONE, "second": ONE}
    assert known(tenant) == {"first": TWO, "second": TWO}
    tenant.close()


def test_what_is_remembered_is_bounded(backend: SqliteBackend) -> None:
    """Thousands of jobs leave no more than a few hundred rows in memory."""
    for number in range(600):
        name = f"job{number}"
        started: Any = drive(jobs(backend).start(name, owner="ann", lease=30, ttl=TTL))
        assert drive(jobs(backend).step(name, "s", ONE, fence=started.fence, ttl=TTL))
    assert 0 < len(backend._transport._foresight._rows) <= 257


def test_writes_still_sweep(backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in so many takes a transaction, in which rows that expired are dropped."""
    clock = ManualClock()
    with installed(clock):
        drive(jobs(backend).start("gone", owner="ann", lease=1, ttl=1))
        fence = start(backend).fence
        assert step(backend, "first", fence)
        clock.advance(2)
        monkeypatch.setattr(chance, "random", lambda: 0.0)
        with Statements(backend) as seen:
            assert step(backend, "second", fence)
        assert seen[0] == "BEGIN"
        assert "DELETE" in seen
        with backend._transport._database.connection() as connection:
            rows = connection.execute("SELECT key FROM clustered WHERE kind = 'job'")
            assert rows.fetchall() == [("job",)]
