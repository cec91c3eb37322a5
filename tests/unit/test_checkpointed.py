"""A job runs once, goes on after a failure, and saves as often as it is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from resilient.engine.clock import ManualClock
from tests.support.importing import Flaky, Importing, State
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


# --- saves -------------------------------------------------------------------------------------


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
