"""The Redis backend against the conformance suite, on a cluster of three servers."""

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
from tests.support.acl import as_user, let_in
from tests.support.clusters import Cluster


class RedisCluster(Conformance):
    """Random prefixes on one cluster, as a user with no more rights than the documentation says."""

    examples = 12
    steps = 30

    @pytest.fixture(autouse=True)
    def _on_a_cluster(self, redis_cluster: Cluster) -> None:
        for server in redis_cluster.primaries:
            let_in(server, "test-", cluster=True)
        self._url = as_user(redis_cluster.url)

    def backend(self) -> RedisBackend:
        return from_url(self._url, prefix=f"test-{uuid.uuid4().hex[:12]}:")


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


@pytest.mark.slow
@pytest.mark.timeout(180)
class TestProcesses(ProcessConformance):
    """Processes that share a cluster."""

    newcomers = 4  # nothing is made

    @pytest.fixture(autouse=True)
    def _on_a_cluster(self, redis_cluster: Cluster) -> None:
        self._url = redis_cluster.url

    def url(self) -> str:
        return self._url
