"""How often a call goes to Redis and back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resilient
from resilient.engine.circuits.outcomes import SUCCESSES_WITHIN
from resilient.engine.listening import QUIET
from tests.support.modes import Mode
from tests.support.servers import RedisAt

CALLS = 50


@pytest.fixture(autouse=True)
def _backend(every_redis: RedisAt, prefix: str) -> Iterator[None]:
    with resilient.using(every_redis.url, prefix=prefix):
        yield


async def body(n: int) -> int:
    """What is decorated."""
    return n


def trips(mode: Mode, server: RedisAt, call: Callable[[int], Any], calls: int = CALLS) -> int:
    """Round trips of so many calls, each with another number."""
    mode.call(call, -1)  # connections, scripts
    with server.round_trips() as counted:
        for n in range(calls):
            mode.call(call, n)
    return counted.count


def by_time(began: float, every: float) -> float:
    """At most so many trips since then are made by what is done every so many seconds."""
    return 2 + 2 * (time.monotonic() - began) / every


def test_lock(mode: Mode, every_redis: RedisAt) -> None:
    """A free lock is acquired in one round trip and released in one."""
    with mode.entered(resilient.lock("warm")):
        pass
    locks = contextlib.ExitStack()
    with every_redis.round_trips() as acquired:
        for n in range(CALLS):
            locks.enter_context(mode.entered(resilient.lock(f"k{n}")))
    with every_redis.round_trips() as released:
        locks.close()
    assert acquired.count == CALLS
    assert released.count == CALLS


def test_locked_call(mode: Mode, every_redis: RedisAt) -> None:
    """A locked call makes two round trips."""
    locked = mode.decorate(resilient.distributed_lock("k:{n}"), body)
    assert trips(mode, every_redis, locked) == 2 * CALLS


def test_idempotent_call(mode: Mode, every_redis: RedisAt) -> None:
    """The first call of a key makes two round trips, and each repetition one."""
    charge = mode.decorate(resilient.idempotent("k:{n}", ttl=60), body)
    assert trips(mode, every_redis, charge) == 2 * CALLS
    assert trips(mode, every_redis, charge) == CALLS


def test_cached_call(mode: Mode, every_redis: RedisAt) -> None:
    """A hit makes one round trip to the server, and none where the process has it itself."""
    remote = mode.decorate(resilient.cached("{n}", ttl=60, local=None), body)
    trips(mode, every_redis, remote)
    began = time.monotonic()
    assert CALLS <= trips(mode, every_redis, remote) <= CALLS + by_time(began, QUIET)

    local = mode.decorate(resilient.cached("{n}", ttl=60, namespace="local"), body)
    trips(mode, every_redis, local)
    began = time.monotonic()
    assert trips(mode, every_redis, local) <= by_time(began, QUIET)


def test_closed_circuit(mode: Mode, every_redis: RedisAt) -> None:
    """A call through a closed circuit makes none: calls are reported in the background."""
    guarded = mode.decorate(resilient.circuit_breaker("k"), body)
    began = time.monotonic()
    reports = trips(mode, every_redis, guarded, calls=20 * CALLS)
    assert reports <= by_time(began, SUCCESSES_WITHIN)


def test_job(mode: Mode, every_redis: RedisAt) -> None:
    """A job makes one to start, one a step, and one to finish; a finished one makes one."""
    steps = 5

    if mode.is_async:

        @resilient.checkpointed("k:{n}")
        async def ajob(job: resilient.AsyncJob, n: int) -> None:
            for index in range(steps):
                await job.step(str(index), body, index)

        job: Any = ajob
    else:

        @resilient.checkpointed("k:{n}")
        def sjob(job: resilient.Job, n: int) -> None:
            for index in range(steps):
                job.step(str(index), int, index)

        job = sjob
    assert trips(mode, every_redis, job) == (2 + steps) * CALLS
    assert trips(mode, every_redis, job) == CALLS
