"""The MongoDB backend against the conformance suite."""

import pytest

from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    IdempotencyConformance,
    LockConformance,
)
from tests.conformance.at_a_url import AtUrl, ProcessesAtUrl
from tests.support.mongodb import MongoAt


@pytest.fixture
def url(mongo_server: MongoAt) -> str:
    """Of the shared server."""
    return mongo_server.url


class Mongo(AtUrl):
    """Random prefixes in one database, judged by the server's clock."""

    examples = 12
    steps = 30


class TestLocks(Mongo, LockConformance):
    """Locks on a server."""


class TestCircuits(Mongo, CircuitConformance):
    """Circuits on a server."""


class TestCache(Mongo, CacheConformance):
    """Cached values on a server."""


class TestIdempotency(Mongo, IdempotencyConformance):
    """Idempotent calls on a server."""


class TestCheckpoints(Mongo, CheckpointConformance):
    """Jobs on a server."""


class TestProcesses(ProcessesAtUrl):
    """Processes that share a database, which is empty when they start."""

    @pytest.fixture(name="url")
    def _empty(self, mongo: MongoAt) -> str:
        return mongo.url
