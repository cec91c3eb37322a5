"""Tasks that want a value and are cancelled, run out of time, or whose function is."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from resilient.engine.flights import (
    Flights,
    ashare,
)
from tests.support.flown import errand


async def counted(started: list[int], ended: list[str], seconds: float) -> str:
    """A computation that tells how it ended."""
    started.append(1)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise
    ended.append("returned")
    return "value"


@pytest.mark.parametrize("who", ["leader", "follower", "half", "all but the last"])
def test_cancelled_callers(flights: Flights, who: str) -> None:
    """Whoever is cancelled, leader or not, all others are served by the one execution."""

    async def main() -> None:
        started: list[int] = []
        ended: list[str] = []

        async def call() -> Any:
            plan = partial(counted, started, ended, 0.1)
            return await ashare(flights, errand(plan))

        tasks = [asyncio.create_task(call()) for _ in range(20)]
        await asyncio.sleep(0.02)
        chosen = {
            "leader": tasks[:1],
            "follower": tasks[5:6],
            "half": tasks[::2],
            "all but the last": tasks[:-1],
        }[who]
        for task in chosen:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            if task in chosen:
                assert isinstance(result, asyncio.CancelledError)
            else:
                assert not isinstance(result, BaseException)
                assert result[0] == "value"
        assert (len(started), ended) == (1, ["returned"])

    asyncio.run(main())


def test_cancelled_with_its_last_caller(flights: Flights) -> None:
    """When nobody wants the value any more, the computation is cancelled and has cleaned up."""

    async def main() -> None:
        started: list[int] = []
        ended: list[str] = []

        async def call() -> Any:
            plan = partial(counted, started, ended, 30)
            return await ashare(flights, errand(plan))

        tasks = [asyncio.create_task(call()) for _ in range(5)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert ended == ["cancelled"]
        assert len(asyncio.all_tasks()) == 1

        # And who comes next starts anew.
        plan = partial(counted, started, ended, 0)
        value, _ = await ashare(flights, errand(plan))
        assert value == "value"

    asyncio.run(main())


def test_timeout_of_the_only_caller(flights: Flights) -> None:
    """`asyncio.timeout` around a call ends it as it would end the bare function."""

    async def main() -> None:
        ended: list[str] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                plan = partial(counted, [], ended, 30)
                await ashare(flights, errand(plan))
        assert ended == ["cancelled"]

    asyncio.run(main())


def test_cancellation_inside_the_function(flights: Flights) -> None:
    """A function that raises `CancelledError` itself does so for each caller, and does not hang."""

    async def main() -> None:
        ran = []

        async def compute() -> None:
            ran.append(1)
            await asyncio.sleep(0.01)
            raise asyncio.CancelledError

        async def call() -> Any:
            return await ashare(flights, errand(compute))

        results = await asyncio.gather(*[call() for _ in range(3)], return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert len(ran) == 3

    asyncio.run(main())
