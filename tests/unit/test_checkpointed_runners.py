"""One runner at a time: the others are refused, wait, or are told that they are stale."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from resilient.engine.clock import ManualClock
from tests.support.importing import Importing
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


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
