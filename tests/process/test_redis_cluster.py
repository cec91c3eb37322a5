"""A cluster whose servers die while locks are held, and all else is at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from resilient.backends.redis import from_url
from resilient.engine.plan import Plan
from resilient.errors import BackendError
from resilient.testing.conformance import Run
from tests.process.fail_overs import await_replicated, survives
from tests.support.clusters import Cluster, redis_cluster
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three primaries with a replica each; each test does away with another of them."""
    with redis_cluster(replicas=True) as cluster:
        yield cluster


def test_a_primary_dies_in_the_middle(cluster: Cluster, prefix: str) -> None:
    """What its replica had is kept and goes on to who waits; the loss of what it had not is told.

    As with sentinels: what no replica has yet is what asynchronous replication can lose. And a
    call that is running ends, once; a job loses no item; a value and an open circuit are there.
    """
    primary = cluster.primaries[2]
    prefix = f"{cluster.tag_of(primary)}{prefix}"  # all that there is, on this server
    replica = cluster.replica_of(primary)
    survives(cluster.url, prefix, primary, replica, lambda: await_promotion(replica), mode="async")


def test_a_primary_that_stands_still_is_replaced(cluster: Cluster, prefix: str) -> None:
    """Nothing says so to who waits for its answer in vain: the cluster is asked again."""
    primary = cluster.primaries[0]
    run = Run("async")
    backend = from_url(
        f"{cluster.url}?socket_timeout=0.5&socket_connect_timeout=0.5",
        prefix=f"{cluster.tag_of(primary)}{prefix}",
    )
    with run.closing(backend):
        locks = backend.require("locks")
        before = run(locks.acquire("k", ttl=60, owner="ann"))
        await_replicated(primary, f"{cluster.tag_of(primary)}{prefix}")
        with primary.paused():
            await_promotion(cluster.replica_of(primary))
            assert answered(run, lambda: locks.renew("k", ttl=60, owner="ann"))
            after = answered(run, lambda: locks.acquire("l", ttl=60, owner="ann"))
            assert after.fence > before.fence
    run.close()


def answered(run: Run, ask: Callable[[], Plan[Any]]) -> Any:
    """The answer, once there is one."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return run(ask())
        except BackendError:
            if time.monotonic() > deadline:
                raise


def await_promotion(replica: RedisServer) -> None:
    """Wait until a replica is a primary."""
    deadline = time.monotonic() + 30
    with replica.client() as client:
        while cast(dict[str, Any], client.info("replication"))["role"] != "master":
            assert time.monotonic() < deadline
            time.sleep(0.02)
