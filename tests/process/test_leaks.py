"""Nothing is left behind: no thread, task or socket, and no key without a TTL."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import (
    AsyncJob,
    FailureRate,
    Job,
    cached,
    checkpointed,
    circuit_breaker,
    distributed_lock,
    idempotent,
)
from tests.support.fixtures import Target
from tests.support.modes import Mode
from tests.support.scale import scaled
from tests.support.servers import RedisAt
from tests.support.waiting import soon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

KEYS = scaled(10_000, 2_000)


def decorated(mode: Mode) -> list[Any]:
    """A function under each policy, all keyed by a number."""

    async def double(number: int) -> int:
        return 2 * number

    async def failing(number: int) -> int:
        raise ValueError(number)

    def batch(job: Job, number: int) -> int:
        return sum(job.iterate(range(3)))

    async def abatch(job: AsyncJob, number: int) -> int:
        return sum([each async for each in job.iterate(range(3))])

    return [
        mode.decorate(distributed_lock("lock:{number}", ttl=30), double),
        mode.decorate(cached("cached:{number}", ttl="5m", tags=("all",)), double),
        mode.decorate(idempotent("call:{number}", ttl="5m"), double),
        mode.decorate(circuit_breaker("circuit:{number}", trip=FailureRate(0.5)), double),
        _swallowing(mode, mode.decorate(circuit_breaker("bad:{number}"), failing)),
        checkpointed("job:{number}", every=1, ttl="5m")(abatch if mode.is_async else batch),
    ]


def _swallowing(mode: Mode, function: Any) -> Any:
    async def body(number: int) -> None:
        with pytest.raises(ValueError, match=str(number)):
            await mode.within(function, number)

    return mode.function(body)


def open_sockets() -> int:
    """How many sockets this process has."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        with_link = Path("/proc/self/fd") / name
        try:
            links.append(os.readlink(with_link))
        except OSError:
            continue
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.slow
def test_many_keys_leave_no_thread_and_no_key_without_a_ttl(
    target: Target, mode: Mode, request: pytest.FixtureRequest
) -> None:
    """10,000, under all policies, in two event loops one after the other; and what is left then."""
    threads, most = set(threading.enumerate()), _most_threads(target, mode)
    with warnings.catch_warnings(), resilient.using(target.url, prefix=target.prefix):
        warnings.simplefilter("error")
        functions = decorated(mode)
        for half in range(2):
            for number in range(half * KEYS // 12, (half + 1) * KEYS // 12):
                for function in functions:
                    mode.call(function, number)
            # One more may be about to end: it has only started another one.
            assert soon(lambda: len(_own_threads() - threads) <= most), _own_threads() - threads
            if mode.is_async:
                assert soon(lambda: len(mode.call(_tasks)) <= 1)
            mode.fresh_loop()
            gc.collect()
    mode.fresh_loop()
    gc.collect()
    assert soon(lambda: threads.issuperset(threading.enumerate()))
    _check_ttls(target, request)


def _own_threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name.startswith("resilient")}


def _most_threads(target: Target, mode: Mode) -> int:
    if target.kind == "sqlite" and mode.is_async:
        return 2 + 4  # which do its blocking work for event loops
    if target.kind == "mongodb":
        return 2 + 7  # which send side by side what the background tells of many circuits
    return 2


async def _tasks() -> set[Any]:
    # pymongo's async client has a few that watch the servers, however many keys there are.
    return {task for task in asyncio.all_tasks() if not task.get_name().startswith("pymongo")}


def _check_ttls(target: Target, request: pytest.FixtureRequest) -> None:
    """Every record under the prefix expires by itself."""
    if target.kind == "redis":
        server: RedisAt = request.getfixturevalue("redis_server")
        with server.client() as client:
            keys = list(client.scan_iter(match=f"{target.prefix}*", count=1000))
            ttls = [client.pttl(key) for key in keys]
        assert len(keys) > KEYS / 4
        assert min(ttls) > 0
    if target.kind == "sqlite":
        path = target.url.removeprefix("sqlite:///")
        with sqlite3.connect(path) as connection:
            query = "SELECT count(*), min(expires), max(expires) FROM record"
            count, first, last = connection.execute(query).fetchone()
        assert count > KEYS / 4
        assert 0 < first <= last < time.time() + 31 * 86400
        connection.close()


def test_sockets_are_given_back(target: Target, mode: Mode) -> None:
    """As many as before, once the backend is closed and the loop is over."""
    before = open_sockets()
    with resilient.using(target.url, prefix=target.prefix) as backend:
        functions = decorated(mode)
        for function in functions:
            mode.call(function, 1)
        mode.call(backend.aclose if mode.is_async else backend.close)
    mode.fresh_loop()
    gc.collect()
    assert soon(lambda: open_sockets() <= before)


def test_a_cached_function_may_call_itself(target: Target, mode: Mode) -> None:
    """Under other keys, and under its own: no deadlock."""
    depth = 0

    async def factorial(number: int) -> int:
        return 1 if number < 2 else number * await mode.within(wrapped, number - 1)

    async def own_key(number: int) -> int:
        nonlocal depth
        depth += 1
        return depth if depth >= 3 else await mode.within(recursive, number)

    with resilient.using(target.url, prefix=target.prefix) as backend:
        wrapped = mode.decorate(cached(ttl=60), factorial)
        recursive = mode.decorate(cached(ttl=60), own_key)
        assert mode.call(wrapped, 10) == 3628800
        assert mode.call(recursive, 1) == 3
        if mode.is_async:
            mode.call(backend.aclose)
