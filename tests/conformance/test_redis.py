"""The Redis backend against the conformance suite, on every server that is installed."""

import uuid

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
    ProcessConformance,
)
from tests.support.servers import RedisAt


class Redis(Conformance):
    """Random prefixes on one server, judged by its own clock."""

    @pytest.fixture(autouse=True)
    def _on_a_server(self, every_redis: RedisAt) -> None:
        self._url = every_redis.url

    def backend(self) -> RedisBackend:
        return from_url(self._url, prefix=f"test-{uuid.uuid4().hex[:12]}:")


class TestLocks(Redis, LockConformance):
    """Locks on a server."""


class TestCircuits(Redis, CircuitConformance):
    """Circuits on a server."""


class TestCache(Redis, CacheConformance):
    """Cached values on a server."""


class TestIdempotency(Redis, IdempotencyConformance):
    """Idempotent calls on a server."""


class TestCheckpoints(Redis, CheckpointConformance):
    """Jobs on a server."""


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestProcesses(ProcessConformance):
    """Processes that share a server."""

    newcomers = 4  # nothing is made

    @pytest.fixture(autouse=True)
    def _on_a_server(self, every_redis: RedisAt) -> None:
        self._url = every_redis.url

    def url(self) -> str:
        return self._url
