"""The Redis backend against the conformance suite, on every server that is installed."""

import pytest

from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    IdempotencyConformance,
    LockConformance,
)
from tests.conformance.at_a_url import AtUrl, ProcessesAtUrl
from tests.support.servers import RedisAt


@pytest.fixture
def url(every_redis: RedisAt) -> str:
    """Of each server in turn."""
    return every_redis.url


class Redis(AtUrl):
    """Random prefixes on one server, judged by its own clock."""

    @pytest.fixture(autouse=True)
    def _few_histories(self, every_redis: RedisAt) -> None:
        if getattr(every_redis, "flavour", "valkey") != "valkey":  # what differs is found by few
            self.examples = 12


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


class TestProcesses(ProcessesAtUrl):
    """Processes that share a server."""

    newcomers = 4  # nothing is made
