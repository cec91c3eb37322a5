"""Signals on a cluster: they stay at the shard where the servers know how, and reach who waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import pytest
from redis.crc import key_slot

from resilient.backends.redis import RedisBackend, from_url, lanes
from resilient.backends.redis.openings import Opening, Openings
from resilient.backends.redis.subscription import Heard, RedisSubscription
from resilient.protocols.circuits import CircuitState
from resilient.testing.conformance import Run
from tests.support.clusters import Cluster, redis_cluster
from tests.support.handing import handed_over, key_at, locks
from tests.support.servers import RedisServer, flavours
from tests.support.waiting import PATIENCE, soon, until

KINDS = [*flavours(), "old"]
"""The flavours, and servers that know no sharded channels."""


@pytest.fixture(scope="module", params=KINDS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster of each kind of servers."""
    flavour = None if request.param == "old" else request.param
    with redis_cluster(flavour=flavour, knows_shards=request.param != "old") as cluster:
        yield cluster


@pytest.fixture
def backend(run: Run, cluster: Cluster, prefix: str) -> Iterator[RedisBackend]:
    """A backend on it."""
    patient = "?socket_connect_timeout=30"  # nobody goes on before all primaries are heard
    backend = from_url(cluster.url + patient, prefix=prefix)
    with run.closing(backend):
        yield backend


def channels(server: RedisServer, prefix: str, words: str = "PUBSUB SHARDCHANNELS") -> list[str]:
    """What is subscribed there under a prefix."""
    with server.client(decode_responses=True) as client:
        found: Any = client.execute_command(words, f"{prefix}*")
        return list(found)


def sent(cluster: Cluster, what: str) -> int:
    """How many messages of this kind the primaries have sent to each other."""
    found = 0
    for server in cluster.primaries:
        with server.client(decode_responses=True) as client:
            told: Any = client.execute_command("CLUSTER", "INFO")
            lines = told.items() if isinstance(told, dict) else _lines(told)
            found += int(dict(lines).get(f"cluster_stats_messages_{what}_sent", 0))
    return found


def _lines(text: str) -> list[list[str]]:
    return [line.split(":", 1) for line in text.splitlines() if ":" in line]


# --- which channels


def test_a_server_that_is_there_while_others_are_looked_at_is_heard_at_once(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has heard its bell meanwhile: nobody waits until the others give a sign of life."""
    monkeypatch.setattr("resilient.engine.listening.QUIET", 600.0)
    number, looked = count(), threading.Event()
    opened, receive = Openings._open, RedisSubscription.receive

    def late(self: Openings, opening: Opening) -> None:
        if next(number) > 0:
            looked.wait(PATIENCE)
        opened(self, opening)

    def looking(self: RedisSubscription, *, waits: bool = True) -> Iterator[Heard]:
        if not waits:
            looked.set()
            until(lambda: "resilient-opening" not in [each.name for each in threading.enumerate()])
        return receive(self, waits=waits)

    monkeypatch.setattr(Openings, "_open", late)
    monkeypatch.setattr(RedisSubscription, "receive", looking)
    starting = threading.Thread(target=backend.hub.start)
    starting.start()
    assert soon(lambda: backend.hub.is_listening, 15)  # the time to connect is twice that
    starting.join()


def test_a_lane_for_each() -> None:
    """The least number whose slot a server has, so that everybody finds the same."""
    thirds = {slot: slot * 3 // 16384 for slot in range(16384)}
    found = lanes.numbered(thirds)
    assert sorted(found) == [0, 1, 2]
    for server, lane in found.items():
        assert thirds[key_slot(str(lane).encode())] == server
        assert all(thirds[key_slot(str(less).encode())] != server for less in range(lane))
    alone = {**dict.fromkeys(range(16384), "most"), 9189: "one"}
    assert key_slot(str(lanes.numbered(alone)["one"]).encode()) == 9189
    assert lanes.numbered({}) == {}


def test_as_few_subscriptions_as_possible(
    run: Run, backend: RedisBackend, cluster: Cluster
) -> None:
    """One for each primary, and one in all by which a message of any server is heard."""
    run.listen(backend)
    own = f"{backend.prefix}signal:"
    plain = [name for s in cluster.primaries for name in channels(s, own, "PUBSUB CHANNELS")]
    if not cluster.knows_shards:
        assert len(plain) == 1 + len(cluster.primaries)
        return
    assert len(plain) == 1
    for server in cluster.primaries:
        (name,) = channels(server, own)
        assert cluster.primary_of(name) is server


def test_a_prefix_of_one_slot(run: Run, cluster: Cluster, prefix: str) -> None:
    """All its keys are at one server, and nothing is subscribed at the others."""
    backend = from_url(cluster.url, prefix=f"{{{prefix}}}")
    with run.closing(backend):
        assert handed_over(run, backend, "k")
        for server in cluster.primaries:
            there = channels(server, backend.prefix, "PUBSUB CHANNELS")
            if cluster.knows_shards:
                there += channels(server, backend.prefix)
            assert len(there) == (2 if server is cluster.primary_of(backend.prefix) else 0)


# --- what is heard


def test_a_lock_is_handed_over(run: Run, backend: RedisBackend, cluster: Cluster) -> None:
    """On each server; no other server sees a message, where they know how."""
    before = sent(cluster, "publish")
    for server in cluster.primaries:
        assert handed_over(run, backend, key_at(cluster, backend, server))
    if cluster.knows_shards:
        assert sent(cluster, "publish") == before
    else:
        assert sent(cluster, "publish") > before


def test_the_dead_are_skipped(run: Run, backend: RedisBackend, cluster: Cluster) -> None:
    """A waiter whose process is gone takes no lock away from the next one."""
    for server in cluster.primaries:
        key = key_at(cluster, backend, server)
        run(locks(backend).acquire(key, ttl=60, owner="ann"))
        other = from_url(cluster.url, prefix=backend.prefix)
        with run.closing(other):
            _, gone = run.listen(other)
            run(locks(other).acquire(key, ttl=60, owner="cid", waiter=gone))
        kind = "PUBSUB SHARDCHANNELS" if cluster.knows_shards else "PUBSUB CHANNELS"
        own = gone.partition("|")[0]
        while channels(server, own, kind):  # it has not noticed yet
            time.sleep(0.005)
        waiter, address = run.listen(backend)
        run(locks(backend).acquire(key, ttl=60, owner="bob", waiter=address))

        run(locks(backend).release(key, owner="ann"))

        assert run.wait(waiter, 20)
        held = run(locks(backend).holder(key))
        assert (held.owner, waiter.gift) == ("bob", str(held.fence))


def test_all_who_wait_for_a_value(run: Run, backend: RedisBackend) -> None:
    """Everybody is woken, wherever the value is."""
    cache = backend.require("cache")
    waiters = []
    for number in range(9):
        run(cache.fetch(f"v{number}", owner="ann", lease=60))
        for other in ("bob", "cid"):
            waiter, address = run.listen(backend)
            run(cache.fetch(f"v{number}", owner=other, lease=60, waiter=address))
            waiters.append(waiter)
    for number in range(9):
        run(cache.fill(f"v{number}", b"value", owner="ann", ttl=60))
    assert all(run.wait(waiter, 20) for waiter in waiters)


def test_what_everybody_hears(run: Run, backend: RedisBackend, cluster: Cluster) -> None:
    """Invalidations and the transitions of circuits, each once, wherever they were made."""
    stale: list[str | None] = []
    moves: list[str | None] = []
    backend.hub.listen("cache", stale.append)
    backend.hub.listen("circuits", moves.append)
    names = [f"k{number}" for number in range(9)]

    def told() -> bool:
        for name in names:
            run(backend.require("cache").delete(name))
            run(backend.require("circuits").force(name, CircuitState.OPEN))
        return True

    told()
    if not cluster.knows_shards:
        # Servers that connect to each other anew lose what they tell each other meanwhile.
        assert soon(lambda: told() and {*names} <= {*stale} and {*names} <= keys_of(moves))
        return
    assert soon(lambda: len(stale) >= 9 and len(moves) >= 9)
    assert sorted(map(str, stale)) == names == sorted(keys_of(moves))
    assert len(moves) == 9


def was_told(run: Run, backend: RedisBackend, key: str, heard: list[str | None]) -> bool:
    """Have everybody told of a key, perhaps not for the first time; whether it was heard."""
    run(backend.require("cache").delete(key))
    return key in heard


def keys_of(moves: list[str | None]) -> set[str]:
    """Of which circuits was told."""
    return {str(each).rpartition("|")[2] for each in moves}


def test_nobody_is_told_but_who_listens(run: Run, backend: RedisBackend, cluster: Cluster) -> None:
    """No server tells the others what is invalidated, where they know how."""
    if not cluster.knows_shards:
        pytest.skip("a plain message goes to all")
    run(backend.require("cache").set("warm", b"value", ttl=60))  # where the slots are is known now
    before = sent(cluster, "publish")
    for number in range(9):
        run(backend.require("cache").delete(f"k{number}"))
    run(backend.require("cache").invalidate_tags([f"t{number}" for number in range(9)]))
    assert sent(cluster, "publish") == before


def test_whatever_the_map_of_who_tells(
    run: Run, backend: RedisBackend, cluster: Cluster, prefix: str
) -> None:
    """A server has many lanes, and each is heard; on one of another server it tells the others."""
    heard: list[str | None] = []
    backend.hub.listen("cache", heard.append)
    other: Any = from_url(cluster.url, prefix=prefix)
    known = other._transport._topology
    key = "k"
    with run.closing(other):
        run(other.require("cache").delete(key))
        place = known.map.slots[key_slot(f"{prefix}cache:{key}".encode())]
        whose = [known.map.slots[key_slot(str(lane).encode())] for lane in range(lanes.HEARD)]
        its = [lane for lane in range(lanes.HEARD) if whose[lane] == place]
        elsewhere = {*range(lanes.HEARD + 1)} - {*its}
        for lane in [*(its if cluster.knows_shards else ()), *elsewhere]:
            known.map = replace(known.map, lanes={**known.map.lanes, place: lane})
            heard.clear()
            assert soon(partial(was_told, run, other, key, heard))


def test_without_the_right_to_shards(run: Run, cluster: Cluster, prefix: str) -> None:
    """Whoever may not use sharded channels uses plain ones, as with servers that have none."""
    for server in cluster.primaries:
        with server.client() as client:
            rights = ["+@all", *(["-ssubscribe", "-spublish"] if cluster.knows_shards else [])]
            client.execute_command("ACL SETUSER", "old", "on", ">old", "~*", "&*", *rights)
    backend = from_url(cluster.url.replace("://", "://old:old@"), prefix=prefix)
    heard: list[str | None] = []
    with run.closing(backend):
        backend.hub.listen("cache", heard.append)
        for number, server in enumerate(cluster.primaries):
            assert handed_over(run, backend, key_at(cluster, backend, server))
            name = f"k{number}"
            assert soon(partial(was_told, run, backend, name, heard))
        assert not any(
            channels(server, prefix) for server in cluster.primaries if cluster.knows_shards
        )
