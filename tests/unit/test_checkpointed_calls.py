"""What a job knows of its call, and what can be called: methods, jobs inside jobs, status."""

from __future__ import annotations

import os
from typing import Any

import pytest

import resilient
from resilient import checkpointed, events
from resilient.config import disabled
from resilient.engine.clock import ManualClock
from tests.support.importing import Flaky, Importing, State
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


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
