"""The MongoDB backend against the conformance suite."""

import uuid

import pytest

from resilient.backends.mongodb import MongoBackend, from_url
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
    ProcessConformance,
)
from tests.support.mongodb import MongoAt


class Mongo(Conformance):
    """Random prefixes in one database, judged by the server's clock."""

    examples = 12
    steps = 30

    @pytest.fixture(autouse=True)
    def _on_a_server(self, mongo_server: MongoAt) -> None:
        self._url = mongo_server.url

    def backend(self) -> MongoBackend:
        return from_url(self._url, prefix=f"test-{uuid.uuid4().hex[:12]}:")


class TestLocks(Mongo, LockConformance):
    """Locks on a server."""


class TestIdempotency(Mongo, IdempotencyConformance):
    """Idempotent calls on a server."""


class TestCache(Mongo, CacheConformance):
    """Cached values on a server."""


class TestCheckpoints(Mongo, CheckpointConformance):
    """Jobs on a server."""


class TestCircuits(Mongo, CircuitConformance):
    """Circuits on a server."""


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestProcesses(ProcessConformance):
    """Processes that share a database, which is empty when they start."""

    @pytest.fixture(autouse=True)
    def _on_a_server(self, mongo: MongoAt) -> None:
        self._url = mongo.url

    def url(self) -> str:
        return self._url
