"""Redis clusters: what goes to which server, and what happens when a slot moves."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.cluster import ClusterNode

import resilient
from resilient.backends.redis import RedisBackend, from_client, from_url, multiplexed, topology
from resilient.engine.budget import within
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Together
from resilient.errors import BackendError, ConfigurationError
from resilient.protocols.locks import Grant
from resilient.protocols.values import Encoded
from resilient.testing.conformance import Run
from tests.support.clusters import Cluster, redis_cluster
from tests.support.faketime import ServerTime
from tests.support.forks import exit_code, forked
from tests.support.modes import Mode
from tests.support.servers import RedisAt


@pytest.fixture
def backend(run: Run, redis_cluster: Cluster, prefix: str) -> Iterator[RedisBackend]:
    """A backend on the shared cluster."""
    backend = from_url(redis_cluster.url, prefix=prefix)
    with run.closing(backend):
        yield backend


def locks(backend: RedisBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


def blocking_client(cluster: Cluster, **options: Any) -> Any:
    """A ready client of the user's own."""
    node: Any = ClusterNode
    kind: Any = redis.RedisCluster
    return kind(startup_nodes=[node(host, port) for host, port in cluster.places], **options)


# --- how it is given


@pytest.mark.parametrize("kind", ["blocking", "async", "pair", "RESP3"])
def test_clients(run: Run, kind: str, redis_cluster: Cluster, prefix: str) -> None:
    """A ready cluster client serves both kinds of callers, whatever it does with its replies."""
    host, port = redis_cluster.places[0]
    asynchronous: Any = redis.asyncio.RedisCluster(host, port)
    blocking = blocking_client(redis_cluster)
    client: Any = {
        "blocking": blocking,
        "async": asynchronous,
        "pair": (asynchronous, blocking),
        "RESP3": blocking_client(redis_cluster, decode_responses=True, protocol=3),
    }[kind]
    backend = from_client(client, prefix=prefix)
    with run.closing(backend):
        for number in range(10):
            grant = run(locks(backend).acquire(f"k{number}", ttl=30, owner="ann"))
            assert run(locks(backend).holder(f"k{number}")).fence == grant.fence
    blocking.close()


def test_urls(redis_cluster: Cluster) -> None:
    """A wrong URL is an error at once; a server that is no cluster, with the first operation."""
    assert from_url("redis+cluster://a,b:1").name == "redis+cluster://a:6379,b:1/0"
    for wrong in ("redis+cluster://", "redis+cluster://host/3", "redis+cluster://host?nothing=1"):
        with pytest.raises(ConfigurationError):
            from_url(wrong)
    client = blocking_client(redis_cluster, redis_connect_func=print)
    with pytest.raises(ConfigurationError, match="redis_connect_func"):
        from_client(client)
    client.close()


def test_what_is_no_cluster(run: Run, redis_server: RedisAt, prefix: str) -> None:
    """A server by itself says so, and nothing is stored on it."""
    backend = from_url(redis_server.url.replace("redis://", "redis+cluster://"), prefix=prefix)
    with run.closing(backend), pytest.raises(BackendError, match="luster"):
        run(locks(backend).acquire("k", ttl=30))


# --- what goes where


def test_one_trip_to_each_server(
    redis_cluster: Cluster, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked in one turn of the loop is split by servers, one pipeline to each."""
    sent: list[int] = []  # at the server reads of the cluster's own would count too
    send = multiplexed._Wire.send

    def counted(wire: Any, flights: list[Any]) -> None:
        sent.append(len(flights))
        send(wire, flights)

    monkeypatch.setattr(multiplexed._Wire, "send", counted)
    backend = from_url(redis_cluster.url, prefix=prefix)

    async def main() -> None:
        for _ in range(2):  # in the first round the servers learn the script
            sent.clear()
            plans = [locks(backend).renew(f"k{n}", ttl=30, owner="ann") for n in range(60)]
            assert await asyncio.gather(*map(adrive, plans)) == [False] * 60
        assert (len(sent), sum(sent)) == (3, 60)
        await backend.aclose()

    asyncio.run(main())


def test_a_heartbeat_reaches_all_servers(run: Run, backend: RedisBackend) -> None:
    """All leases are renewed together, wherever they are; one that is lost harms no other."""
    for number in range(12):
        run(locks(backend).acquire(f"k{number}", ttl=30, owner="ann"))
    run(locks(backend).force_release("k3"))

    async def together() -> list[Any]:
        return await Together(
            [locks(backend).renew(f"k{i}", owner="ann", ttl=30) for i in range(12)]
        )

    assert run(together()) == [number != 3 for number in range(12)]


def test_all_locks_of_one_slot_at_once(run: Run, backend: RedisBackend) -> None:
    """Those that share a tag are taken in one operation; others are not, and nothing is held."""
    together = run(locks(backend).acquire_all(["{a}1", "{a}2", "x{a}"], ttl=30, owner="ann"))
    assert all(isinstance(grant, Grant) for grant in together)
    assert run(locks(backend).acquire_all(["b", "c", "d"], ttl=30, owner="ann")) is None
    assert run(locks(backend).holder("b")) is None


def test_all_locks_of_many_slots(mode: Mode, redis_cluster: Cluster, prefix: str) -> None:
    """`lock_all` takes them in one order for everybody: no two callers wait for each other."""
    names = [f"account:{number}" for number in range(6)]
    with resilient.using(redis_cluster.url, prefix=prefix) as backend:
        inside: list[int] = []

        def transfer(order: int) -> Callable[[], Any]:
            mine = resilient.lock_all(*names[order:], *names[:order], wait=20)

            async def alone() -> None:
                async with mine:
                    inside.append(order)
                    await asyncio.sleep(0)
                    assert inside.pop() == order

            def apart() -> None:
                with mine:
                    inside.append(order)
                    assert inside.pop() == order

            return alone if mode.is_async else apart

        mode.together(*map(transfer, range(6)))
        assert all(backend.sync.locks.holder(name) is None for name in names)
        if mode.is_async:
            mode.call(resilient.aclose)


def test_keys_of_all_servers(run: Run, backend: RedisBackend, redis_cluster: Cluster) -> None:
    """`keys` and `clear` see the cached values of every server, and nobody else's."""
    cache = backend.require("cache")
    names = {f"user:{number}" for number in range(40)} | {"{tag}:1", "brace}", "{"}
    for name in names:
        run(cache.set(name, b"value", ttl=30))
    for server in redis_cluster.primaries:
        with server.client() as client:
            assert any(client.scan_iter(f"{backend.prefix}*", count=1000))
    assert set(run(cache.keys())) == names
    assert set(run(cache.keys("user:1*"))) == {name for name in names if name.startswith("user:1")}
    assert run(cache.clear()) == len(names)
    assert run(cache.keys()) == []


def test_a_tag_of_another_server(run: Run, backend: RedisBackend) -> None:
    """A value is a miss once one of its tags is invalidated, wherever both are; others are not."""
    cache = backend.require("cache")
    tags = [f"tag:{number}" for number in range(8)]
    for number, tag in enumerate(tags):
        run(cache.set(f"k{number}", b"value", ttl=30, tags=[tag, "all"]))
    for number, tag in enumerate(tags):
        assert run(cache.get(f"k{number}")).value == b"value"
        run(cache.invalidate_tags([tag]))
        assert run(cache.get(f"k{number}")) is None
    run(cache.set("k", b"value", ttl=30, tags=["all"]))
    assert run(cache.get("k")).value == b"value"
    run(cache.invalidate_tags(["all"]))
    assert run(cache.get("k")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="libfaketime is for Linux here")
def test_tags_whatever_the_clocks(run: Run, prefix: str, tmp_path: Path) -> None:
    """No invalidated value is served where the servers' clocks disagree, and no other is a miss."""
    behind = ServerTime(tmp_path / "behind")
    behind.shift(-5)
    with redis_cluster(env={1: behind.env}) as cluster:
        backend = from_url(cluster.url, prefix=prefix)
        with run.closing(backend):
            cache = backend.require("cache")
            for number in range(30):
                stored, computed, tags = f"s{number}", f"c{number}", [f"tag:{number}"]
                run(cache.set(stored, b"value", ttl=30, tags=tags))
                run(cache.fetch(computed, owner="ann", lease=30, tags=tags))
                assert run(cache.fill(computed, b"value", owner="ann", ttl=30, tags=tags))
                assert run(cache.get(stored)).value == b"value"
                assert run(cache.get(computed)).value == b"value"
                run(cache.invalidate_tags(tags))
                assert run(cache.get(stored)) is None
                assert run(cache.get(computed)) is None


def test_jobs_keep_to_one_slot(run: Run, backend: RedisBackend, redis_cluster: Cluster) -> None:
    """The task's name stands in braces in every key of a job; one with a tag is another job."""
    jobs = backend.require("checkpoints")
    for task in ("import:a", "{import:a}"):
        started = run(jobs.start(task, owner="ann", lease=30, ttl=60))
        assert run(jobs.save(task, b"state of " + task.encode(), fence=started.fence))
    with redis_cluster.primary_of("import:a").client() as client:
        assert client.exists(f"{backend.prefix}checkpoint:{{import:a}}:1")
    assert run(jobs.latest("import:a")).data == b"state of import:a"
    assert run(jobs.latest("{import:a}")).data == b"state of {import:a}"


def test_a_forked_child(redis_cluster: Cluster, prefix: str) -> None:
    """It shares no connection with its parent, and finds every server by itself."""
    backend = from_url(redis_cluster.url, prefix=prefix)

    def ask(who: str) -> None:
        for number in range(60):
            backend.sync.cache.set(f"{who}{number}", f"{who}{number}".encode(), ttl=30)
            entry = backend.sync.cache.get(f"{who}{number}")
            assert entry is not None
            assert entry.value == f"{who}{number}".encode()

    ask("parent")
    pid = forked(partial(ask, "child"))
    ask("parent")
    assert exit_code(pid) == 0
    backend.close()


def test_a_server_that_stands_still(redis_cluster: Cluster, prefix: str) -> None:
    """What is asked of the others together with it is answered all the same."""
    backend = from_url(f"{redis_cluster.url}?socket_timeout=2", prefix=prefix)
    names = [f"k{number}" for number in range(12)]

    async def renewed() -> list[Any]:
        return await Together([locks(backend).renew(n, owner="ann", ttl=30) for n in names])

    for name in names:
        drive(locks(backend).acquire(name, ttl=30, owner="ann"))
    still = redis_cluster.primary_of(f"{prefix}lock:k0")
    still.pause()
    try:
        answers = drive(renewed())
    finally:
        still.resume()
    for name, answer in zip(names, answers, strict=True):
        if redis_cluster.primary_of(f"{prefix}lock:{name}") is still:
            assert isinstance(answer, BackendError)
        else:
            assert answer is True
    assert drive(renewed()) == [True] * 12
    backend.close()


def test_servers_that_stand_still_cost_a_budget(
    run: Run, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are to be asked where what is: whoever asks has no more time than it has."""
    patient = "socket_timeout=60&socket_connect_timeout=60"
    with redis_cluster() as cluster:
        monkeypatch.setattr(topology, "DOUBT_AFTER", 0.0)
        known, new = (from_url(f"{cluster.url}?{patient}", prefix=prefix) for _ in range(2))
        with run.closing(known), run.closing(new), ExitStack() as still:
            run(locks(known).acquire("k", ttl=300, owner="ann"))
            for server in cluster.primaries:
                still.enter_context(server.paused())
            began = time.monotonic()
            for backend in (known, known, known, new, new):
                with pytest.raises(BackendError, match="in time"):
                    run(within(0.2, locks(backend).renew("k", ttl=300, owner="ann")))
            assert time.monotonic() - began < 30
            still.close()
            assert run(locks(known).renew("k", ttl=300, owner="ann"))


def test_tags_while_a_server_stands_still(run: Run, redis_cluster: Cluster, prefix: str) -> None:
    """What the others have is invalidated, and the caller told that it may not be all."""
    backend = from_url(f"{redis_cluster.url}?socket_timeout=2", prefix=prefix)
    cache = backend.require("cache")
    still = redis_cluster.primaries[0]

    def living(name: Callable[[str], str]) -> str:
        found = map("{}".format, count())
        return next(text for text in found if redis_cluster.primary_of(name(text)) is not still)

    key, tag = living(lambda k: cache._names(k)[0]), living(cache._keys.tag)
    with run.closing(backend):
        run(cache.set(key, Encoded(b"old"), ttl=60, tags=(tag,)))
        assert run(cache.get(key)) is not None
        with still.paused(), pytest.raises(BackendError):
            run(cache.invalidate_tags([tag]))
        assert run(cache.get(key)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="libfaketime is for Linux here")
def test_tags_whatever_the_clocks_of_those_that_answer(
    run: Run, prefix: str, tmp_path: Path
) -> None:
    """A tag whose server is behind is no older than a value of another, whoever is away."""
    behind = ServerTime(tmp_path / "behind")
    behind.shift(-5)
    with redis_cluster(env={1: behind.env}) as cluster:
        backend = from_url(f"{cluster.url}?socket_timeout=2", prefix=prefix)
        cache = backend.require("cache")
        still, of_tag, of_value = cluster.primaries
        names = [f"n{number}" for number in range(99)]
        key = next(n for n in names if cluster.primary_of(cache._names(n)[0]) is of_value)
        tag = next(n for n in names if cluster.primary_of(cache._keys.tag(n)) is of_tag)
        with run.closing(backend):
            run(cache.set(key, Encoded(b"old"), ttl=60, tags=(tag,)))
            assert run(cache.get(key)) is not None
            with still.paused(), pytest.raises(BackendError):
                run(cache.invalidate_tags([tag]))
            assert run(cache.get(key)) is None


# --- slots that move


def test_a_slot_moves_while_a_lock_is_held(
    run: Run, backend: RedisBackend, redis_cluster: Cluster
) -> None:
    """It is renewed on the way, and its waiter is woken at the new server; the fence grows."""
    key = f"{backend.prefix}lock:moving-{run.mode}"
    name = f"moving-{run.mode}"
    held = run(locks(backend).acquire(name, ttl=60, owner="ann"))
    waiter, address = run.listen(backend)
    run(locks(backend).acquire(name, ttl=60, owner="bob", waiter=address))
    source = redis_cluster.primary_of(key)
    with redis_cluster.migrating(key) as target:
        assert run(locks(backend).renew(name, ttl=60, owner="ann")), "not moved yet"
        redis_cluster.migrate(key, source, target)
        assert run(locks(backend).renew(name, ttl=60, owner="ann")), "an ASK was not followed"
    assert run(locks(backend).renew(name, ttl=60, owner="ann")), "a MOVED was not followed"
    assert run(locks(backend).release(name, owner="ann"))
    assert run.wait(waiter, 10)
    granted = run(locks(backend).acquire(name, ttl=60, owner="bob", waiter=address))
    assert isinstance(granted, Grant)
    assert granted.fence > held.fence


def test_keys_that_are_moved_apart(run: Run, backend: RedisBackend, redis_cluster: Cluster) -> None:
    """While a lock's keys are neither all here nor all there, the question is asked again."""
    name = f"apart-{run.mode}"
    key = f"{backend.prefix}lock:{name}"
    run(locks(backend).acquire(name, ttl=60, owner="ann"))
    over = threading.Event()
    begun = threading.Event()

    def migrate() -> None:
        with redis_cluster.migrating(key):
            begun.set()
            over.wait(0.3)

    moving = threading.Thread(target=migrate)
    moving.start()
    assert begun.wait(10)
    assert run(locks(backend).renew(name, ttl=60, owner="ann"))
    moving.join()
    assert run(locks(backend).release(name, owner="ann"))
