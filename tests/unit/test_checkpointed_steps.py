"""`job.step`: what ran once is not run again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from tests.support.importing import Flaky
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


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

    of = checkpointed("k", fingerprint=())(load.__wrapped__)  # type: ignore[attr-defined]  # functools sets it

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
