"""What tests do with SQLite's backend, and see of its files and threads."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend
from resilient.engine.drivers.sync import drive
from resilient.engine.transactional import Transaction

__all__ = ["acquire", "change", "count", "open_files", "release", "threads"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database of this test's own may be."""
    return tmp_path / "state.db"


@pytest.fixture
def pair(path: Path) -> Iterator[tuple[SqliteBackend, SqliteBackend]]:
    """Two backends on one file, each with connections of its own, as of two processes."""
    pair = SqliteBackend(path), SqliteBackend(path)
    yield pair
    for backend in pair:
        backend.close()


def acquire(backend: SqliteBackend, key: str, owner: str = "ann", waiter: str | None = None) -> Any:
    """Ask for a lock for 30 seconds."""
    assert backend.locks is not None
    return drive(backend.locks.acquire(key, ttl=30, owner=owner, waiter=waiter))


def release(backend: SqliteBackend, key: str, owner: str = "ann") -> None:
    """Release a lock."""
    assert backend.locks is not None
    assert drive(backend.locks.release(key, owner=owner))


def change(backend: SqliteBackend, work: Callable[[Transaction], Any]) -> Any:
    """Run a function in a transaction."""
    return backend._transport.send(work)


def count(path: Path, table: str) -> int:
    """How many rows a table has."""
    connection = sqlite3.connect(path)
    try:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    finally:
        connection.close()
    return int(rows)


def open_files(path: Path) -> list[str]:
    """What this process has open of the database."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith(str(path)):
            found.append(target)
    return found


def threads() -> list[str]:
    """The backend's threads that run."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("resilient-sqlite"))
