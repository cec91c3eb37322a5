"""`fenced(client, key, lease)`: writes to the user's own Redis that a stale holder cannot make."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.crc import key_slot

import resilient
from resilient.connections.redis import MEMORY, _fence_of
from resilient.errors import ConfigurationError, KeyMissing, LeaseLost
from tests.support.modes import Mode
from tests.support.servers import RedisAt

Client = Any


@pytest.fixture
def leases() -> Iterator[tuple[Any, Any]]:
    """A lease that was taken away and does not know it, and that of its successor."""
    with resilient.using("memory://"):
        first, second = resilient.lock("k", ttl=60), resilient.lock("k", ttl=60)
        stale = first.__enter__()
        second.force_release(reason="a test")
        yield stale, second.__enter__()
        for lock in (second, first):  # no later test runs under them
            with contextlib.suppress(LeaseLost):
                lock.__exit__(None, None, None)


async def done(mode: Mode, server: RedisAt, key: str, lease: Any, *command: Any) -> Any:
    """One fenced command, by a client of the mode's kind."""
    kind: Any = redis.asyncio.Redis if mode.is_async else redis.Redis
    client = kind.from_url(server.url)
    answer = resilient.fenced(client, key, lease).execute(*command)
    if isinstance(answer, Awaitable):
        try:
            return await answer
        finally:
            await client.aclose()
    client.close()
    return answer


@pytest.mark.parametrize("name", ["state", "{tenant}:state", "state%1"])
def test_a_stale_holder_writes_nothing(
    redis_server: RedisAt, prefix: str, mode: Mode, leases: tuple[Any, Any], name: str
) -> None:
    """It writes until its successor has, and never after; the message tells both fences."""
    stale, newer = leases
    key = prefix + name
    fenced = mode.function(done)
    assert mode.call(fenced, mode, redis_server, key, stale, "SET", "old") == b"OK"
    assert mode.call(fenced, mode, redis_server, key, newer, "APPEND", "-new") == 7
    with pytest.raises(LeaseLost, match=rf"{stale.fence}.*under the fence {newer.fence}"):
        mode.call(fenced, mode, redis_server, key, stale, "SET", "stale")
    assert mode.call(fenced, mode, redis_server, key, newer, "GET") == b"old-new"
    with redis_server.client() as client:
        assert 0 < client.pttl(_fence_of(key)) <= MEMORY


def test_set_takes_the_servers_options(
    redis_server: RedisAt, prefix: str, leases: tuple[Any, Any]
) -> None:
    """The short form of the usual command, both kinds of clients."""
    _, newer = leases

    async def main() -> None:
        async with redis.asyncio.Redis.from_url(redis_server.url) as client:
            await resilient.fenced(client, prefix + "a", newer).set("1", "EX", 60)
            assert 0 < await client.ttl(prefix + "a") <= 60

    asyncio.run(main())
    with redis_server.client(decode_responses=True) as client:
        assert resilient.fenced(client, prefix + "b", newer).set("1", "GET") is None
        assert resilient.fenced(client, prefix + "b", newer).set("2", "GET") == "1"


def test_a_lease_known_to_be_lost_is_refused_without_asking(leases: tuple[Any, Any]) -> None:
    """No server is needed for it."""
    stale, _ = leases
    stale.lose("a test says so")
    with (
        redis.Redis(port=1) as nowhere,
        pytest.raises(LeaseLost, match="a test says so"),
    ):
        resilient.fenced(nowhere, "k", stale).set("1")


def test_a_call_without_its_lock_is_not_refused(
    redis_server: RedisAt, prefix: str, leases: tuple[Any, Any]
) -> None:
    """Whoever chose to run without the lock when the backend is away writes, and fences nobody."""
    with redis_server.client() as client:
        key = prefix + "state"
        resilient.fenced(client, key, leases[1]).set("new")
        resilient.fenced(client, key, resilient.LockLease.pretended("k")).set("unlocked")
        assert (client.get(key), client.get(_fence_of(key))) == (
            b"unlocked",
            str(leases[1].fence).encode(),
        )


def test_a_failed_command_is_the_clients_own_error(
    redis_server: RedisAt, prefix: str, leases: tuple[Any, Any]
) -> None:
    """What the server says of the command passes through."""
    with redis_server.client() as client:
        state = resilient.fenced(client, prefix + "state", leases[1])
        state.set("text")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            state.execute("HSET", "field", "value")


@pytest.mark.parametrize("key", ["a", "a:b", "{a}b", "x{a}b", "{{a}b", "a%b", "x{a", "{"])
def test_the_fence_lies_in_the_slot_of_its_key(key: str) -> None:
    """On a cluster both belong to one server."""
    assert key_slot(_fence_of(key).encode()) == key_slot(key.encode())


@pytest.mark.parametrize("key", ["a}b", "{}a", "}"])
def test_a_key_that_no_fence_can_lie_beside_is_refused(key: str, leases: tuple[Any, Any]) -> None:
    """Rather than found out on the day of the cluster."""
    with pytest.raises(ConfigurationError, match="outside a hash tag"):
        resilient.fenced(redis.Redis(), key, leases[1])


def test_a_lease_that_others_share_is_refused() -> None:
    """Their fences do not order what they write: neither here nor in a database."""
    with resilient.using("memory://"), resilient.semaphore("s", limit=2) as permit:
        with redis.Redis() as client, pytest.raises(ConfigurationError, match="several may hold"):
            resilient.fenced(client, "k", permit)
        with (
            contextlib.closing(sqlite3.connect(":memory:")) as connection,
            pytest.raises(ConfigurationError, match="several may hold"),
        ):
            permit.bind(connection)


def test_what_is_no_client_is_refused(leases: tuple[Any, Any]) -> None:
    """A pipeline neither: its answers come too late."""
    with pytest.raises(ConfigurationError, match="is not a client"):
        resilient.fenced(object(), "k", leases[1])  # type: ignore[call-overload]  # what is to be refused
    with redis.Redis() as client, pytest.raises(ConfigurationError, match="is not a client"):
        resilient.fenced(client.pipeline(), "k", leases[1])
    with pytest.raises(KeyMissing):
        resilient.fenced(redis.Redis(), "", leases[1])
