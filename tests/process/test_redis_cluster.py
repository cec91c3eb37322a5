"""A cluster whose servers die while locks are held."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.process.fail_overs import survives
from tests.support.clusters import Cluster, redis_cluster

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three primaries with a replica each, of this test's own."""
    with redis_cluster(replicas=True) as cluster:
        yield cluster


def test_a_primary_dies_while_locks_are_held(cluster: Cluster, prefix: str) -> None:
    """What its replica had is kept and goes on to who waits; the loss of what it had not is told.

    As with sentinels: what no replica has yet is what asynchronous replication can lose.
    """
    prefix = f"{{{prefix}}}"  # all locks on one server
    primary = cluster.primary_of(prefix)
    replica = cluster.replica_of(primary)

    def await_promotion() -> None:
        deadline = time.monotonic() + 30
        with replica.client() as client:
            while dict(client.info("replication"))["role"] != "master":
                assert time.monotonic() < deadline
                time.sleep(0.02)

    survives(cluster.url, prefix, primary, replica, await_promotion)
