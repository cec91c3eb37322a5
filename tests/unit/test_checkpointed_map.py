"""`job.map`: a function over many items, side by side, each done once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


class Flaky(Exception):
    """Raised by a function for some items."""


class Squares:
    """A function over numbers that fails where each test wants."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.calls: Counter[int] = Counter()
        self.fails: Counter[int] = Counter()
        self.at_once = self.most = 0
        self._lock = threading.Lock()
        self.function = mode.function(self._square)

    async def _square(self, number: int) -> int:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.calls[number] += 1
            fails = self.fails[number] > 0
            self.fails[number] -= 1
        await self.mode.sleep(0.002)
        with self._lock:
            self.at_once -= 1
        if fails:
            raise Flaky(number)
        return number * number

    def job(self, count: int, **options: Any) -> Any:
        """The job `k`, which answers the squares of so many numbers."""

        async def load(job: Any) -> Any:
            return await self.mode.within(job.map, self.function, range(count), **options)

        return self.mode.decorate(checkpointed("k", every=3), load)


def test_results_are_in_the_order_of_the_items(mode: Mode) -> None:
    """So many calls run at a time, and each item's result is in its place."""
    squares = Squares(mode)
    run = squares.job(20, workers=4)
    assert mode.call(run) == [n * n for n in range(20)]
    assert squares.most == 4
    status = mode.call(checkpointed.of(run).at().status)
    assert (status.checkpoint.done, status.checkpoint.total) == (20, 20)


def test_what_is_done_is_not_done_again(mode: Mode) -> None:
    """After an error the calls under way end; the resumed job makes only those that are left."""
    squares = Squares(mode)
    squares.fails[7] = 1
    run = squares.job(100, workers=2)
    with pytest.raises(Flaky):
        mode.call(run)
    # How many the other worker makes before the failure is seen is the scheduler's affair.
    assert 7 <= squares.calls.total() < 100
    assert mode.call(run) == [n * n for n in range(100)]
    again = {number for number, count in squares.calls.items() if count > 1}
    # A task under way is cancelled with the failed one; a thread's result is kept.
    assert 7 in again
    assert len(again) <= (2 if mode.is_async else 1)


def test_errors_may_be_collected(mode: Mode) -> None:
    """They stand in the place of results, and their calls are made again by a resumed job."""
    squares = Squares(mode)
    squares.fails[1] = squares.fails[3] = 1
    fails = True

    async def load(job: Any) -> Any:
        nonlocal fails
        answers = await mode.within(job.map, squares.function, range(5), on_error="collect")
        if fails:
            fails = False
            assert [type(answer) for answer in answers] == [int, Flaky, int, Flaky, int]
            raise LookupError
        return answers

    run = mode.decorate(checkpointed("k"), load)
    with pytest.raises(LookupError):
        mode.call(run)
    assert mode.call(run) == [0, 1, 4, 9, 16]
    assert squares.calls == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1}


def test_a_call_is_tried_again(mode: Mode) -> None:
    """As often as `retries` says, and no more."""
    squares = Squares(mode)
    squares.fails[2] = 2
    run = squares.job(4, retries=2)
    assert mode.call(run) == [0, 1, 4, 9]
    assert squares.calls[2] == 3
    squares.fails[9] = 3
    other = squares.job(10, retries=2)
    mode.call(checkpointed.of(other).at().forget)
    with pytest.raises(Flaky):
        mode.call(other)
    assert squares.calls[9] == 3


def test_a_map_inside_an_item_belongs_to_that_item(mode: Mode) -> None:
    """Two items of a loop have maps of their own, and a map has its place among the loops."""
    seen: list[tuple[int, int]] = []

    async def pair(number: int) -> int:
        seen.append((number // 10, number % 10))
        return number

    function = mode.function(pair)
    fails = True

    async def load(job: Any) -> list[int]:
        nonlocal fails
        async for tens in each(job.iterate([1, 2, 3])):
            answers = await mode.within(
                job.map, function, [10 * tens, 10 * tens + 1], workers=1, returns=int
            )
            if fails and tens == 2:
                fails = False
                raise Flaky
            job.state.setdefault("all", []).extend(answers)
        numbers: list[int] = job.state["all"]
        return numbers

    run = mode.decorate(checkpointed("k", every=1), load)
    with pytest.raises(Flaky):
        mode.call(run)
    assert mode.call(run) == [10, 11, 20, 21, 30, 31]
    assert seen == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_an_endless_source_is_read_as_there_is_room() -> None:
    """No more items are taken from the source than calls can be made."""
    taken = 0

    def numbers() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    def until(number: int) -> int:
        if number == 20:
            raise Flaky
        return number

    @checkpointed("k")
    def load(job: resilient.Job) -> list[int]:
        return job.map(until, numbers(), workers=3)

    with pytest.raises(Flaky):
        load()
    assert 20 <= taken <= 23


def test_a_cancelled_body_cancels_its_calls() -> None:
    """None of the tasks outlives the body."""
    ended: list[int] = []

    async def stuck(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    @checkpointed("k")
    async def load(job: resilient.AsyncJob) -> None:
        await job.map(stuck, range(10), workers=3)

    async def main() -> None:
        task = asyncio.create_task(load())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert sorted(ended) == [0, 1, 2]
