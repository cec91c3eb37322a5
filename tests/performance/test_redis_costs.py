"""What calls through Redis cost beside redis-py's plain commands: processor time of both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import resilient
from tests.performance.ratios import Call, Costs
from tests.support.servers import RedisAt

pytestmark = [
    pytest.mark.timing,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="nobody tells"),
]

STEPS = 100


@pytest.fixture
def client(redis_server: RedisAt, prefix: str) -> Iterator[Any]:
    """A client as redis-py makes it; ours is configured for the same server."""
    with (
        redis.Redis.from_url(redis_server.url) as client,
        resilient.using(redis_server.url, prefix=prefix),
    ):
        yield client


@pytest.fixture
def ratio(client: Any) -> Callable[[Call, Call, int, float], float]:
    """A function that measures ours beside theirs until a limit holds."""
    server = client.info("server")["process_id"]

    def measured(ours: Call, theirs: Call, calls: int, limit: float) -> float:
        costs = Costs({"ours": ours, "theirs": theirs}, calls=calls, server=server)
        found = costs.settle(lambda costs: costs["ours"] / costs["theirs"], limit)
        print(f"{found:.2f} of {costs['theirs'] * 1e6:.0f} µs")
        return found

    return measured


def test_a_replay_beside_a_get(client: Any, ratio: Callable[..., float], prefix: str) -> None:
    """A call that was made before costs about one of redis-py's `GET`."""

    @resilient.idempotent("call:{n}", ttl=600)
    def charge(n: int) -> int:
        return n

    charge(7)
    client.set(f"{prefix}raw", b"a stored result of some bytes")
    assert ratio(charge, lambda _: client.get(f"{prefix}raw"), 20, 1.1) <= 1.25


def test_a_first_call_beside_two_sets(
    client: Any, ratio: Callable[..., float], prefix: str
) -> None:
    """The first call of a key costs about as much as redis-py's `SET NX` and `SET`."""

    @resilient.idempotent("call:{n}", ttl=600)
    def charge(n: int) -> int:
        return n

    def bare(n: int) -> None:
        client.set(f"{prefix}raw:{n}", "claimed", nx=True, ex=30)
        client.set(f"{prefix}raw:{n}", "done", ex=600)

    ours, theirs = count(), count()
    assert ratio(lambda _: charge(next(ours)), lambda _: bare(next(theirs)), 10, 1.1) <= 1.2


def double(number: int) -> int:
    """What a step does."""
    return 2 * number


def test_a_step_beside_an_hset(client: Any, ratio: Callable[..., float], prefix: str) -> None:
    """A step of a job costs about one of redis-py's `HSET`, the job's two trips included."""

    @resilient.checkpointed("steps:{n}")
    def steps(job: resilient.Job, n: int) -> None:
        for index in range(STEPS):
            job.step(str(index), double, index)

    def bare(n: int) -> None:
        for index in range(STEPS):
            client.hset(f"{prefix}raw:{n}", str(index), "result")

    ours, theirs = count(), count()
    assert ratio(lambda _: steps(next(ours)), lambda _: bare(next(theirs)), 1, 1.1) <= 1.2


RELEASE = """\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0"""


def test_a_lock_beside_set_nx_and_a_script(
    client: Any, ratio: Callable[..., float], prefix: str
) -> None:
    """Taking and releasing a lock costs at most 1.15 of `SET NX PX` and `EVALSHA`."""
    key, release = f"{prefix}raw", client.register_script(RELEASE)

    @resilient.distributed_lock("lock:{n}")
    def locked(n: int) -> int:
        return n

    def bare(n: int) -> None:
        client.set(key, "owner", nx=True, px=30_000)
        release(keys=[key], args=["owner"])

    assert ratio(locked, bare, 20, 1.15) <= 1.15


class AsyncClients:
    """A client as `redis.asyncio` makes it, one for each loop; the loop's own end closes it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._by_loop: dict[Any, tuple[AsyncGenerator[Any], Any]] = {}

    async def here(self) -> Any:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            opening = self._opened()
            self._by_loop[loop] = opening, await anext(opening)
        return self._by_loop[loop][1]

    async def _opened(self) -> AsyncGenerator[Any]:
        async with redis.asyncio.Redis.from_url(self._url) as client:
            yield client


def test_an_async_step_beside_an_hset(
    redis_server: RedisAt, ratio: Callable[..., float], prefix: str
) -> None:
    """In an event loop 1.2 of what redis-py's asyncio client needs for an `HSET`, at most."""
    clients = AsyncClients(redis_server.url)

    @resilient.checkpointed("steps:{n}")
    async def steps(job: resilient.AsyncJob, n: int) -> None:
        for index in range(STEPS):
            await job.step(str(index), double, index)

    numbers = count()

    async def ours(_: int) -> None:
        await steps(next(numbers))

    async def theirs(_: int) -> None:
        client, n = await clients.here(), next(numbers)
        for index in range(STEPS):
            await client.hset(f"{prefix}raw:{n}", str(index), "result")

    assert ratio(ours, theirs, 1, 1.1) <= 1.2


def test_an_async_lock_beside_the_same(
    redis_server: RedisAt, ratio: Callable[..., float], prefix: str
) -> None:
    """In an event loop 1.05 of what redis-py's asyncio client needs for the two, at most."""
    key, clients = f"{prefix}raw", AsyncClients(redis_server.url)
    release = redis.asyncio.Redis().register_script(RELEASE)

    @resilient.distributed_lock("lock:{n}")
    async def locked(n: int) -> int:
        return n

    async def bare(n: int) -> None:
        client = await clients.here()
        await client.set(key, "owner", nx=True, px=30_000)
        await release(keys=[key], args=["owner"], client=client)

    assert ratio(locked, bare, 20, 1.05) <= 1.05
