"""How commands reach Redis: round trips, broken connections, late replies, threads and loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis.exceptions import ResponseError

from resilient.backends.redis import RedisBackend, from_url
from resilient.backends.redis.commands import Batch, Command, Plain
from resilient.backends.redis.failures import backend_error
from resilient.engine.budget import remaining, within
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Ask, Together
from resilient.errors import BackendError
from resilient.protocols.locks import Grant
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.interrupts import nobody_gets_the_answer_to_an_interrupted_question
from tests.support.network import BadNetwork
from tests.support.servers import RedisAt, RedisServer


@pytest.fixture
def url(redis_server: RedisAt) -> str:
    """Of the shared server."""
    return redis_server.url


@pytest.fixture
def backend(served: RedisBackend) -> RedisBackend:
    """A backend on the shared server."""
    return served


@pytest.fixture
def behind(run: Run, proxy: FaultProxy, prefix: str) -> Iterator[RedisBackend]:
    """A backend behind that network, that waits for a second."""
    url = f"{proxy.url}?socket_timeout=1&socket_connect_timeout=1"
    backend = from_url(url, prefix=prefix)
    with run.closing(backend):
        yield backend


def locks(backend: RedisBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


# --- round trips


def test_one_round_trip_each(run: Run, backend: RedisBackend, redis_server: RedisAt) -> None:
    """Acquire and release are one round trip each, a cache hit with its tags is one."""
    cache = backend.require("cache")
    run(locks(backend).acquire("warm", ttl=30, owner="ann"))
    run(locks(backend).release("warm", owner="ann"))
    run(cache.fetch("k", owner="ann", lease=30, tags=["red", "blue"]))
    run(cache.fill("k", b"value", owner="ann", ttl=30, tags=["red", "blue"]))

    with redis_server.round_trips() as lock:
        run(locks(backend).acquire("k", ttl=30, owner="ann"))
        run(locks(backend).release("k", owner="ann"))
    with redis_server.round_trips() as hit:
        assert run(cache.fetch("k", owner="bob", lease=30, tags=["blue", "red"])).value == b"value"

    assert (lock.count, hit.count) == (2, 1)


def test_one_turn_of_the_loop_is_one_trip(redis_server: RedisAt, prefix: str) -> None:
    """What is asked in one turn of the loop leaves as one pipeline."""
    backend = from_url(redis_server.url, prefix=prefix)

    async def main() -> None:
        await adrive(locks(backend).acquire("warm", ttl=30))
        plans = [locks(backend).acquire(f"k{i}", ttl=30) for i in range(20)]
        with redis_server.round_trips() as trips:
            grants = await asyncio.gather(*map(adrive, plans))
        assert len({grant.fence for grant in grants}) == 20
        assert trips.count == 1

    asyncio.run(main())
    backend.close()


def test_a_heartbeat_is_one_trip(run: Run, backend: RedisBackend, redis_server: RedisAt) -> None:
    """All leases are renewed together; one that is lost says so without harm to the others."""
    for number in range(10):
        run(locks(backend).acquire(f"k{number}", ttl=30, owner="ann"))
    run(locks(backend).force_release("k3"))

    async def together() -> list[Any]:
        return await Together(
            [locks(backend).renew(f"k{i}", owner="ann", ttl=30) for i in range(10)]
        )

    run(together())
    with redis_server.round_trips() as trips:
        answers = run(together())

    assert answers == [number != 3 for number in range(10)]
    assert trips.count == 1


# --- scripts


def forget_scripts(server: RedisAt) -> None:
    """As after a restart."""
    with server.client() as client:
        client.script_flush()


def test_a_server_that_lost_the_scripts(
    run: Run, backend: RedisBackend, redis_server: RedisAt
) -> None:
    """Single calls, pipelines whose order matters, and renewals all go on after a restart."""
    store, cache = locks(backend), backend.require("cache")
    forget_scripts(redis_server)
    assert isinstance(run(store.acquire("k", ttl=30, owner="ann")), Grant)

    forget_scripts(redis_server)
    run(cache.set("k", b"value", ttl=30, tags=["red"]))
    forget_scripts(redis_server)
    assert run(cache.fetch("k", owner="ann", lease=30, tags=["red"])).value == b"value"

    async def together() -> list[Any]:
        return await Together([store.renew(key, owner="ann", ttl=30) for key in ("k", "l", "k")])

    forget_scripts(redis_server)
    assert run(together()) == [True, False, True]


# --- replies that never come


class TestBadNetwork(BadNetwork):
    """Whatever is lost, silent or broken between us and Redis."""

    calls = (b"EVALSHA",)


def test_what_failed_before_it_was_sent_is_not_sent_later(
    run: Run, proxy: FaultProxy, behind: RedisBackend
) -> None:
    """The caller's budget is spent before there is a connection: nobody takes the lock for it."""
    store = locks(behind)

    async def given_up_and_looked() -> object:
        with pytest.raises(BackendError, match="in time"):
            await within(0.02, store.acquire("k", ttl=30))
        proxy.latency(0)
        return await store.holder("k")

    proxy.latency(0.1)
    assert run(given_up_and_looked()) is None


def test_a_restarted_server(run: Run, private_redis: RedisServer) -> None:
    """Connections that died while nobody used them are replaced without an error."""
    backend = from_url(private_redis.url, prefix="")
    with run.closing(backend):
        before = run(locks(backend).acquire("k", ttl=30, owner="ann"))
        private_redis.restart()
        assert run(locks(backend).acquire("k", ttl=30, owner="ann")).fence == before.fence
        private_redis.kill()
        with pytest.raises(BackendError, match="could not be reached"):
            run(locks(backend).acquire("k", ttl=30, owner="ann"))
        private_redis.start()
        assert run(locks(backend).renew("k", owner="ann", ttl=30)) is True


def test_more_replies_than_questions(run: Run, backend: RedisBackend) -> None:
    """A connection on which nobody knows any more what answers what is not used again."""
    asked = Batch([Plain("ECHO", "first"), Plain("ECHO", "second")])
    asked.replies = 1

    async def ask(command: Command) -> Any:
        return await Ask(locks(backend)._transport, command)

    with contextlib.suppress(BackendError):  # the first reply may have been there before
        run(ask(asked))
    assert run(ask(Plain("ECHO", "third"))) == b"third"


# --- what the server refuses


def test_a_replica(run: Run, private_redis: RedisServer) -> None:
    """A server that was demoted: the fail-over ends by itself, so trying again may help."""
    backend = from_url(private_redis.url, prefix="")
    with run.closing(backend):
        run(locks(backend).acquire("k", ttl=30))
        with private_redis.client() as client:
            client.replicaof("127.0.0.1", "1")
        with pytest.raises(BackendError, match="ReadOnlyError") as caught:
            run(locks(backend).acquire("l", ttl=30))
    assert caught.value.transient


def test_a_replica_that_runs_a_script() -> None:
    """Redis 6.2 wraps what a script ran into: a demoted primary is known all the same."""
    answer = ResponseError(
        "Error running script (call to f_6b1bf486c81ceb7edf3c093f4c48582e38c0e791): "
        "@user_script:1: -READONLY You can't write against a read only replica."
    )
    assert backend_error("redis://x", answer).transient
    assert not backend_error("redis://x", ResponseError("unknown command")).transient


def test_a_full_server(run: Run, private_redis: RedisServer) -> None:
    """Out of memory: that does not pass by trying again."""
    backend = from_url(private_redis.url, prefix="")
    with run.closing(backend):
        run(locks(backend).acquire("k", ttl=30))
        with private_redis.client() as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(BackendError, match=r"OutOfMemory|OOM") as caught:
            run(locks(backend).acquire("l", ttl=30))
    assert not caught.value.transient


def test_a_user_without_rights(run: Run, private_redis: RedisServer) -> None:
    """A user whose rights do not reach is refused for good; one with enough rights is served."""
    with private_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", ">pw", "~p:*", "+ping")
        client.execute_command(
            *("ACL", "SETUSER", "rich", "on", ">pw", "~p:*", "~{p:*", "&p:*", "-@all"),
            *("+@read", "+@write", "+@scripting", "+@pubsub", "+@connection", "+time"),
        )
    place = private_redis.url.partition("://")[2]
    poor = from_url(f"redis://poor:pw@{place}", prefix="p:")
    rich = from_url(f"redis://rich:pw@{place}", prefix="p:")
    with run.closing(poor), run.closing(rich):
        with pytest.raises(BackendError, match="refused access") as caught:
            run(locks(poor).acquire("k", ttl=30))
        assert not caught.value.transient
        assert isinstance(run(locks(rich).acquire("k", ttl=30, owner="ann")), Grant)
        waiter, address = run.listen(rich)
        run(locks(rich).acquire("k", ttl=30, owner="bob", waiter=address))
        run(locks(rich).release("k", owner="ann"))
        assert run.wait(waiter, 5)


# --- threads


def test_nobody_is_refused(redis_server: RedisAt, prefix: str) -> None:
    """A hundred threads at once are all served; only a few connections stay afterwards."""
    backend = from_url(f"{redis_server.url}?max_connections=2", prefix=prefix)
    start = threading.Barrier(100)

    def one(number: int) -> Any:
        start.wait()
        return drive(locks(backend).acquire(f"k{number}", ttl=30, owner=str(number)))

    with ThreadPoolExecutor(100) as pool:
        grants = list(pool.map(one, range(100)))
    backend.close()

    assert [grant.owner for grant in grants] == list(map(str, range(100)))


def test_an_interrupted_thread(proxy: FaultProxy, redis_server: RedisAt, prefix: str) -> None:
    """After Ctrl-C between question and answer, nobody gets that answer."""
    backend = from_url(proxy.url, prefix=prefix)
    nobody_gets_the_answer_to_an_interrupted_question(backend, proxy)


def test_large_values(run: Run, backend: RedisBackend) -> None:
    """Values far beyond any buffer, many at once."""
    cache = backend.require("cache")
    values = [bytes([number]) * 3_000_000 for number in range(8)]

    run.together(*[cache.set(f"k{n}", value, ttl=30) for n, value in enumerate(values)])
    found = run.together(*[cache.get(f"k{n}") for n in range(8)])

    assert [entry.value for entry in found] == values


def test_plans_side_by_side_have_contexts_of_their_own(run: Run, backend: RedisBackend) -> None:
    """What plans set in turns, such as the budget of a request, is not left behind by them."""

    async def one(number: int) -> float | None:
        await within(10.0 * number, backend.require("cache").has("k"))
        return remaining()

    async def all_three() -> list[Any]:
        return [*await Together([one(number) for number in (1, 2, 3)]), remaining()]

    assert run(all_three()) == [None] * 4
    assert remaining() is None
