"""The SQLite backend against the conformance suite."""

from pathlib import Path

import pytest

from resilient.engine.clock import ManualClock
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    IdempotencyConformance,
    LockConformance,
)
from tests.conformance.at_a_url import AtUrl, ProcessesAtUrl


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a file that is not there yet."""
    return f"sqlite:///{tmp_path / 'state.db'}"


class Sqlite(AtUrl):
    """Random prefixes in one file, judged by a clock that the suite moves."""

    clock = ManualClock()


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


class TestProcesses(ProcessesAtUrl):
    """Processes that share a file."""
