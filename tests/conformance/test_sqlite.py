"""The SQLite backend against the conformance suite."""

from pathlib import Path

import pytest

from resilient.backends.sqlite import SqliteBackend, from_url
from resilient.engine.clock import ManualClock
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
    ProcessConformance,
)


class Sqlite(Conformance):
    """Prefixes in one file, judged by a clock that the suite moves."""

    clock = ManualClock()

    @pytest.fixture(autouse=True)
    def _in_a_file(self, tmp_path: Path) -> None:
        self._url = f"sqlite:///{tmp_path / 'state.db'}"
        self._tenants = 0

    def backend(self) -> SqliteBackend:
        self._tenants += 1
        return from_url(self._url, prefix=f"{self._tenants}:")


class TestLocks(Sqlite, LockConformance):
    """Locks in a file."""


class TestCircuits(Sqlite, CircuitConformance):
    """Circuits in a file."""


class TestCache(Sqlite, CacheConformance):
    """Cached values in a file."""


class TestIdempotency(Sqlite, IdempotencyConformance):
    """Idempotent calls in a file."""


class TestCheckpoints(Sqlite, CheckpointConformance):
    """Jobs in a file."""


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestProcesses(ProcessConformance):
    """Processes that share a file."""

    @pytest.fixture(autouse=True)
    def _in_a_file(self, tmp_path: Path) -> None:
        self._path = tmp_path / "state.db"

    def url(self) -> str:
        return f"sqlite:///{self._path}"
