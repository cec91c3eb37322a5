"""The PostgreSQL backend against the conformance suite, on every version that is installed."""

import pytest

from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    IdempotencyConformance,
    LockConformance,
)
from tests.conformance.at_a_url import AtUrl, ProcessesAtUrl
from tests.support.postgres import PostgresAt


@pytest.fixture
def url(every_postgres: PostgresAt) -> str:
    """Of each version in turn."""
    return every_postgres.url


class Postgres(AtUrl):
    """Random prefixes in one database, judged by the server's clock."""

    examples = 12
    steps = 30

    @pytest.fixture(autouse=True)
    def _few_histories(self, every_postgres: PostgresAt, postgres_server: PostgresAt) -> None:
        if every_postgres is not postgres_server:  # what differs is found by few as well
            self.examples = 3


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


class TestProcesses(ProcessesAtUrl):
    """Processes that share a database, which is empty when they start."""

    @pytest.fixture(name="url")
    def _empty(self, postgres: PostgresAt) -> str:
        return postgres.url
