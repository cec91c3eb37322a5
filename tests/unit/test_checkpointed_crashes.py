"""A job that is killed anywhere, any number of times, ends as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import resilient
from resilient import AsyncJob, checkpointed
from resilient.engine.clock import ManualClock, SystemClock, installed
from resilient.errors import BackendError
from tests.support.jobs import Killable, Killed, each
from tests.support.modes import Mode, ModeName

LEASE = 30


@pytest.fixture(name="clock", autouse=True, scope="module")
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with installed(clock):
        yield clock


@dataclass
class State:
    """What a job has made of its items; the digest depends on their order."""

    count: int = 0
    digest: int = 0

    def add(self, item: int) -> None:
        """Take an item in."""
        self.count += 1
        self.digest = hash((self.digest, item))


class Batch:
    """A job with a loop, a step, and a loop inside a loop; it can be killed around each item."""

    def __init__(self, mode: Mode, client: Killable, *, items: int, every: int) -> None:
        self.client = client
        self.items = items
        self.every = every
        self.effects: list[tuple[str, int]] = []
        self.steps: list[int] = []
        self.run = mode.decorate(
            checkpointed(
                "batch", state=State, every=every, lease=LEASE, seconds=None, backend=client.backend
            ),
            self._body(mode),
        )

    def _body(self, mode: Mode) -> Any:
        async def batch(job: Any) -> tuple[int, int]:
            async for item in each(job.iterate(range(self.items))):
                self._handle(job, "flat", item)
            size = await mode.within(job.step, "size", self._step)
            async for outer in each(job.iterate(range(3), name="outer")):
                async for inner in each(job.iterate(range(size))):
                    self._handle(job, "nested", outer * size + inner)
            return job.state.count, job.state.digest

        return batch

    def _handle(self, job: Any, kind: str, item: int) -> None:
        self.client.moment()
        job.state.add(item)
        self.client.moment()
        self.effects.append((kind, item))
        self.client.moment()

    def _step(self) -> int:
        self.steps.append(1)
        return 4


def finished(mode: Mode, clock: ManualClock, batch: Batch, kills: list[int]) -> tuple[Any, int]:
    """Run it to its end, killed after so many moments each time; the answer and the kills."""
    killed = 0
    for moments in [*kills, None]:
        with batch.client.killed_after(moments):
            try:
                return mode.call(batch.run), killed
            except Killed:
                killed += 1
                clock.advance(LEASE + 1)
    raise AssertionError("the last run is not killed")


@pytest.mark.parametrize("name", ["sync", "async"])
@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(0, 30),
    every=st.integers(1, 9),
    kills=st.lists(st.integers(0, 120), max_size=12),
)
@example(items=10, every=3, kills=list(range(60)))
@example(items=7, every=1, kills=[5] * 30)
def test_killed_anywhere_the_job_ends_as_if_nothing_had_happened(
    name: ModeName, clock: ManualClock, items: int, every: int, kills: list[int]
) -> None:
    """The same state and result as uninterrupted, nothing left out, at most `every` redone a kill.

    It is killed between any two things that it does, also between a request and its answer.
    """
    with Mode(name) as mode:
        calm = Batch(mode, Killable(), items=items, every=every)
        expected, _ = finished(mode, clock, calm, [])
        wild = Batch(mode, Killable(), items=items, every=every)
        answer, killed = finished(mode, clock, wild, kills)
        assert answer == expected
        assert set(wild.effects) == set(calm.effects)
        assert len(wild.effects) - len(calm.effects) <= every * killed
        final = mode.call(checkpointed.of(wild.run).at().status)
        assert final.phase == "finished"
        assert final.checkpoint.state == State(*expected)


@pytest.mark.parametrize("name", ["sync", "async"])
@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(1, 20),
    every=st.integers(1, 9),
    fails=st.lists(st.integers(0, 31), max_size=8),
)
def test_errors_anywhere_redo_only_the_item_in_hand(
    name: ModeName, clock: ManualClock, items: int, every: int, fails: list[int]
) -> None:
    """An error is not a kill: what was done is saved, so that one item is done again at most."""

    class Oops(Exception):
        pass

    with Mode(name) as mode:
        batch = Batch(mode, Killable(), items=items, every=every)
        handle: Callable[[Any, str, int], None] = batch._handle
        left = list(fails)

        def failing(job: Any, kind: str, item: int) -> None:
            handle(job, kind, item)
            if len(batch.effects) in left:
                left.remove(len(batch.effects))
                raise Oops

        batch._handle = failing  # type: ignore[method-assign]  # around the real one
        failed = 0
        while True:
            try:
                answer = mode.call(batch.run)
                break
            except Oops:
                failed += 1
        calm = Batch(mode, Killable(), items=items, every=every)
        assert answer == mode.call(calm.run)
        assert len(batch.effects) == len(calm.effects) + failed


class Flaky:
    """A store whose answers get lost, or which is away."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.lost_answers = 0
        self.away = False
        self.fatal = False
        self.saves = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def asked(*args: Any, **kwargs: Any) -> Any:
            if self.away:
                raise BackendError("away")
            answer = await method(*args, **kwargs)
            if name == "save":
                self.saves += 1
            if self.lost_answers and name != "renew":
                self.lost_answers -= 1
                raise BackendError("the answer was lost", transient=not self.fatal)
            return answer

        return asked


@pytest.fixture(name="flaky")
def _flaky() -> Flaky:
    return Flaky(Killable().memory.checkpoints)


def over(flaky: Flaky) -> resilient.Backend:
    """A backend with nothing but this store."""
    return resilient.Backend("flaky", checkpoints=flaky)


def test_lost_answers_leave_one_checkpoint_each(mode: Mode, flaky: Flaky) -> None:
    """A save whose answer is lost is sent again under the same number, and stored once."""

    async def body(job: Any) -> None:
        async for _ in each(job.iterate(range(6))):
            flaky.lost_answers = 2

    decorated = mode.decorate(checkpointed("k", every=2, backend=over(flaky)), body)
    mode.call(decorated)
    flaky.lost_answers = 0
    history = mode.call(checkpointed.of(decorated).at().history)
    # Only of the first one was the number not known yet.
    assert [each.done for each in history if each.sequence > 3] == [4, 6]
    assert flaky.saves == 9


def test_after_an_unknown_outcome_the_next_save_counts(mode: Mode, flaky: Flaky) -> None:
    """A save that failed may have been stored: the next one does not pass for the same."""
    flaky.fatal = True

    async def body(job: Any) -> None:
        for number in range(5):
            job.state["n"] = number
            flaky.lost_answers = number % 2
            try:
                await mode.within(job.save)
            except BackendError:
                assert flaky.saves == number + 1

    decorated = mode.decorate(checkpointed("k", backend=over(flaky)), body)
    mode.call(decorated)
    history = mode.call(checkpointed.of(decorated).at().history)
    assert [each.state["n"] for each in history] == [0, 1, 2, 3, 4]


def test_saves_of_several_tasks_come_one_after_the_other(flaky: Flaky) -> None:
    """A slow save is not overtaken: the newest checkpoint is the one that was taken last."""
    delays = iter([0.05, 0.04, 0.03, 0.02, 0.01])
    under_way: list[int] = []

    class Slow(Flaky):
        """A third party's store, which suspends."""

        def __getattr__(self, name: str) -> Any:
            method = getattr(self.store, name)

            async def asked(*args: Any, **kwargs: Any) -> Any:
                if name == "save":
                    under_way.append(1)
                    assert len(under_way) == 1
                    await asyncio.sleep(next(delays, 0))
                    under_way.pop()
                return await method(*args, **kwargs)

            return asked

    store: Any = Slow(flaky.store)
    backend = resilient.Backend("slow", checkpoints=store, modes=frozenset({"async"}))

    @checkpointed("k", every=1, keep=100, backend=backend)
    async def load(job: AsyncJob) -> None:
        async def one(name: str) -> None:
            async for _ in job.iterate(range(5), name=name):
                await asyncio.sleep(0)

        await asyncio.gather(*(one(name) for name in "abc"))

    async def main() -> list[int]:
        with installed(SystemClock()):
            await load()
        return [each.done for each in await checkpointed.of(load).at().history()]

    done = asyncio.run(main())
    assert done == sorted(done)
    assert done[-1] == 15


def test_a_backend_that_stays_away_ends_the_run(
    mode: Mode, flaky: Flaky, clock: ManualClock
) -> None:
    """Saves are tried again for as long as the lease lasts; then the error is the caller's."""
    seen: list[int] = []

    async def body(job: Any) -> int:
        async for item in each(job.iterate(range(6))):
            seen.append(item)
            flaky.away = len(seen) == 4
        return len(seen)

    decorated = mode.decorate(checkpointed("k", every=2, lease=30, backend=over(flaky)), body)
    before = clock.now()
    with pytest.raises((BackendError, resilient.StaleRunner)):
        mode.call(decorated)
    assert 25 < clock.now() - before < 45
    flaky.away = False
    clock.advance(31)
    assert mode.call(decorated) == 8
    assert seen == [0, 1, 2, 3, 2, 3, 4, 5]


def test_an_error_tells_what_could_not_be_saved(mode: Mode, flaky: Flaky) -> None:
    """The body's own error comes out, with a note that the backend was away as well."""

    async def body(job: Any) -> None:
        async for item in each(job.iterate(range(6))):
            if item == 3:
                flaky.away = True
                raise LookupError

    decorated = mode.decorate(checkpointed("k", backend=over(flaky)), body)
    with pytest.raises(LookupError) as caught:
        mode.call(decorated)
    assert caught.value.__notes__ == ["the last 3 items done could not be saved: away"]


def test_a_backend_that_is_away_at_the_start(mode: Mode, flaky: Flaky) -> None:
    """Nothing runs, unless that was chosen; then it runs and keeps nothing."""
    runs: list[int] = []

    async def body(job: Any) -> str:
        runs.append(job.fence)
        return "ran"

    flaky.away = True
    strict = mode.decorate(checkpointed("k", backend=over(flaky)), body)
    loose = mode.decorate(checkpointed("k", backend=over(flaky), on_backend_error="run"), body)
    with pytest.raises(BackendError):
        mode.call(strict)
    assert runs == []
    assert mode.call(loose) == "ran"
    assert runs == [0]
