"""The state, the progress and the labels that a checkpoint keeps."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from resilient import BackendError, checkpointed
from resilient.engine.clock import ManualClock
from tests.support.importing import Flaky, State
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


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


def test_a_label_that_could_not_be_saved_goes_with_the_next(
    mode: Mode, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `job.save("half")` has asked for is saved as soon as it can be, under that label."""
    store: Any = backend.require("checkpoints")

    async def refuse(*_: Any, **__: Any) -> Any:
        raise BackendError("the disk is full", transient=False)

    async def body(job: Any) -> None:
        job.state["half"] = True
        with monkeypatch.context() as patch, pytest.raises(BackendError, match="disk is full"):
            patch.setattr(type(store), "save", refuse)
            await mode.within(job.save, "half")
        async for _ in each(job.iterate(range(2))):
            pass

    run = mode.decorate(checkpointed("k", every=100, fingerprint=()), body)
    mode.call(run)
    history = mode.call(checkpointed.of(run).at().history)
    assert [(saved.label, saved.done) for saved in history] == [("half", 1), ("", 2)]


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
