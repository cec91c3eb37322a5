"""Tasks that wait hear what concerns them over their own loop's connection, without a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from resilient import CircuitBreaker
from resilient.backends.redis import RedisBackend, from_url
from resilient.backends.redis.multiplexed import Multiplexed, _Wire
from resilient.engine.drivers.aio import LoopWaiter, adrive
from resilient.engine.plan import Listen, Wait
from resilient.errors import BackendError
from resilient.protocols.locks import Grant, Held
from resilient.protocols.values import Encoded
from resilient.testing.faults import FaultProxy
from tests.support.servers import RedisAt, redis_server


def listening_threads() -> list[str]:
    """The names of those of this process."""
    names = [each.name for each in threading.enumerate()]
    return [name for name in names if name.startswith("resilient-signals")]


async def begun(backend: RedisBackend) -> LoopWaiter:
    """A waiter of the running loop."""

    async def plan() -> Any:
        return await Listen(backend.hub)

    waiter = await adrive(plan())
    assert isinstance(waiter, LoopWaiter)
    return waiter


async def woken(waiter: LoopWaiter) -> bool:
    """Whether it is, soon."""

    async def plan() -> bool:
        return await Wait(waiter, 10)

    return await adrive(plan())


async def queued(backend: RedisBackend, waiter: LoopWaiter, owner: str) -> None:
    """Have it wait for the lock `k`, which somebody holds."""
    locks = backend.require("locks")
    address = backend.hub.address(waiter)
    answer = await adrive(locks.acquire("k", ttl=30, owner=owner, waiter=address))
    assert isinstance(answer, Held)


async def handed_over(backend: RedisBackend, owner: str) -> LoopWaiter:
    """A waiter who was handed the lock `k` that somebody else held."""
    locks = backend.require("locks")
    await adrive(locks.acquire("k", ttl=30, owner="ann"))
    waiter = await begun(backend)
    await queued(backend, waiter, owner)
    await adrive(locks.release("k", owner="ann"))
    assert await woken(waiter)
    assert int(waiter.gift) > 0
    await adrive(locks.release("k", owner=owner))
    return waiter


def test_a_task_is_woken_without_a_thread(every_redis: RedisAt, prefix: str) -> None:
    """One connection a loop, for what it asks and for what it hears; one channel."""

    async def main() -> None:
        first = await handed_over(backend, "bob")
        again = await handed_over(backend, "cid")
        assert first.channel == again.channel != ""
        assert listening_threads() == []
        assert client.pubsub_channels(f"{prefix}*") == [again.channel.encode()]
        assert client.client_list(_type="pubsub")
        await backend.aclose()

    backend = from_url(every_redis.url, prefix=prefix)
    with every_redis.client() as client:
        asyncio.run(main())


def test_each_loop_hears_its_own(every_redis: RedisAt, prefix: str) -> None:
    """The next loop has another channel, and nothing is left of the first one's."""
    backend = from_url(every_redis.url, prefix=prefix)
    channels = [asyncio.run(handed_over(backend, "bob")).channel for _ in range(2)]
    assert len(set(channels)) == 2
    backend.close()


def test_everything_else_is_answered_meanwhile(every_redis: RedisAt, prefix: str) -> None:
    """What is asked while signals come in gets its own answers, an absent value included."""

    async def main() -> None:
        cache, locks = backend.require("cache"), backend.require("locks")
        await handed_over(backend, "bob")
        for number in range(50):
            await adrive(locks.acquire("k", ttl=30, owner="ann"))
            waiter = await begun(backend)
            await queued(backend, waiter, "bob")
            answers = await asyncio.gather(
                adrive(cache.get("absent")),
                adrive(locks.release("k", owner="ann")),
                adrive(cache.set(f"v{number}", b"1", ttl=30)),
                woken(waiter),
            )
            assert (answers[0], answers[1], answers[3]) == (None, True, True)
            await adrive(locks.release("k", owner="bob"))
        await backend.aclose()

    backend = from_url(every_redis.url, prefix=prefix)
    asyncio.run(main())


def test_a_lost_connection_is_told_to_who_waits(every_redis: RedisAt, prefix: str) -> None:
    """It is woken, asks over the next connection, and hears on that one."""

    async def main() -> None:
        locks = backend.require("locks")
        await handed_over(backend, "bob")
        await adrive(locks.acquire("k", ttl=30, owner="ann"))
        waiter = await begun(backend)
        await queued(backend, waiter, "bob")

        await asyncio.to_thread(proxy.refuse)
        proxy.accept()
        assert await woken(waiter)
        assert waiter.gift == ""

        await queued(backend, waiter, "bob")
        await adrive(locks.release("k", owner="ann"))
        assert await woken(waiter)
        assert int(waiter.gift) > 0
        assert (await begun(backend)).channel == waiter.channel
        await backend.aclose()

    with FaultProxy(every_redis.url) as proxy:
        backend = from_url(proxy.url, prefix=prefix)
        asyncio.run(main())


def test_where_a_connection_cannot_do_both_a_thread_listens(
    every_redis: RedisAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy, perhaps, that does not know the protocol's version 3."""
    said = Multiplexed._said

    def unknown(self: Multiplexed, wire: Any, *words: str) -> Any:
        return (
            said(self, wire, "UNKNOWN", *words) if words[0] == "HELLO" else said(self, wire, *words)
        )

    monkeypatch.setattr(Multiplexed, "_said", unknown)

    async def main() -> None:
        waiter = await handed_over(backend, "bob")
        assert waiter.channel == backend.hub.channel_here() == ""
        assert len(listening_threads()) == 1
        await handed_over(backend, "cid")
        await backend.aclose()

    backend = from_url(every_redis.url, prefix=prefix)
    asyncio.run(main())


def test_a_user_who_may_not_listen() -> None:
    """It is refused once, and what it asks afterwards gets its own answers."""

    async def main() -> None:
        assert [await backend.hub.listen_here() for _ in range(2)] == ["", ""]
        for owner in ("ann", "bob"):
            await adrive(backend.require("locks").acquire(owner, ttl=30, owner=owner))
        assert backend.hub.channel_here() == ""
        await backend.aclose()

    with redis_server() as server:
        with server.client() as client:
            user = ("app", "on", ">secret", "~*", "&*", "+@all", "-SUBSCRIBE")
            client.execute_command("ACL", "SETUSER", *user)
        backend = from_url(server.url.replace("redis://", "redis://app:secret@"), prefix="app:")
        asyncio.run(main())


def test_a_circuit_is_listened_for_in_a_loop_too(every_redis: RedisAt, prefix: str) -> None:
    """Before its state is asked for: what is told to all comes over no loop's own connection."""

    async def known() -> bool:
        await CircuitBreaker("heard", backend=backend).at().ametrics()
        return backend.hub.is_listening

    backend = from_url(every_redis.url, prefix=prefix)
    assert not backend.hub.is_listening
    assert asyncio.run(known())
    backend.close()


def test_a_network_that_ends_who_says_hello(every_redis: RedisAt, prefix: str) -> None:
    """Perhaps it always does: a thread listens from then on, and all else goes on."""

    async def main() -> None:
        locks = backend.require("locks")
        await adrive(locks.acquire("warm", ttl=30, owner="ann"))
        with pytest.raises(BackendError):
            await backend.hub.listen_here()
        for number in range(4):
            assert await adrive(locks.acquire(f"k{number}", ttl=30, owner="ann"))
        assert (await handed_over(backend, "bob")).channel == ""
        await backend.aclose()

    with FaultProxy(every_redis.url) as proxy:
        backend = from_url(proxy.url, prefix=prefix)
        proxy.drop_reply_when(lambda request: b"HELLO" in request)
        asyncio.run(main())


def test_a_network_that_falls_silent_as_a_loop_begins_to_hear(
    every_redis: RedisAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is given up in time for the next one; nothing waits for it for ever."""
    real = _Wire.send
    lost: list[Any] = []

    def send(self: Any, flights: Any) -> None:
        if hears and not lost and b"HELLO" in flights[0].command.packed:
            lost.append(self)
            self.under_way.extend(flights)
        else:
            real(self, flights)

    monkeypatch.setattr(_Wire, "send", send)
    hears = False

    async def main() -> None:
        nonlocal hears
        locks = backend.require("locks")
        await handed_over(backend, "bob")
        hears = True
        backend._transport._loops[asyncio.get_running_loop()]._wire.abort()
        with pytest.raises(BackendError):
            while not lost:
                await adrive(locks.acquire("k", ttl=30, owner="ann"))
        assert isinstance(await adrive(locks.acquire("k", ttl=30, owner="ann")), Grant)
        await backend.aclose()

    backend: Any = from_url(
        f"{every_redis.url}?socket_timeout=4&socket_connect_timeout=1", prefix=prefix
    )
    asyncio.run(main())
    assert lost


def test_tasks_that_begin_to_wait_at_once_have_one_channel(
    every_redis: RedisAt, prefix: str
) -> None:
    """The second one does not take the first one's away before it has been heard of."""

    async def main() -> None:
        await adrive(backend.require("locks").acquire("warm", ttl=30, owner="ann"))
        proxy.latency(0.05)
        waiters = await asyncio.gather(*[begun(backend) for _ in range(5)])
        proxy.latency(0)
        channels = {waiter.channel for waiter in waiters}
        assert client.pubsub_channels(f"{prefix}*") == [each.encode() for each in channels]
        await backend.aclose()

    with FaultProxy(every_redis.url) as proxy, every_redis.client() as client:
        backend = from_url(proxy.url, prefix=prefix)
        asyncio.run(main())


def test_much_is_read_by_a_loop_that_hears(every_redis: RedisAt, prefix: str) -> None:
    """A server bounds what it keeps for who hears: a loop that reads more hears by a thread."""

    async def main() -> None:
        cache = backend.require("cache")
        await adrive(cache.set("k", Encoded(bytes(300_000)), ttl=60))
        await handed_over(backend, "bob")
        found = await asyncio.gather(*[adrive(cache.get("k")) for _ in range(400)])
        assert all(entry is not None and len(entry.value) == 300_000 for entry in found)
        await handed_over(backend, "cid")
        await backend.aclose()

    backend = from_url(f"{every_redis.url}?socket_timeout=60", prefix=prefix)
    asyncio.run(main())


def test_who_waits_is_heard_though_another_task_closes_the_backend(
    every_redis: RedisAt, prefix: str
) -> None:
    """It is told that something may have been missed, and has its channel again."""

    async def main() -> None:
        locks = backend.require("locks")
        await handed_over(backend, "bob")
        await adrive(locks.acquire("k", ttl=30, owner="ann"))
        waiter = await begun(backend)
        await queued(backend, waiter, "bob")
        await backend.aclose()
        assert await woken(waiter)
        await queued(backend, waiter, "bob")
        await adrive(locks.release("k", owner="ann"))
        assert await woken(waiter)
        assert int(waiter.gift) > 0
        await backend.aclose()

    backend = from_url(every_redis.url, prefix=prefix)
    asyncio.run(main())
