"""How the loops of a job read what they go through: in chunks, after a key, verified."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from resilient.engine.clock import ManualClock, installed
from tests.support.jobs import each
from tests.support.modes import Mode
from tests.support.scale import scaled

pytestmark = pytest.mark.usefixtures("backend")


class Flaky(Exception):
    """Raised by a body once."""


def failing(mode: Mode, body: Any, **options: Any) -> Any:
    """The job `k`, whose first call raises."""
    run = mode.decorate(checkpointed("k", **{"every": 2, "fingerprint": (), **options}), body)
    with pytest.raises(Flaky):
        mode.call(run)
    return run


def test_chunks_are_whole_and_counted_by_their_items(mode: Mode) -> None:
    """Lists of that size, the last one shorter; the position is in items, whatever the size."""
    seen: list[list[int]] = []
    size = 4

    async def load(job: Any) -> tuple[int, float]:
        async for chunk in each(job.chunks(range(10), size)):
            seen.append(chunk)
            if len(seen) == 2:
                raise Flaky
        return job.progress.done, job.progress.percent

    run = failing(mode, load)
    status = mode.call(checkpointed.of(run).at().status)
    assert (status.checkpoint.done, status.checkpoint.total) == (4, 10)
    size = 5
    assert mode.call(run) == (10, 100.0)
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7, 8], [9]]


def test_a_source_with_a_key_begins_after_the_last_item(mode: Mode) -> None:
    """A resumed job reads nothing again: the source is asked for what comes after the key."""
    asked: list[int | None] = []
    seen: list[int] = []

    def after(key: int | None) -> list[int]:
        asked.append(key)
        return [number for number in range(10, 20) if key is None or number > key]

    async def load(job: Any) -> int:
        async for item in each(job.iterate(after, key=lambda item: item)):
            seen.append(item)
            if len(seen) == 6:
                raise Flaky
        done: int = job.progress.done
        return done

    run = failing(mode, load)
    assert mode.call(run) == 10
    assert asked == [None, 14]
    assert seen == [10, 11, 12, 13, 14, 15, 15, 16, 17, 18, 19]


def test_chunks_of_a_source_with_a_key(mode: Mode) -> None:
    """The key of a chunk is that of its last item; zero is a key as well."""
    asked: list[int | None] = []

    def after(key: int | None) -> list[int]:
        asked.append(key)
        return list(range(-2 if key is None else key + 1, 4))

    async def load(job: Any) -> None:
        async for _ in each(job.chunks(after, 3, key=lambda item: item)):
            if len(asked) == 1 and job.progress.done:
                raise Flaky

    run = failing(mode, load)
    mode.call(run)
    assert asked == [None, 0]


def test_an_async_source_with_a_key() -> None:
    """An async generator function is a source with a key, and so is an `async def`."""
    asked: list[int | None] = []

    async def after(key: int | None) -> AsyncIterator[int]:
        asked.append(key)
        for number in range(3):
            yield number

    async def page(key: int | None) -> list[int]:
        asked.append(key)
        return [7, 8]

    @checkpointed("k")
    async def load(job: resilient.AsyncJob) -> list[int]:
        return [
            *[item async for item in job.iterate(after, key=lambda item: item)],
            *[item async for item in job.iterate(page, key=lambda item: item)],
        ]

    with Mode("async") as mode:
        assert mode.call(load) == [0, 1, 2, 7, 8]
    assert asked == [None, None]


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_verified_source_that_changed_is_an_error(mode: Mode, in_chunks: bool) -> None:
    """What is skipped must be what was done; what comes after it may be anything."""
    items = ["a", "b", "c", "d", "e", "f"]
    fails = True

    async def load(job: Any) -> list[str]:
        nonlocal fails
        loop = job.chunks(items, 2, verify=True) if in_chunks else job.iterate(items, verify=True)
        async for taken in each(loop):
            job.state.setdefault("seen", []).extend(taken)
            if fails and job.progress.done == 4:
                fails = False
                raise Flaky
        seen: list[str] = job.state["seen"]
        return seen

    run = failing(mode, load)
    items[1] = "x"
    with pytest.raises(resilient.SourceChanged, match="first 4 are others") as caught:
        mode.call(run)
    assert caught.value.key == "k"
    items[1], items[5] = "b", "z"
    assert mode.call(run) == ["a", "b", "c", "d", "e", "z"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda job: job.chunks([1], 0), "size=0"),
        (lambda job: job.chunks([1], True), "size=True"),
        (lambda job: job.iterate(lambda after: []), "needs key="),
        (lambda job: job.iterate([1], key=str), "are a function"),
        (lambda job: job.iterate(list, key=str, verify=True), "verify=True"),
        (lambda job: job.map(str, [1], workers=0), "workers=0"),
        (lambda job: job.map(str, [1], retries=-1), "retries=-1"),
        (lambda job: job.map(str, [1], on_error="ignore"), "on_error='ignore'"),
    ],
)
def test_wrong_options_of_a_loop(mode: Mode, call: Any, message: str) -> None:
    """Each is named, with its value, before anything is read."""

    async def load(job: Any) -> None:
        await mode.within(call, job)

    run = mode.decorate(checkpointed("k"), load)
    with pytest.raises(resilient.ConfigurationError, match=message):
        mode.call(run)


def test_items_that_are_skipped_let_other_tasks_run() -> None:
    """A resumed `async def` reads what is done for a few milliseconds at a time."""
    turns, fails = 0, True

    def slow() -> Iterator[int]:
        for item in range(100):
            clock.advance(0.001)
            yield item

    @checkpointed("k", every=10)
    async def load(job: resilient.AsyncJob) -> int:
        async for item in job.iterate(slow()):
            if not fails:
                return turns
            if item == 90:
                raise Flaky
        return -1

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def beside() -> int:
        other = asyncio.create_task(others())
        try:
            return await load()
        finally:
            other.cancel()

    clock = ManualClock()
    with installed(clock), resilient.using("memory://"), Mode("async") as mode:
        with pytest.raises(Flaky):
            mode.call(load)
        fails = False
        assert mode.call(beside) >= 15  # of 90 ms


@pytest.mark.slow
@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_gigabyte_streams_in_constant_memory(mode: Mode, in_chunks: bool) -> None:
    """The items are never held: neither those that are given nor those that are skipped."""
    size = 1 << 20
    items = scaled(1024, least=64)
    fails = True

    def source() -> Iterator[bytearray]:
        for _ in range(items):
            yield bytearray(size)

    async def run(job: Any) -> int:
        nonlocal fails
        loop = job.chunks(source(), 4) if in_chunks else job.iterate(source())
        async for _ in each(loop):
            if fails and job.progress.done >= items // 2:
                fails = False
                raise LookupError
        done: int = job.progress.done
        return done

    decorated = mode.decorate(checkpointed("k", every=8), run)
    with resilient.using("memory://"):
        tracemalloc.start()
        try:
            with pytest.raises(LookupError):
                mode.call(decorated)
            assert mode.call(decorated) == items
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    print(f"{2 * items} MB read, {peak / size:.0f} MB at most")
    assert peak < 20 * size
