"""The PostgreSQL backend against the conformance suite, on every version that is installed."""

import uuid

import pytest

from resilient.backends.postgres import PostgresBackend, from_url
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
    ProcessConformance,
)
from tests.support.postgres import PostgresAt


class Postgres(Conformance):
    """Random prefixes in one database, judged by the server's clock."""

    examples = 12
    steps = 30

    @pytest.fixture(autouse=True)
    def _on_a_server(self, every_postgres: PostgresAt, postgres_server: PostgresAt) -> None:
        self._url = every_postgres.url
        if every_postgres is not postgres_server:  # what differs is found by few histories, too
            self.examples = 3

    def backend(self) -> PostgresBackend:
        return from_url(self._url, prefix=f"test-{uuid.uuid4().hex[:12]}:")


class TestLocks(Postgres, LockConformance):
    """Locks on a server."""


class TestCircuits(Postgres, CircuitConformance):
    """Circuits on a server."""


class TestCache(Postgres, CacheConformance):
    """Cached values on a server."""


class TestIdempotency(Postgres, IdempotencyConformance):
    """Idempotent calls on a server."""


class TestCheckpoints(Postgres, CheckpointConformance):
    """Jobs on a server."""


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestProcesses(ProcessConformance):
    """Processes that share a database, which is empty when they start."""

    @pytest.fixture(autouse=True)
    def _on_a_server(self, postgres: PostgresAt) -> None:
        self._url = postgres.url

    def url(self) -> str:
        return f"{self._url}?timeout=30&connect_timeout=30"  # the machine may be busy
