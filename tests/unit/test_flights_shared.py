"""Flights that threads and several loops share, over forks, in numbers."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient.engine.flights import (
    Errand,
    Flights,
    ashare,
    share,
)
from resilient.engine.flights import sharing as module
from tests.support.flown import body, errand, riders, within
from tests.support.forks import in_child


def test_threads_and_loops_share_one_flight(flights: Flights) -> None:
    """Tasks of three loops and ten threads wait for one task of one loop."""
    ran = []

    async def compute() -> str:
        ran.append(1)
        within(5, lambda: True)
        await asyncio.sleep(0.2)
        return "value"

    def never() -> str:
        ran.append(2)
        return "other"

    async def many() -> list[Any]:
        calls = [ashare(flights, errand(compute)) for _ in range(5)]
        return [value for value, _ in await asyncio.gather(*calls)]

    def one() -> list[Any]:
        within(5, lambda: bool(ran))
        return [share(flights, Errand("k", (), body, body, lambda _: never()))[0]]

    with ThreadPoolExecutor(13) as pool:
        loops = [pool.submit(asyncio.run, many()) for _ in range(3)]
        threads = [pool.submit(one) for _ in range(10)]
        values = [value for future in [*loops, *threads] for value in future.result(10)]
    assert values == ["value"] * 25
    assert ran == [1]


def test_a_closed_loop_strands_nobody(flights: Flights, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the loop of a flight is closed under it, whoever waits elsewhere computes."""
    monkeypatch.setattr(module, "LOOK", 0.05)
    loop = asyncio.new_event_loop()

    async def endless() -> None:
        await asyncio.Event().wait()

    async def lead() -> None:
        await ashare(flights, Errand("k", (), body, body, lambda _: endless()))

    leading = loop.create_task(lead())
    loop.run_until_complete(asyncio.sleep(0.01))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(share, flights, errand(lambda: "own"))
        within(5, lambda: riders(flights) == 2)
        [flying] = flights._tasks
        loop.close()
        assert waiting.result(5) == ("own", True)
    for task in (leading, flying):  # as they were left; nothing can run them any more
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own
        task.get_coro().close()
    flights._tasks.clear()


def test_blocking_call_in_the_loop_of_a_flight(flights: Flights) -> None:
    """A blocking call in the very loop that computes does not wait for it: it never would end."""

    async def main() -> None:
        async def compute() -> str:
            await asyncio.sleep(0.05)
            return "task"

        leading = asyncio.create_task(ashare(flights, errand(compute)))
        await asyncio.sleep(0.01)
        assert share(flights, Errand("k", (), body, body, lambda _: "own")) == ("own", True)
        assert await leading == ("task", True)

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork(flights: Flights) -> None:
    """A child does not wait for a flight of its parent's."""
    leave = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(share, flights, errand(lambda: leave.wait(10)))
        within(5, lambda: len(flights) == 1)
        errand_of_child = Errand("k", (), body, body, lambda _: "child")
        assert in_child(lambda: share(flights, errand_of_child)[0] == "child") == 0
        leave.set()
        assert leading.result(5) == (True, True)


def test_many_threads_and_keys(flights: Flights) -> None:
    """Under load every caller gets the value of its key, and nothing is left."""

    def compute(key: str) -> str:
        time.sleep(0.0005)
        return key

    def call(number: int) -> bool:
        key = str(number % 7)
        value: str = share(flights, Errand(key, (), body, body, lambda _: compute(key)))[0]
        return value == key

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(3000)))
