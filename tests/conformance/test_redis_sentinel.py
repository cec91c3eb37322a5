"""The Redis backend against the conformance suite, at the primary that sentinels name."""

import pytest

from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    IdempotencyConformance,
    LockConformance,
)
from tests.conformance.at_a_url import AtUrl, ProcessesAtUrl
from tests.support.sentinels import Sentinels


@pytest.fixture
def url(redis_sentinels: Sentinels) -> str:
    """Of the sentinels."""
    return redis_sentinels.url


class RedisSentinel(AtUrl):
    """Random prefixes at one primary, which has a replica."""

    examples = 12
    steps = 30


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


class TestProcesses(ProcessesAtUrl):
    """Processes that share a primary."""

    newcomers = 4  # nothing is made
