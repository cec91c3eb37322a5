"""The Redis backend against the conformance suite, on every server that is installed."""

from __future__ import annotations

import itertools

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    Conformance,
    IdempotencyConformance,
    LockConformance,
)
from tests.support.servers import RedisAt


class Redis(Conformance):
    """A prefix of its own each time."""

    examples = 25
    steps = 25

    @pytest.fixture(autouse=True)
    def _server(self, every_redis: RedisAt, prefix: str) -> None:
        self._url = every_redis.url
        self._prefixes = (f"{prefix}{number}:" for number in itertools.count())

    def backend(self) -> RedisBackend:
        return from_url(self._url, prefix=next(self._prefixes))


class TestLocks(Redis, LockConformance):
    """Locks on Redis."""


class TestCircuits(Redis, CircuitConformance):
    """Circuits on Redis."""


class TestCache(Redis, CacheConformance):
    """Cached values on Redis."""


class TestIdempotency(Redis, IdempotencyConformance):
    """Idempotent calls on Redis."""


class TestCheckpoints(Redis, CheckpointConformance):
    """Jobs on Redis."""
