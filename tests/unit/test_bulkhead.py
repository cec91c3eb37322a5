"""`@bulkhead`: so many calls at a time in this process, and no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import BulkheadFull, ConfigurationError, bulkhead
from resilient.config import disabled
from resilient.engine.clock import ManualClock, installed
from tests.support.forks import in_child
from tests.support.modes import Mode


def test_no_more_run_at_a_time(mode: Mode) -> None:
    """Of forty at once, with patience: three together, and all of them in the end."""
    most = running = 0
    lock = threading.Lock()

    async def call(number: int) -> int:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        await mode.sleep(0.001)
        with lock:
            running -= 1
        return number

    limited = mode.decorate(bulkhead(3, wait=None), call)

    def one(number: int) -> Any:
        return lambda: limited(number)

    assert mode.together(*map(one, range(40))) == list(range(40))
    assert most <= 3
    assert mode.call(limited, 1) == 1


def test_a_further_call_is_refused() -> None:
    """At once by default; the error names the function and the limit."""
    full: list[BulkheadFull] = []

    @bulkhead(1)
    def once(again: bool) -> str:
        if again:
            with pytest.raises(BulkheadFull) as caught:
                once(False)
            full.append(caught.value)
        return "run"

    assert [once(True), once(False)] == ["run", "run"]
    assert "1 call is running" in str(full[0])
    assert (full[0].policy, full[0].key.rpartition(".")[2]) == ("bulkhead", "once")
    assert isinstance(full[0], resilient.Rejected)


def test_a_further_call_may_be_skipped(mode: Mode) -> None:
    """It answers what stands for it."""
    shared = bulkhead(1, on_busy="skip", skipped="busy")
    seen: list[Any] = []

    async def call() -> str:
        return "run"

    inner = mode.decorate(shared, call)

    async def outer() -> None:
        answer = inner()
        seen.append(await answer if mode.is_async else answer)

    mode.call(mode.decorate(shared, outer))
    mode.call(mode.function(outer))
    assert seen == ["busy", "run"]


def test_patience_has_an_end(mode: Mode) -> None:
    """After `wait` the call is refused, and leaves nothing behind."""
    shared = bulkhead(1, wait=30)

    async def nothing() -> None: ...

    waiting = mode.decorate(shared, nothing)

    async def holds() -> None:
        with pytest.raises(BulkheadFull, match=r"waited 30\.0 s"):
            if mode.is_async:
                await waiting()
            else:
                waiting()

    with installed(ManualClock()):
        mode.call(mode.decorate(shared, holds))
        mode.call(waiting)


def test_who_has_waited_longest_is_next() -> None:
    """One after the other, in the order in which they came."""

    async def main() -> list[int]:
        order: list[int] = []
        go = asyncio.Event()

        @bulkhead(1, wait=None)
        async def call(number: int) -> None:
            order.append(number)
            await go.wait()

        tasks = []
        for number in range(5):
            tasks.append(asyncio.create_task(call(number)))
            await asyncio.sleep(0)  # so that they stand in line in this order
        go.set()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_who_is_cancelled_in_line_takes_no_place() -> None:
    """Neither while it waits, nor in the moment in which it is given a place."""

    async def main(*, at_its_turn: bool) -> None:
        go = asyncio.Event()
        tasks: list[asyncio.Task[int]] = []

        @bulkhead(1, wait=None)
        async def call(number: int) -> int:
            await go.wait()
            if at_its_turn and number == 0:
                tasks[1].cancel()  # it has not run since when the place is given to it
            return number

        tasks += [asyncio.create_task(call(number)) for number in range(3)]
        await asyncio.sleep(0)
        if not at_its_turn:
            tasks[1].cancel()
        go.set()
        assert [await tasks[0], await tasks[2]] == [0, 2]
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        assert await call(7) == 7

    for at_its_turn in (False, True):
        asyncio.run(main(at_its_turn=at_its_turn))


def test_threads_and_tasks_count_alike() -> None:
    """One limit for all functions that it decorates, of both kinds."""
    shared = bulkhead(1)
    inside = threading.Event()
    end = threading.Event()

    @shared
    def blocking() -> None:
        inside.set()
        end.wait()

    @shared
    async def awaited() -> None: ...

    thread = threading.Thread(target=blocking)
    thread.start()
    assert inside.wait(30)
    with pytest.raises(BulkheadFull):
        asyncio.run(awaited())
    end.set()
    thread.join()
    asyncio.run(awaited())


def test_a_task_is_given_its_place_by_a_thread() -> None:
    """It is woken from there, and waits for nothing else."""
    shared = bulkhead(1, wait=None)
    inside = threading.Event()
    end = threading.Event()

    @shared
    def blocking() -> None:
        inside.set()
        end.wait()

    @shared
    async def awaited() -> str:
        return "run"

    async def main() -> str:
        task = asyncio.create_task(awaited())
        await asyncio.sleep(0)
        end.set()
        return await task

    thread = threading.Thread(target=blocking)
    thread.start()
    assert inside.wait(30)
    assert asyncio.run(main()) == "run"
    thread.join()


def test_what_fails_gives_its_place_back(mode: Mode) -> None:
    """Whatever it raises."""

    async def call() -> None:
        raise LookupError

    limited = mode.decorate(bulkhead(1), call)
    for _ in range(3):
        with pytest.raises(LookupError):
            mode.call(limited)


def test_a_generator_keeps_its_place_to_its_last_step() -> None:
    """And gives it back when it is closed before."""

    @bulkhead(1)
    def items() -> Iterator[int]:
        yield from range(3)

    first = items()
    assert next(first) == 0
    with pytest.raises(BulkheadFull):
        next(items())
    first.close()  # type: ignore[attr-defined]  # it is a generator
    assert list(items()) == [0, 1, 2]


def test_a_forked_child_has_all_places() -> None:
    """Those of its parent's calls are its parent's, and are not given back there."""
    shared = bulkhead(1)

    @shared
    def outer(work: Any) -> None:
        work()

    @shared
    def inner() -> None: ...

    def refused() -> None:
        with pytest.raises(BulkheadFull):
            inner()

    def in_the_child() -> None:
        inner()
        outer(refused)
        inner()

    def forks() -> None:
        codes.append(in_child(in_the_child))
        refused()

    codes: list[int] = []
    outer(forks)
    inner()
    assert codes == [0]


def test_disabled_policies_limit_nothing() -> None:
    """In a test that asks for it."""

    @bulkhead(1)
    def once(again: bool) -> str:
        return once(False) if again else "run"

    with disabled():
        assert once(True) == "run"


def test_what_is_wrong_is_said_when_decorated() -> None:
    """No number, no word, a skipped stream."""

    def items() -> Iterator[int]:
        yield 1

    any_bulkhead: Any = bulkhead  # as the type checkers do not know it
    wrong: Any
    for wrong, word in (
        (lambda: any_bulkhead(0), "limit=0"),
        (lambda: any_bulkhead(True), "limit=True"),
        (lambda: any_bulkhead(1, on_busy="wait"), "on_busy='wait'"),
        (lambda: any_bulkhead(1, wait=-1), "wait=-1"),
        (lambda: any_bulkhead(1, on_busy="skip")(items), "generator"),
        (lambda: any_bulkhead(items), "parentheses"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            wrong()
