"""Loops over items: told apart, nested, left, resumed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from tests.support.importing import Flaky, State
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


def test_loops_are_told_apart_and_a_finished_one_is_not_run_again(mode: Mode) -> None:
    """Two loops have a position each, by their order or by their names."""
    seen: list[str] = []
    fails = [True, True]

    async def body(job: Any) -> int:
        async for a in each(job.iterate("ab")):
            seen.append(f"first {a}")
        async for b in each(job.iterate(iter("cd"))):
            seen.append(f"second {b}")
            if b == "d" and fails:
                fails.pop()
                raise Flaky
        async for c in each(job.iterate("ef", name="third")):
            seen.append(f"third {c}")
        return int(job.progress.done)

    decorated = mode.decorate(checkpointed("k"), body)
    for _ in range(2):
        with pytest.raises(Flaky):
            mode.call(decorated)
    assert mode.call(decorated) == 6
    assert seen == [
        *("first a", "first b", "second c", "second d"),
        "second d",
        *("second d", "third e", "third f"),
    ]


def test_a_loop_inside_an_item_belongs_to_that_item(mode: Mode) -> None:
    """It resumes inside the item in hand, and is forgotten when that is done."""
    seen: list[tuple[str, int]] = []
    fails = [("b", 1)]

    async def body(job: Any) -> None:
        async for outer in each(job.iterate("abc")):
            async for inner in each(job.iterate(range(3))):
                seen.append((outer, inner))
                if (outer, inner) in fails:
                    fails.remove((outer, inner))
                    raise Flaky
            job.state["outer"] = job.state.get("outer", "") + outer

    decorated = mode.decorate(checkpointed("k", every=1), body)
    with pytest.raises(Flaky):
        mode.call(decorated)
    mode.call(decorated)
    assert seen == [
        *(("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)),
        *(("b", 1), ("b", 2), ("c", 0), ("c", 1), ("c", 2)),
    ]
    last = mode.call(checkpointed.of(decorated).at().status).checkpoint
    assert last.state == {"outer": "abc"}


def test_what_begins_after_a_break_is_beside_the_loop(mode: Mode) -> None:
    """A loop that was left is not around the next one, which so has its own place."""
    seen: list[Any] = []
    fails = [True]

    async def body(job: Any) -> None:
        async for item in each(job.iterate(range(10), name="a")):
            if item == 2:
                break
            seen.append(item)
        async for item in each(job.iterate("xyz", name="b")):
            seen.append(item)
            if item == "y" and fails:
                fails.clear()
                raise Flaky

    decorated = mode.decorate(checkpointed("k"), body)
    with pytest.raises(Flaky):
        mode.call(decorated)
    mode.call(decorated)
    assert seen == [0, 1, "x", "y", "y", "z"]


def test_a_loop_that_was_left_can_be_gone_on_with(mode: Mode) -> None:
    """Under its name, in the same run: with the item that was in hand."""
    seen: list[int] = []

    async def body(job: Any) -> None:
        while True:
            try:
                async for item in each(job.iterate(range(4), name="a")):
                    seen.append(item)
                    if seen == [0, 1, 2]:
                        raise Flaky
            except Flaky:
                continue
            break

    mode.call(mode.decorate(checkpointed("k"), body))
    assert seen == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("name", ["", "#1", 7])
def test_a_loop_has_a_name_of_its_own(mode: Mode, name: Any) -> None:
    """A name that is none, and the same one twice, are errors."""

    async def wrong(job: Any) -> None:
        job.iterate([1], name=name)

    async def twice(job: Any) -> None:
        for _ in range(2):
            async for _ in each(job.iterate([1], name="a")):
                pass

    with pytest.raises(resilient.ConfigurationError, match="name"):
        mode.call(mode.decorate(checkpointed("wrong"), wrong))
    with pytest.raises(resilient.ConfigurationError, match="two loops 'a'"):
        mode.call(mode.decorate(checkpointed("twice"), twice))


def test_a_source_that_became_shorter_is_an_error(mode: Mode) -> None:
    """Fewer items than are done already: they are not the same ones, so nothing is skipped."""
    items = list(range(5))

    async def body(job: Any) -> None:
        async for item in each(job.iterate(list(items))):
            if item == 3:
                raise Flaky

    decorated = mode.decorate(checkpointed("k"), body)
    with pytest.raises(Flaky):
        mode.call(decorated)
    del items[2:]
    with pytest.raises(resilient.ConfigurationError, match=r"3 items .* now it has 2"):
        mode.call(decorated)


def test_async_sources_are_skipped_too() -> None:
    """An async iterable is read again from the start, one by one."""
    read: list[int] = []
    seen: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in range(5):
            await asyncio.sleep(0)
            read.append(number)
            yield number

    @checkpointed("k")
    async def load(job: resilient.AsyncJob) -> None:
        async for number in job.iterate(source()):
            seen.append(number)
            if seen == [0, 1, 2]:
                raise Flaky

    with pytest.raises(Flaky):
        asyncio.run(load())
    asyncio.run(load())
    assert seen == [0, 1, 2, 2, 3, 4]
    assert read == [0, 1, 2, 0, 1, 2, 3, 4]


def test_an_endless_source_is_read_one_by_one(mode: Mode) -> None:
    """Nothing is read ahead: neither at first nor when skipping."""
    read: list[int] = []

    def source() -> Iterator[int]:
        while True:
            read.append(len(read))
            yield read[-1]

    async def body(job: Any) -> int:
        async for item in each(job.iterate(source())):
            if item == 5:
                return len(read)
        raise AssertionError

    assert mode.call(mode.decorate(checkpointed("k"), body)) == 6


def test_loops_in_tasks_of_one_body_do_not_disturb_each_other() -> None:
    """Four tasks with a loop each, saved after each item: nothing is lost, nothing done twice."""
    seen: list[tuple[str, int]] = []
    fails = [("c", 7)]

    @checkpointed("k", state=State, every=1, keep=100)
    async def load(job: resilient.AsyncJob[State]) -> int:
        async def one(name: str) -> None:
            async for item in job.iterate(range(20), name=name):
                await asyncio.sleep(0)
                if (name, item) in fails:
                    fails.clear()
                    raise Flaky
                seen.append((name, item))
                job.state.rows += 1

        async with asyncio.TaskGroup() as group:
            for name in "abcd":
                group.create_task(one(name))
        return job.state.rows

    async def main() -> int:
        with pytest.raises(ExceptionGroup):
            await load()
        return await load()

    assert asyncio.run(main()) == 80
    assert sorted(seen) == [(name, item) for name in "abcd" for item in range(20)]
