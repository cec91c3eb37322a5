"""The Redis backend against the conformance suite, on a cluster of three servers."""

import pytest

from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    IdempotencyConformance,
    LockConformance,
)
from tests.conformance.at_a_url import AtUrl, ProcessesAtUrl
from tests.support.acl import as_user, let_in
from tests.support.clusters import Cluster


@pytest.fixture(scope="module")
def url(redis_cluster: Cluster) -> str:
    """As a user who has no more rights than the documentation says."""
    for server in redis_cluster.primaries:
        let_in(server, "test-", cluster=True)
    return as_user(redis_cluster.url)


class RedisCluster(AtUrl):
    """Random prefixes on one cluster."""

    examples = 12
    steps = 30


class TestLocks(RedisCluster, LockConformance):
    """Locks on a cluster."""


class TestCircuits(RedisCluster, CircuitConformance):
    """Circuits on a cluster."""


class TestCache(RedisCluster, CacheConformance):
    """Cached values on a cluster."""


class TestIdempotency(RedisCluster, IdempotencyConformance):
    """Idempotent calls on a cluster."""


class TestCheckpoints(RedisCluster, CheckpointConformance):
    """Jobs on a cluster."""


class TestProcesses(ProcessesAtUrl):
    """Processes that share a cluster."""

    newcomers = 4  # nothing is made

    @pytest.fixture(name="url")
    def _everywhere(self, redis_cluster: Cluster) -> str:
        return redis_cluster.url
