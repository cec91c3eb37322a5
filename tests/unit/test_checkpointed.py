"""`@checkpointed` over the memory backend: what a job saves, and how it goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pydantic
import pytest

import resilient
from resilient import checkpointed, events
from resilient.config import disabled
from resilient.engine.clock import ManualClock, installed
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


@pytest.fixture(name="clock", autouse=True)
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with installed(clock):
        yield clock


@dataclass
class State:
    """What a job has made of its items."""

    rows: int = 0
    order: list[int] = field(default_factory=list)


class Flaky(Exception):
    """Raised by a body once."""


class Importing:
    """A job over numbers, that fails where each test wants."""

    def __init__(self, mode: Mode, count: int = 10, **options: Any) -> None:
        self.mode = mode
        self.count = count
        self.seen: list[int] = []
        self.fails_at: dict[int, BaseException] = {}
        options = {"state": State, "every": 3, **options}
        self.run = mode.decorate(checkpointed("import:{path}", **options), self._body())

    def _body(self) -> Any:
        async def load(job: Any, path: str) -> int:
            async for item in each(job.iterate(range(self.count), total=self.count)):
                job.state.rows += 1
                job.state.order.append(item)
                self.seen.append(item)
                await self.mode.sleep(0)
                if item in self.fails_at:
                    raise self.fails_at.pop(item)
            rows: int = job.state.rows
            return rows

        return load

    def at(self, path: str = "x") -> Any:
        """The job's controls."""
        return checkpointed.of(self.run).at(path)


def test_a_job_runs_once_and_answers_its_result_from_then_on(mode: Mode) -> None:
    """The second call answers what the first returned; another key is another job."""
    job = Importing(mode)
    assert mode.call(job.run, "x") == 10
    assert mode.call(job.run, "x") == 10
    assert job.seen == list(range(10))
    assert mode.call(job.run, "y") == 10
    assert len(job.seen) == 20


@pytest.mark.parametrize("error", [Flaky("oh"), KeyboardInterrupt(), SystemExit(1)])
def test_a_failed_job_goes_on_with_the_item_that_failed(mode: Mode, error: BaseException) -> None:
    """What was done is saved although no save was due; the state has nothing of the failed item."""
    job = Importing(mode)
    job.fails_at[4] = error
    with pytest.raises(type(error)) as caught:
        mode.call(job.run, "x")
    assert caught.value is error
    status = mode.call(job.at().status)
    assert status.phase == "stopped"
    assert status.checkpoint.done == 4
    assert status.checkpoint.state == State(4, [0, 1, 2, 3])
    assert mode.call(job.run, "x") == 10
    assert job.seen == [0, 1, 2, 3, 4, *range(4, 10)]
    assert mode.call(job.at().status).checkpoint.state == State(10, list(range(10)))


def test_a_cancelled_job_goes_on(backend: resilient.Backend) -> None:
    """A cancellation is told to the caller, and what was done is saved."""
    started = asyncio.Event()
    seen: list[int] = []

    @checkpointed("k", state=State)
    async def load(job: resilient.AsyncJob[State]) -> int:
        async for item in job.iterate(range(5)):
            job.state.rows += 1
            seen.append(item)
            if len(seen) == 3:
                started.set()
                await asyncio.sleep(60)
        return job.state.rows

    async def main() -> int:
        task = asyncio.create_task(load())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await load()

    assert asyncio.run(main()) == 5
    assert seen == [0, 1, 2, 2, 3, 4]


def test_a_checkpoint_every_n_items(mode: Mode) -> None:
    """Every third item, and once more at the end; only the newest `keep` are kept."""
    job = Importing(mode, count=10, every=3, keep=2)
    mode.call(job.run, "x")
    history = mode.call(job.at().history)
    assert [(each.sequence, each.done) for each in history] == [(3, 9), (4, 10)]
    assert [each.state.rows for each in history] == [9, 10]
    assert [each.percent for each in history] == [90, 100]


def test_a_checkpoint_every_so_many_seconds(mode: Mode, clock: ManualClock) -> None:
    """An item that is done after `seconds` is saved, whatever their number."""
    saved: list[int] = []

    async def slow(job: Any) -> None:
        async for _ in each(job.iterate(range(6))):
            clock.advance(2)
            controls = checkpointed.of(decorated).at()
            history = await mode.within(controls.history)
            saved.append(history[-1].done if history else 0)

    decorated = mode.decorate(checkpointed("slow", every=100, seconds=5, lease=60), slow)
    mode.call(decorated)
    assert saved == [0, 0, 0, 3, 3, 3]


def test_without_seconds_only_the_number_of_items_counts(mode: Mode, clock: ManualClock) -> None:
    """`seconds=None` saves by `every` alone."""

    async def slow(job: Any) -> None:
        async for _ in each(job.iterate(range(4))):
            clock.advance(9)

    decorated = mode.decorate(checkpointed("slow", every=100, seconds=None, lease=600), slow)
    mode.call(decorated)
    assert [each.done for each in mode.call(checkpointed.of(decorated).at().history)] == [4]


def test_nothing_is_saved_where_nothing_was_done(mode: Mode, backend: resilient.Backend) -> None:
    """A job without loops has no checkpoints, only its result."""

    async def plain(job: Any) -> str:
        return "done"

    decorated = mode.decorate(checkpointed("plain"), plain)
    assert mode.call(decorated) == "done"
    assert mode.call(checkpointed.of(decorated).at().history) == []


def test_steps_run_once_in_the_life_of_a_job(mode: Mode) -> None:
    """A step that was done answers its stored result, also a falsy one, and of the same type."""
    ran: list[str] = []
    fails = [True]

    async def body(job: Any) -> Any:
        def count(name: str, answer: Any) -> Any:
            ran.append(name)
            return answer

        answers = [
            await mode.within(job.step, "none", count, "none", None),
            await mode.within(job.step, "zero", count, "zero", answer=0),
            await mode.within(job.step, "when", count, "when", datetime(2024, 1, 1, tzinfo=UTC)),
            await mode.within(job.step, "pair", count, "pair", (1, 2), returns=tuple[int, int]),
            await mode.within(
                job.step, "pair", count, "pair again", (3, 4), returns=tuple[int, int]
            ),
        ]
        if fails.pop():
            raise Flaky
        return answers

    fails.insert(0, False)
    decorated = mode.decorate(checkpointed("steps"), body)
    with pytest.raises(Flaky):
        mode.call(decorated)
    assert ran == ["none", "zero", "when", "pair"]
    assert mode.call(decorated) == [None, 0, datetime(2024, 1, 1, tzinfo=UTC), (1, 2), (1, 2)]
    assert ran == ["none", "zero", "when", "pair"]


def test_a_step_that_raises_is_run_again(mode: Mode) -> None:
    """Only results are kept; the error is the caller's."""
    ran: list[int] = []

    async def body(job: Any) -> int:
        def attempt() -> int:
            ran.append(1)
            if len(ran) == 1:
                raise Flaky
            return len(ran)

        return int(await mode.within(job.step, "s", attempt))

    decorated = mode.decorate(checkpointed("steps"), body)
    with pytest.raises(Flaky):
        mode.call(decorated)
    assert mode.call(decorated) == 2


def test_an_async_step_is_awaited() -> None:
    """A coroutine function is a step of an async job; it keeps its type by its annotation."""
    ran: list[int] = []

    async def fetch(number: int) -> tuple[int, ...]:
        ran.append(number)
        await asyncio.sleep(0)
        return (number,)

    @checkpointed("k")
    async def load(job: resilient.AsyncJob, fails: bool) -> list[tuple[int, ...]]:
        answers = await asyncio.gather(*(job.step(f"s{n}", fetch, n) for n in range(3)))
        if fails:
            raise Flaky
        return list(answers)

    of = checkpointed("k", fingerprint=())(load.__wrapped__)  # type: ignore[attr-defined]

    async def main() -> list[tuple[int, ...]]:
        with pytest.raises(Flaky):
            await of(True)
        answer: list[tuple[int, ...]] = await of(False)
        return answer

    assert asyncio.run(main()) == [(0,), (1,), (2,)]
    assert sorted(ran) == [0, 1, 2]


@pytest.mark.parametrize("way", ["step", "map"])
def test_a_step_without_a_stored_form_is_not_run_again(
    mode: Mode, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run that made it has its result, and is warned; a later one is told that it is done."""
    made: list[int] = []
    fails = True

    async def effect(item: int) -> asyncio.Lock:
        made.append(item)
        return asyncio.Lock()

    async def body(job: Any) -> str:
        function = mode.function(effect)
        if way == "step":
            answer = await mode.within(job.step, "lock", function, 7)
        else:
            (answer,) = await mode.within(job.map, function, [7], workers=1)
        assert isinstance(answer, asyncio.Lock)
        if fails:
            raise Flaky
        return "done"

    decorated = mode.decorate(checkpointed("k"), body)
    with pytest.raises(Flaky):
        mode.call(decorated)
    assert "has no stored form" in caplog.text
    assert "Lock" in caplog.text
    fails = False
    for _ in range(2):
        with pytest.raises(resilient.ResultUnavailable, match=r"the step .* is done.*Lock"):
            mode.call(decorated)
    assert made == [7]
    mode.call(checkpointed.of(decorated).at().forget)
    assert mode.call(decorated) == "done"
    assert made == [7, 7]


def test_a_coroutine_in_a_sync_step_is_refused() -> None:
    """A sync job cannot await: the step is refused instead of stored half."""

    async def fetch() -> int:
        return 1

    @checkpointed("k")
    def load(job: resilient.Job) -> None:
        job.step("s", fetch)  # type: ignore[unused-coroutine]  # that is the case

    with pytest.raises(resilient.ConfigurationError, match="async def"):
        load()


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
        return job.progress.done  # type: ignore[no-any-return]

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


def test_a_labelled_checkpoint_beside_and_inside_a_loop(mode: Mode) -> None:
    """Beside a loop `save` saves at once; inside one, when the item in hand is done."""

    async def body(job: Any) -> None:
        job.state["before"] = True
        await mode.within(job.save, "start")
        async for item in each(job.iterate(range(4))):
            job.state["sum"] = job.state.get("sum", 0) + item
            if item == 2:
                await mode.within(job.save, "half")
                job.state["sum"] += 100

    decorated = mode.decorate(checkpointed("k"), body)
    mode.call(decorated)
    history = mode.call(checkpointed.of(decorated).at().history)
    assert [(each.label, each.done, each.state) for each in history] == [
        ("start", 0, {"before": True}),
        ("half", 3, {"before": True, "sum": 103}),
        ("", 4, {"before": True, "sum": 106}),
    ]


def test_the_state_can_be_replaced(mode: Mode) -> None:
    """`job.state = ...` works as well as changing it."""

    async def body(job: Any) -> State:
        async for item in each(job.iterate(range(3))):
            job.state = State(job.state.rows + item)
        state: State = job.state
        return state

    decorated = mode.decorate(checkpointed("k", state=State), body)
    assert mode.call(decorated) == State(3)


class Struct(msgspec.Struct):
    """A state of msgspec's."""

    seen: set[int] = msgspec.field(default_factory=set)
    when: datetime | None = None


@pytest.mark.parametrize("size", [10, 5_000])
def test_a_large_state_is_saved_as_well(mode: Mode, size: int) -> None:
    """It is not taken after each item: an error loses what was done since the last save."""
    fails = [True]
    resumed: list[int] = []

    async def body(job: Any) -> int:
        resumed.append(len(job.state.seen))
        async for item in each(job.iterate(range(size))):
            job.state.seen.add(item)
            if item == size - 1 and fails.pop():
                raise Flaky
        return len(job.state.seen)

    fails.insert(0, False)
    decorated = mode.decorate(checkpointed("k", state=Struct, every=size // 2 + 1), body)
    with pytest.raises(Flaky):
        mode.call(decorated)
    assert mode.call(decorated) == size
    assert resumed == [0, size - 1 if size == 10 else size // 2 + 1]


def test_progress_rate_and_eta(mode: Mode, clock: ManualClock) -> None:
    """Ten items, two seconds each: half of them done after ten seconds, ten more to go."""
    progress: list[Any] = []

    async def body(job: Any) -> None:
        async for item in each(job.iterate(range(10))):
            if item == 0:
                progress.append(job.progress)
            if item == 5:
                progress.append(job.progress)
            clock.advance(2)

    decorated = mode.decorate(checkpointed("k", every=5, seconds=None, lease=60), body)
    mode.call(decorated)
    first, half = progress
    assert (first.done, first.total, first.percent, first.rate, first.eta) == (0, 10, 0, None, None)
    assert (half.done, half.percent, half.rate, half.eta) == (5, 50, 0.5, 10)
    saved = mode.call(checkpointed.of(decorated).at().history)
    assert [(each.percent, each.eta) for each in saved] == [(50, 10), (100, 0)]


def test_progress_without_a_total(mode: Mode) -> None:
    """Without a length there is no percentage."""

    async def body(job: Any) -> Any:
        async for _ in each(job.iterate(iter("abc"))):
            pass
        return [job.progress.done, job.progress.total, job.progress.percent, job.progress.eta]

    assert mode.call(mode.decorate(checkpointed("k"), body)) == [3, None, None, None]


def test_a_resumed_job_knows_its_attempt_and_says_so(mode: Mode) -> None:
    """`attempt` and `fence` grow, and an event tells from which checkpoint it goes on."""
    seen: list[events.Event] = []
    runs: list[tuple[int, int]] = []
    unsubscribe = resilient.subscribe(seen.append)
    job = Importing(mode)

    async def body(job: Any) -> None:
        runs.append((job.attempt, job.fence))
        job.check()
        assert not job.lost
        async for item in each(job.iterate(range(2))):
            if item == 1 and len(runs) == 1:
                raise Flaky

    job.run = mode.decorate(checkpointed("k"), body)
    with pytest.raises(Flaky):
        mode.call(job.run)
    mode.call(job.run)
    unsubscribe()
    assert [attempt for attempt, _ in runs] == [1, 2]
    assert runs[1][1] > runs[0][1]
    assert seen == [events.JobResumed("k", 2, 1)]


def test_current_job(mode: Mode) -> None:
    """What the body calls finds the job; outside there is none."""

    async def inner(job: Any) -> str:
        return resilient.current_job().task

    nested = mode.decorate(checkpointed("inner"), inner)

    async def outer(job: Any) -> list[str]:
        names = []
        async for _ in each(job.iterate([1])):
            names.append(await mode.within(nested))
            names.append(resilient.current_job().task)
            assert resilient.current_job() is job
        return names

    assert mode.call(mode.decorate(checkpointed("outer"), outer)) == ["inner", "outer"]
    with pytest.raises(resilient.ConfigurationError, match="no job"):
        resilient.current_job()


def test_a_job_inside_an_item_of_another_has_its_own_place(mode: Mode) -> None:
    """The inner job's loops are its own; the outer one saves only when its item is done."""

    async def inner(job: Any, outer: Any) -> None:
        async for _ in each(job.iterate(range(2))):
            outer.state["half"] = True
            await mode.within(outer.save, "from inside")

    nested = mode.decorate(checkpointed("inner", fingerprint=()), inner)

    async def body(job: Any) -> None:
        async for _ in each(job.iterate([1])):
            await mode.within(nested, job)
            job.state["whole"] = True

    decorated = mode.decorate(checkpointed("outer"), body)
    mode.call(decorated)
    (saved,) = mode.call(checkpointed.of(decorated).at().history)
    assert (saved.label, saved.done) == ("from inside", 1)
    assert saved.state == {"half": True, "whole": True}


def test_an_outer_job_is_saved_at_once_from_an_inner_one(mode: Mode) -> None:
    """Where no item of the outer job is in hand, nothing of it is half done."""
    saved: list[int] = []

    async def inner(job: Any, outer: Any) -> None:
        async for _ in each(job.iterate(range(2))):
            await mode.within(outer.save)
            saved.append(len(await mode.within(checkpointed.of(decorated).at().history)))

    nested = mode.decorate(checkpointed("inner", fingerprint=()), inner)

    async def body(job: Any) -> None:
        await mode.within(nested, job)

    decorated = mode.decorate(checkpointed("outer"), body)
    mode.call(decorated)
    assert saved == [1, 2]


def test_methods_and_classmethods(mode: Mode) -> None:
    """The job is second after `self` and `cls`."""

    decorator: Any = checkpointed("{path}")

    class Loader:
        name = "loader"

        async def body(self, job: Any, path: str, *, twice: bool = False) -> str:
            async for _ in each(job.iterate([1])):
                pass
            return f"{self.name} {path} {twice}"

        load: Any = mode.decorate(decorator, body)

        async def class_body(cls, job: Any, path: str) -> str:  # noqa: N805 - made one below
            return f"{cls.__name__} {path}"  # type: ignore[attr-defined]  # it is a class

        load_all: Any = decorator(classmethod(mode.function(class_body)))

    assert mode.call(Loader().load, "x") == "loader x False"
    assert mode.call(Loader.load, Loader(), "z", twice=True) == "loader z True"
    assert mode.call(Loader.load_all, "y") == "Loader y"
    assert mode.call(checkpointed.of(Loader().load).at("x").status).phase == "finished"
    assert mode.call(checkpointed.of(Loader.load_all).at("y").status).phase == "finished"


def test_disabled_runs_the_body_and_keeps_nothing(mode: Mode) -> None:
    """Loops, steps and saves work, and every call runs."""

    async def body(job: Any) -> int:
        async for item in each(job.iterate(range(5))):
            job.state.rows += item
        await mode.within(job.save, "end")
        assert (job.fence, job.attempt, job.lost) == (0, 1, False)
        job.check()
        return int(await mode.within(job.step, "s", lambda: job.state.rows))

    decorated = mode.decorate(checkpointed("k", state=State, every=1), body)
    with disabled():
        assert [mode.call(decorated), mode.call(decorated)] == [10, 10]
        assert mode.call(checkpointed.of(decorated).at().status).phase == "new"
        assert mode.call(checkpointed.of(decorated).at().history) == []
        assert mode.call(checkpointed.of(decorated).at().forget) is False


def test_status_and_forget(mode: Mode) -> None:
    """From new over running and stopped to finished, and new again."""
    seen: list[Any] = []
    job = Importing(mode)

    async def watched(job: Any) -> None:
        status = await mode.within(checkpointed.of(decorated).at().status)
        seen.append((status.phase, status.runner, status.attempt))

    decorated = mode.decorate(checkpointed("watched"), watched)
    assert mode.call(job.at().status).phase == "new"
    assert mode.call(job.at().forget) is False
    mode.call(decorated)
    assert seen[0][0] == "running"
    assert seen[0][1].startswith(f"pid {os.getpid()} on ")
    mode.call(job.run, "x")
    assert mode.call(job.at().status).phase == "finished"
    assert mode.call(job.at().forget) is True
    assert mode.call(job.at().status).phase == "new"
    mode.call(job.run, "x")
    assert len(job.seen) == 20


def test_a_job_is_forgotten_after_its_ttl(mode: Mode, clock: ManualClock) -> None:
    """The result is kept for `ttl`; `None` means the `max_ttl` of the configuration."""
    job, for_long = Importing(mode, ttl="1h"), Importing(mode, ttl=None)
    mode.call(job.run, "x")
    mode.call(for_long.run, "y")
    clock.advance("2h")
    mode.call(job.run, "x")
    mode.call(for_long.run, "y")
    assert (len(job.seen), len(for_long.seen)) == (20, 10)
    clock.advance("31d")
    mode.call(for_long.run, "y")
    assert len(for_long.seen) == 20


def test_together_one_runs_and_the_others_are_refused_or_wait(mode: Mode) -> None:
    """`wait` gets the result of the runner; `wait=0` is refused, and told who runs it."""
    job = Importing(mode, wait=0)
    waiting = Importing(mode, wait=30)

    async def body(path: str) -> Any:
        return path

    first = partial(mode.call, job.run) if not mode.is_async else job.run
    answers = mode.together(*[partial(first, "x")] * 4, return_exceptions=True)
    refused = [each for each in answers if isinstance(each, resilient.JobRunning)]
    assert answers.count(10) + len(refused) == 4
    for error in refused:
        assert f"pid {os.getpid()} on " in str(error)
        assert error.key == "import:x"
        assert 0 < (error.retry_after or 0) <= 30
    assert job.seen == list(range(10))
    assert mode.together(*[partial(waiting.run, "y")] * 4) == [10] * 4
    assert waiting.seen == list(range(10))


def test_skip_answers_what_stands_for_a_skipped_call(mode: Mode) -> None:
    """`on_busy="skip"` answers `skipped` while the job runs elsewhere."""
    answers: list[Any] = []

    async def body(job: Any) -> str:
        answers.append(await mode.within(decorated))
        return "ran"

    decorated = mode.decorate(checkpointed("k", on_busy="skip", skipped="busy"), body)
    assert mode.call(decorated) == "ran"
    assert answers == ["busy"]


def test_a_version_is_not_resumed_by_another(mode: Mode) -> None:
    """The error names both, stays the same at the next try, and the old version can finish."""
    old, new = Importing(mode, version="1"), Importing(mode, version="2")
    old.fails_at[4] = Flaky()
    with pytest.raises(Flaky):
        mode.call(old.run, "x")
    for _ in range(2):
        with pytest.raises(resilient.ConfigurationError, match=r"version='1'.*version='2'"):
            mode.call(new.run, "x")
    assert new.seen == []
    assert mode.call(old.run, "x") == 10
    assert mode.call(new.run, "x") == 10, "a finished job answers its result"
    mode.call(new.at().forget)
    assert mode.call(new.run, "x") == 10
    assert new.seen == list(range(10))


def test_steps_of_another_version_are_not_used(mode: Mode) -> None:
    """Also where there is no checkpoint yet, and at the second try."""
    fails = [True]

    async def body(job: Any) -> int:
        answer: int = await mode.within(job.step, "s", lambda: 1)
        if fails:
            raise Flaky
        return answer

    old = mode.decorate(checkpointed("k", version="1"), body)
    new = mode.decorate(checkpointed("k", version="2"), body)
    with pytest.raises(Flaky):
        mode.call(old)
    for _ in range(2):
        with pytest.raises(resilient.ConfigurationError, match=r"version='1'.*version='2'"):
            mode.call(new)
    fails.clear()
    assert mode.call(old) == 1


def test_other_arguments_under_the_same_key_are_refused(mode: Mode) -> None:
    """Running, stopped and finished; `fingerprint=()` lets them differ."""

    async def body(job: Any, path: str, limit: int = 3) -> int:
        if limit == 0:
            raise Flaky
        return limit

    decorated = mode.decorate(checkpointed("{path}"), body)
    assert mode.call(decorated, "x") == 3
    assert mode.call(decorated, "x", limit=3) == 3
    with pytest.raises(resilient.FingerprintMismatch, match="'x'"):
        mode.call(decorated, "x", 4)
    with pytest.raises(Flaky):
        mode.call(decorated, "y", 0)
    with pytest.raises(resilient.FingerprintMismatch):
        mode.call(decorated, "y", 1)
    loose = mode.decorate(checkpointed("{path}", fingerprint=()), body)
    assert mode.call(loose, "z", 4) == 4
    assert mode.call(loose, "z", 5) == 4


class Total(pydantic.BaseModel):
    """A result."""

    rows: int


@pytest.mark.parametrize("result", [asyncio.Lock(), Total.__new__(Total)], ids=["Lock", "Total"])
def test_a_result_without_a_stored_form_is_not_computed_again(mode: Mode, result: Any) -> None:
    """The caller gets it; a later one is told that it is not there, and nothing runs.

    So also of one that is half made, which raises when it is looked at.
    """
    runs: list[int] = []

    async def body(job: Any) -> Any:
        runs.append(1)
        return result

    decorated = mode.decorate(checkpointed("k"), body)
    assert mode.call(decorated) is result
    with pytest.raises(resilient.ResultUnavailable, match=type(result).__name__):
        mode.call(decorated)
    assert runs == [1]


def test_a_state_that_became_unstorable_says_so(mode: Mode) -> None:
    """At the item that made it so, by the type; what was done before stays saved."""

    async def body(job: Any) -> None:
        async for item in each(job.iterate(range(3))):
            job.state["n"] = item if item < 2 else asyncio.Lock()

    decorated = mode.decorate(checkpointed("k"), body)
    with pytest.raises(resilient.CodecError, match="Lock"):
        mode.call(decorated)
    assert mode.call(checkpointed.of(decorated).at().status).checkpoint.state == {"n": 1}


def test_a_forgotten_job_stops_its_runner(mode: Mode) -> None:
    """Its next save is refused, and it leaves nothing behind."""
    seen: list[int] = []

    async def body(job: Any) -> None:
        async for item in each(job.iterate(range(10))):
            seen.append(item)
            if item == 3:
                await mode.within(checkpointed.of(decorated).at().forget)

    decorated = mode.decorate(checkpointed("k", every=2), body)
    with pytest.raises(resilient.StaleRunner) as caught:
        mode.call(decorated)
    assert seen == [0, 1, 2, 3]
    assert (caught.value.key, caught.value.fence > 0) == ("k", True)
    assert mode.call(checkpointed.of(decorated).at().status).phase == "new"


@pytest.mark.parametrize("then", ["item", "step", "save", "check", "return"])
def test_a_stale_runner_changes_nothing(
    mode: Mode, clock: ManualClock, backend: resilient.Backend, then: str
) -> None:
    """Once its lease ran out and another has started the job, whatever it does is refused."""
    fences: list[int] = []

    async def body(job: Any) -> None:
        fences.append(job.fence)
        async for item in each(job.iterate(range(10))):
            if item == 3:
                clock.advance(31)
                started = backend.sync.checkpoints.start("k", owner="other", lease=30, ttl=60)
                fences.append(started.fence)
                if then == "step":
                    await mode.within(job.step, "s", lambda: 1)
                if then == "save":
                    await mode.within(job.save)
                if then == "check":
                    job.check()
                if then == "return":
                    return

    decorated = mode.decorate(checkpointed("k", every=2, lease=30, fingerprint=()), body)
    with pytest.raises(resilient.StaleRunner):
        mode.call(decorated)
    assert fences[1] > fences[0]
    status = mode.call(checkpointed.of(decorated).at().status)
    assert (status.phase, status.runner, status.checkpoint.done) == ("running", "other", 2)
    assert backend.sync.checkpoints.renew("k", owner="other", lease=30)


def test_an_async_body_is_cancelled_when_its_lease_is_lost(
    clock: ManualClock, backend: resilient.Backend
) -> None:
    """It need not come to its next item to find out."""

    @checkpointed("k", lease=30)
    async def load(job: resilient.AsyncJob) -> None:
        backend.sync.checkpoints.delete("k")
        clock.advance(11)  # the heartbeat asks, and is told
        await asyncio.sleep(20)

    with pytest.raises(resilient.StaleRunner):
        asyncio.run(load())


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


def test_a_forked_child_has_no_job(backend: resilient.Backend) -> None:
    """The job is the parent's: the child is stale, and its exit leaves the parent's run alone."""
    code = """
        import os, resilient
        from resilient import checkpointed

        @checkpointed("k", every=1)
        def load(job: resilient.Job) -> str:
            for item in job.iterate(range(3)):
                if item == 1:
                    pid = os.fork()
                    if pid:
                        assert os.waitpid(pid, 0)[1] == 0
            return "done"

        with resilient.using("memory://"):
            parent = os.getpid()
            try:
                print(load(), os.getpid() == parent, flush=True)
            except resilient.StaleRunner as error:
                assert os.getpid() != parent
                assert "fork" in str(error)
                os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done True\n"), done.stderr
