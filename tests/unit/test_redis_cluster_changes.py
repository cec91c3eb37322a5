"""What is heard of a cluster while it changes: slots move, and primaries are away or replaced."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from resilient.backends.redis import RedisBackend, from_url
from resilient.backends.redis.cluster_subscription import FIRST_PAUSE, LONGEST_PAUSE
from resilient.errors import BackendError
from resilient.testing.conformance import Run
from tests.support.clusters import Cluster, redis_cluster
from tests.support.handing import handed_over, key_at, locks
from tests.support.servers import Flavour, RedisAt, RedisServer, flavours
from tests.support.waiting import soon

QUICK = "socket_timeout=1.5&socket_connect_timeout=1.5"


@pytest.fixture(scope="module", params=[*flavours(), "old"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of each flavour, and one of servers that know no sharded channels."""
    flavour: Flavour | None = None if request.param == "old" else request.param
    with redis_cluster(flavour=flavour, knows_shards=request.param != "old") as cluster:
        yield cluster


@pytest.fixture(scope="module", params=flavours())
def replicated(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with a replica of each primary."""
    # Nobody is replaced but by these tests, however slow the machine.
    with redis_cluster(flavour=request.param, replicas=True, patience=5) as cluster:
        yield cluster


@pytest.fixture
def backend(run: Run, cluster: Cluster, prefix: str) -> Iterator[RedisBackend]:
    """A backend on the former."""
    backend = from_url(cluster.url, prefix=prefix)
    with run.closing(backend):
        yield backend


def hands_over(run: Run, backend: RedisBackend, key: str) -> bool:
    """Whether a lock is handed over, perhaps not at once: the cluster has just changed."""

    def tried() -> bool:
        try:
            return handed_over(run, backend, key)
        except BackendError:
            return False

    return soon(tried, 30)


def waits(run: Run, backend: RedisBackend, key: str) -> tuple[Any, str]:
    """A waiter for a lock that somebody holds, and its address."""
    assert run(locks(backend).acquire(key, ttl=300, owner="ann"))
    waiter, address = run.listen(backend)
    run(locks(backend).acquire(key, ttl=300, owner="bob", waiter=address))
    return waiter, address


def released(run: Run, backend: RedisBackend, key: str) -> bool:
    """Whether a lock was released, as soon as there was somebody who could do that."""

    def tried() -> bool:
        try:
            return bool(run(locks(backend).release(key, owner="ann")))
        except BackendError:
            return False

    return soon(tried, 30)


# --- slots that move


def test_the_slot_of_the_lock_moves(run: Run, backend: RedisBackend, cluster: Cluster) -> None:
    """Who waits is woken from the new server, and given nothing: it may be waiting elsewhere."""
    key = f"moving-{run.mode}"
    waiter, address = waits(run, backend, key)
    with cluster.migrating(f"{backend.prefix}lock:{key}"):
        pass
    assert run(locks(backend).release(key, owner="ann"))
    assert run.wait(waiter, 20)
    assert waiter.gift == ""
    assert run(locks(backend).holder(key)) is None
    run(locks(backend).withdraw(key, owner="bob", waiter=address))
    assert hands_over(run, backend, key)


def test_the_slot_of_a_lane_moves(run: Run, backend: RedisBackend, cluster: Cluster) -> None:
    """The server ends the subscription: who waits there looks, and all are heard as before."""
    if not cluster.knows_shards:
        pytest.skip("a plain channel has no slot")
    server = cluster.primaries[0 if run.is_async else 1]
    key = key_at(cluster, backend, server)
    waiter, address = waits(run, backend, key)
    channel = locks(backend)._transport.address(address, f"{backend.prefix}lock:{key}")
    lane = channel.rpartition("|")[0].rpartition("@")[2]
    assert cluster.primary_of(lane) is server
    with cluster.migrating(lane):
        pass
    assert run.wait(waiter, 20)
    run(locks(backend).withdraw(key, owner="bob", waiter=address))
    run(locks(backend).release(key, owner="ann"))
    for each in cluster.primaries:
        assert hands_over(run, backend, key_at(cluster, backend, each))


# --- primaries that are away


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_a_primary_is_away_in_the_beginning(
    run: Run, cluster: Cluster, prefix: str, how: str
) -> None:
    """The others are heard meanwhile; it is when it is back, and then who waits looks once more."""
    backend = from_url(f"{cluster.url}?{QUICK}", prefix=prefix)
    away, *others = cluster.primaries
    with run.closing(backend):
        if how == "killed":
            away.kill()
        else:
            away.pause()
        try:
            for server in others:
                assert hands_over(run, backend, key_at(cluster, backend, server))
            stale: list[str | None] = []
            backend.hub.listen("cache", stale.append)
            assert backend.hub.is_listening is not cluster.knows_shards  # it might tell somebody
            name = key_at(cluster, backend, others[0], "cache")
            # Servers that connect to each other anew lose what they tell each other meanwhile.
            assert soon(lambda: run(backend.require("cache").delete(name)) or name in stale)
            waiter, _ = run.listen(backend)
        finally:
            if how == "killed":
                away.start()
            else:
                away.resume()
        assert run.wait(waiter, 30)
        assert soon(lambda: backend.hub.is_listening)
        if cluster.knows_shards:
            assert soon(lambda: None in stale)
        for server in cluster.primaries:
            assert hands_over(run, backend, key_at(cluster, backend, server))


def test_a_primary_goes_away(run: Run, cluster: Cluster, prefix: str) -> None:
    """It makes nobody deaf for long to what is at the others."""
    backend = from_url(f"{cluster.url}?{QUICK}", prefix=prefix)
    with run.closing(backend):
        other, away = cluster.primaries[:2] if run.is_async else cluster.primaries[1:]
        key = key_at(cluster, backend, other)
        assert hands_over(run, backend, key)
        with away.paused():
            assert run.wait(run.listen(backend)[0], 30)
            assert hands_over(run, backend, key)
        assert hands_over(run, backend, key_at(cluster, backend, away))


@pytest.mark.parametrize("number", range(3))
def test_a_lost_connection_is_the_only_one_that_is_opened_anew(
    run: Run, cluster: Cluster, prefix: str, number: int
) -> None:
    """The others go on; that something may be missed is told at once, and when it is over."""
    backend = from_url(f"{cluster.url}?client_name={prefix}", prefix=prefix)
    stale: list[str | None] = []
    with run.closing(backend):
        backend.hub.listen("cache", stale.append)
        assert soon(lambda: backend.hub.is_listening)
        source: Any = backend.hub._source
        subscription = source._listening_on
        subscription._pause = LONGEST_PAUSE
        stale.clear()
        before = [listeners(server, prefix) for server in cluster.primaries]
        lost = cluster.primaries[number]
        with lost.client() as client:
            client.client_kill_filter(_id=before[number][0])
        assert soon(lambda: None in stale)
        assert soon(lambda: backend.hub.is_listening and subscription._pause == FIRST_PAUSE)
        after = [listeners(server, prefix) for server in cluster.primaries]
        assert [a == b for a, b in zip(after, before, strict=True)] == [
            server is not lost for server in cluster.primaries
        ]
        assert soon(lambda: len(stale) >= 2)
        assert set(stale) == {None}
        for server in cluster.primaries:
            assert hands_over(run, backend, key_at(cluster, backend, server))
            name = key_at(cluster, backend, server, "cache")
            assert soon(partial(was_told, run, backend, name, stale))


def listeners(server: RedisAt, name: str) -> list[str]:
    """The connections of this name that have subscribed something at a server."""
    with server.client() as client:
        found: Any = client.client_list()
    return [
        each["id"]
        for each in found
        if each["name"] == name and int(each["sub"]) + int(each.get("ssub", 0)) > 0
    ]


def was_told(run: Run, backend: RedisBackend, name: str, stale: list[str | None]) -> bool:
    """Have everybody told of a key, perhaps not for the first time; whether it was heard."""
    run(backend.require("cache").delete(name))
    return name in stale


# --- primaries that are replaced


def test_a_primary_is_replaced_by_hand(run: Run, replicated: Cluster, prefix: str) -> None:
    """Who waits looks once more, and hears the new primary."""
    backend = from_url(replicated.url, prefix=prefix)
    primary = replicated.primaries[1]
    replica = replicated.replica_of(primary)
    with run.closing(backend):
        key = key_at(replicated, backend, primary)
        waiter, address = waits(run, backend, key)
        fail_over(primary if is_primary(replica) else replica)
        assert run.wait(waiter, 30)
        assert released(run, backend, key)
        run(locks(backend).withdraw(key, owner="bob", waiter=address))
        assert hands_over(run, backend, key)


def test_a_primary_dies(run: Run, replicated: Cluster, prefix: str) -> None:
    """The same, and nobody has said so."""
    backend = from_url(replicated.url, prefix=prefix)
    primary = replicated.primaries[0 if run.is_async else 2]
    with run.closing(backend):
        key = key_at(replicated, backend, primary)
        waiter, address = waits(run, backend, key)
        with primary.client() as client:
            client.set(
                f"{{{prefix}lock:{key}}}:mark", 1, ex=300
            )  # after all that was written before
            assert client.execute_command("WAIT", 1, 60_000)
        primary.kill()
        assert soon(lambda: is_primary(replicated.replica_of(primary)), 60)
        assert run.wait(waiter, 30)
        assert released(run, backend, key)
        run(locks(backend).withdraw(key, owner="bob", waiter=address))
        assert hands_over(run, backend, key)


def test_who_listens_at_a_replica_is_given_nothing(
    run: Run, replicated: Cluster, prefix: str
) -> None:
    """A message may reach it, but no script can know: who is found at the primary has the lock."""
    backend = from_url(replicated.url, prefix=prefix)
    primary, replica = replicated.primaries[1], replicated.replica_of(replicated.primaries[1])
    if is_primary(replica):
        primary, replica = replica, primary
    with run.closing(backend), replica.client() as client, client.pubsub() as listening:
        key = key_at(replicated, backend, replicated.primaries[1])
        assert run(locks(backend).acquire(key, ttl=300, owner="ann"))
        address = f"{prefix}signal:stale|waiter"
        channel = (
            locks(backend)._transport.address(address, f"{prefix}lock:{key}").partition("|")[0]
        )
        listening.execute_command("SSUBSCRIBE", channel)
        assert listening.parse_response()[:2] == [b"ssubscribe", channel.encode()]
        run(locks(backend).acquire(key, ttl=300, owner="stale", waiter=address))
        waiter, its = run.listen(backend)
        run(locks(backend).acquire(key, ttl=300, owner="bob", waiter=its))

        run(locks(backend).release(key, owner="ann"))

        assert run.wait(waiter, 20)
        held = run(locks(backend).holder(key))
        assert (held.owner, waiter.gift) == ("bob", str(held.fence))
        told = []
        with primary.client() as other:
            while b"the end" not in told:  # which servers that connect to each other anew lose
                other.execute_command("SPUBLISH", channel, "the end")
                if listening.connection.can_read(timeout=0.1):
                    told.append(listening.parse_response()[2])
        assert told[0] == b"the end"


def is_primary(server: RedisServer) -> bool:
    """Whether it is one now."""
    return bool(told_of(server)["role"] == "master")


def fail_over(replica: RedisServer) -> None:
    """Put it in its primary's place, which it gives up on if that does not agree in time."""
    assert soon(lambda: told_of(replica)["master_link_status"] == "up", 60)

    def promoted() -> bool:
        with replica.client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
        return soon(lambda: is_primary(replica), 10)

    assert soon(promoted, 60)


def told_of(server: RedisServer) -> dict[str, Any]:
    """What it says of its replication."""
    with server.client() as client:
        told: Any = client.info("replication")
        return dict(told)
