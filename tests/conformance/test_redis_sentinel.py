"""The Redis backend against the conformance suite, at the primary that sentinels name."""

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
from tests.support.sentinels import Sentinels


class RedisSentinel(Conformance):
    """Random prefixes at one primary, which has a replica."""

    examples = 12
    steps = 30

    @pytest.fixture(autouse=True)
    def _behind_sentinels(self, redis_sentinels: Sentinels) -> None:
        self._url = redis_sentinels.url

    def backend(self) -> RedisBackend:
        return from_url(self._url, prefix=f"test-{uuid.uuid4().hex[:12]}:")


class TestLocks(RedisSentinel, LockConformance):
    """Locks behind sentinels."""


class TestCircuits(RedisSentinel, CircuitConformance):
    """Circuits behind sentinels."""


class TestCache(RedisSentinel, CacheConformance):
    """Cached values behind sentinels."""


class TestIdempotency(RedisSentinel, IdempotencyConformance):
    """Idempotent calls behind sentinels."""


class TestCheckpoints(RedisSentinel, CheckpointConformance):
    """Jobs behind sentinels."""


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestProcesses(ProcessConformance):
    """Processes that share a primary."""

    newcomers = 4  # nothing is made

    @pytest.fixture(autouse=True)
    def _behind_sentinels(self, redis_sentinels: Sentinels) -> None:
        self._url = redis_sentinels.url

    def url(self) -> str:
        return self._url
