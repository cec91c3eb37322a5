"""What every backend's jobs and checkpoints must do."""

from __future__ import annotations

import time
from typing import Any

import pytest

from resilient.engine.backend import Backend
from resilient.engine.plan import Plan
from resilient.protocols.checkpoints import (
    ArgumentsDiffer,
    Checkpoint,
    CheckpointStore,
    Finished,
    Running,
    Started,
)
from resilient.protocols.values import Encoded
from resilient.testing.conformance._machines.base import World
from resilient.testing.conformance._machines.checkpoints import CheckpointMachine
from resilient.testing.conformance.base import LONG, SHORT
from resilient.testing.conformance.jobs import DATA, DAY, RESULT, JobConformance
from resilient.testing.conformance.runs import Run

__all__ = ["CheckpointConformance"]

EVERY_BYTE = Encoded(bytes(range(256)))
MEGABYTE = Encoded(EVERY_BYTE * 4096)


class CheckpointConformance(JobConformance):
    """One runner at a time, checkpoints in order, steps that are done once."""

    def mark(self, store: CheckpointStore, key: str, number: int) -> Plan[Any]:
        """Save the number, by hand."""
        return store.save(key, Encoded(b"%d" % number), ttl=DAY)

    async def marked(self, store: CheckpointStore, key: str) -> int | None:
        """The number that was saved last."""
        latest = await store.latest(key)
        return None if latest is None else int(latest.data)

    def test_answers_like_the_model(self, world: World) -> None:
        """Whatever is started, saved, finished and forgotten, each answer is the model's."""
        self.try_machine(CheckpointMachine, world)

    # --- one runner

    def test_start_and_finish(self, run: Run, jobs: CheckpointStore) -> None:
        """The first runner starts from nothing; others see it running, then its result."""
        started = self._started(run, jobs, "ann", version="1")
        assert (started.attempt, started.checkpoint, started.version) == (1, None, "")
        assert dict(started.steps) == {}
        busy = run(jobs.start("job", owner="bob", lease=LONG, ttl=DAY))
        assert isinstance(busy, Running)
        assert (busy.owner, busy.attempt, 0 < busy.ttl <= LONG) == ("ann", 1, True)
        assert isinstance(run(jobs.runner("job")), Running)
        assert run(jobs.finish("job", RESULT, fence=started.fence, ttl=DAY)) is True
        for answer in (
            run(jobs.start("job", owner="bob", lease=LONG, ttl=DAY)),
            run(jobs.start("job", owner="ann", lease=LONG, ttl=DAY)),
            run(jobs.runner("job")),
        ):
            assert isinstance(answer, Finished)
            assert (answer.result, LONG < answer.ttl <= DAY) == (RESULT, True)

    def test_one_of_many_runs(self, run: Run, jobs: CheckpointStore) -> None:
        """Of many who start a job at once, exactly one runs it."""
        for turn in range(5):
            answers = run.together(
                *(jobs.start(f"job{turn}", owner=f"o{n}", lease=LONG, ttl=DAY) for n in range(16))
            )
            runners = [number for number, a in enumerate(answers) if isinstance(a, Started)]
            assert len(runners) == 1
            others = [answer for answer in answers if isinstance(answer, Running)]
            assert len(others) == 15
            assert {other.owner for other in others} == {f"o{runners[0]}"}

    def test_resumes_where_it_stopped(self, run: Run, jobs: CheckpointStore) -> None:
        """The next runner gets the latest checkpoint, all steps and the version before."""
        first = self._started(run, jobs, "ann", version="1")
        for number in (1, 2):
            self._saved(run, jobs, first, Encoded(b"%d" % number))
        run(jobs.step("job", "count", Encoded(b"7"), fence=first.fence, ttl=DAY, lease=LONG))
        run(jobs.step("job", "empty", Encoded(b""), fence=first.fence, ttl=DAY, lease=LONG))
        assert run(jobs.stop("job", owner="bob")) is False
        assert run(jobs.stop("job", owner="ann")) is True
        assert run(jobs.runner("job")) is None
        second = self._started(run, jobs, "bob", version="2")
        assert (second.attempt, second.version) == (2, "1")
        assert second.fence > first.fence
        assert second.checkpoint is not None
        assert (second.checkpoint.sequence, second.checkpoint.data) == (2, b"2")
        assert dict(second.steps) == {"count": b"7", "empty": b""}

    def test_takeover(self, run: Run, jobs: CheckpointStore) -> None:
        """A dead runner's job is taken over, and none of its late writes changes anything."""
        first = run(jobs.start("job", owner="dead", lease=SHORT, ttl=DAY))
        assert isinstance(first, Started)
        self._saved(run, jobs, first, Encoded(b"before"))
        self.advance(SHORT * 1.2)
        assert run(jobs.runner("job")) is None
        second = self._started(run, jobs, "next")
        assert (second.attempt, second.fence > first.fence) == (2, True)
        stale = first.fence
        assert run(jobs.renew("job", owner="dead", lease=LONG)) is False
        assert run(jobs.save("job", DATA, fence=stale, sequence=2, ttl=DAY, lease=LONG)) is None
        assert run(jobs.step("job", "s", DATA, fence=stale, ttl=DAY, lease=LONG)) is False
        assert run(jobs.finish("job", RESULT, fence=stale, ttl=DAY)) is False
        assert run(jobs.stop("job", owner="dead")) is False
        latest = run(jobs.latest("job"))
        assert latest is not None
        assert (latest.sequence, latest.data) == (1, b"before")
        assert isinstance(run(jobs.runner("job")), Running)
        again = self._started(run, jobs, "next")
        assert (again.fence, dict(again.steps)) == (second.fence, {})

    def test_late_but_not_taken_over(self, run: Run, jobs: CheckpointStore) -> None:
        """A runner that was slow, and that nobody has replaced, may save and finish."""
        slow = run(jobs.start("job", owner="slow", lease=SHORT, ttl=DAY))
        assert isinstance(slow, Started)
        self.advance(SHORT * 1.2)
        self._saved(run, jobs, slow, DATA)
        assert run(jobs.finish("job", RESULT, fence=slow.fence, ttl=DAY)) is True

    @pytest.mark.parametrize("how", ["renew", "start", "save", "step"])
    def test_sign_of_life(self, run: Run, jobs: CheckpointStore, how: str) -> None:
        """A renewal, and a save or a step with a lease, keep the runner alive."""
        ann = run(jobs.start("job", owner="ann", lease=SHORT * 2, ttl=DAY))
        assert isinstance(ann, Started)
        signs: dict[str, Plan[Any]] = {
            "renew": jobs.renew("job", owner="ann", lease=LONG),
            "start": jobs.start("job", owner="ann", lease=LONG, ttl=DAY),
            "save": jobs.save("job", DATA, fence=ann.fence, ttl=DAY, lease=LONG),
            "step": jobs.step("job", "s", DATA, fence=ann.fence, ttl=DAY, lease=LONG),
        }
        run(signs.pop(how))
        for unused in signs.values():
            unused.close()
        self.advance(SHORT * 2.2)
        assert isinstance(run(jobs.start("job", owner="bob", lease=LONG, ttl=DAY)), Running)

    def test_save_without_a_lease(self, run: Run, jobs: CheckpointStore) -> None:
        """A save that names no lease leaves the runner's as it is."""
        ann = run(jobs.start("job", owner="ann", lease=SHORT, ttl=DAY))
        assert isinstance(ann, Started)
        self._saved(run, jobs, ann, DATA)
        self.advance(SHORT * 1.2)
        assert run(jobs.runner("job")) is None

    def test_arguments_differ(self, run: Run, jobs: CheckpointStore) -> None:
        """A job that was started with other arguments is refused at any stage."""
        first = self._started(run, jobs, "ann", fingerprint="mine")
        differs = ArgumentsDiffer("mine")

        def other() -> Any:
            return run(jobs.start("job", owner="bob", lease=LONG, ttl=DAY, fingerprint="other"))

        assert other() == differs
        run(jobs.stop("job", owner="ann"))
        assert other() == differs
        second = self._started(run, jobs, "bob")
        assert other() == differs, "an empty fingerprint matches, and changes none"
        assert second.fence > first.fence
        run(jobs.finish("job", RESULT, fence=second.fence, ttl=DAY))
        assert other() == differs

    def test_rerun(self, run: Run, jobs: CheckpointStore) -> None:
        """A finished job is run again from the beginning, if that is asked for."""
        first = self._started(run, jobs, "ann")
        self._saved(run, jobs, first, DATA)
        run(jobs.step("job", "s", DATA, fence=first.fence, ttl=DAY, lease=LONG))
        run(jobs.finish("job", RESULT, fence=first.fence, ttl=DAY))
        again = self._started(run, jobs, "bob", rerun=True)
        assert (again.checkpoint, dict(again.steps)) == (None, {})
        assert again.fence > first.fence
        assert run(jobs.save("job", DATA, fence=first.fence, ttl=DAY)) is None
        assert isinstance(run(jobs.runner("job")), Running)
        assert self._started(run, jobs, "bob", rerun=True).fence == again.fence
        self._saved(run, jobs, again, DATA)
        run(jobs.stop("job", owner="bob"))
        resumed = self._started(run, jobs, "cid", rerun=True)
        assert resumed.checkpoint is not None, "only a finished job begins again"

    # --- checkpoints

    def test_fields_come_back(self, run: Run, jobs: CheckpointStore) -> None:
        """All that was saved comes back, by latest, by number and in the list."""
        started = self._started(run, jobs, "ann")
        began = time.time()
        answer = run(
            jobs.save(
                "job",
                EVERY_BYTE,
                fence=started.fence,
                sequence=1,
                progress=12.5,
                eta=3.25,
                label="half\nway {}",
                ttl=DAY,
                lease=LONG,
            )
        )
        assert isinstance(answer, Checkpoint)
        for saved in (
            run(jobs.latest("job")),
            run(jobs.load("job", 1)),
            run(jobs.list("job"))[0],
            self._started(run, jobs, "ann").checkpoint,
        ):
            assert isinstance(saved, Checkpoint)
            assert isinstance(saved.data, bytes)
            assert abs(saved.timestamp - began) < 7 * DAY
            assert answer._replace(data=EVERY_BYTE) == saved
            assert (saved.id, saved.task, saved.sequence) == ("job:1", "job", 1)
            assert (saved.progress, saved.eta) == (12.5, 3.25)
            assert (saved.label, saved.data) == ("half\nway {}", EVERY_BYTE)

    @pytest.mark.parametrize("data", [Encoded(b""), MEGABYTE], ids=["empty", "1 MB"])
    def test_bytes_come_back(self, run: Run, jobs: CheckpointStore, data: Encoded) -> None:
        """Empty and large states, step results and results come back byte by byte."""
        started = self._started(run, jobs, "ann")
        self._saved(run, jobs, started, data)
        run(jobs.step("job", "s", data, fence=started.fence, ttl=DAY, lease=LONG))
        again = self._started(run, jobs, "ann")
        assert again.checkpoint is not None
        assert again.checkpoint.data == data
        assert again.steps["s"] == data
        run(jobs.finish("job", data, fence=started.fence, ttl=DAY))
        finished = run(jobs.runner("job"))
        assert isinstance(finished, Finished)
        assert finished.result == data

    def test_only_the_newest_are_kept(self, run: Run, jobs: CheckpointStore) -> None:
        """A save drops all but the newest, and numbers go on growing, over all runs."""
        started = self._started(run, jobs, "ann")
        for number in range(1, 8):
            saved = run(
                jobs.save("job", DATA, fence=started.fence, sequence=number, keep=3, ttl=DAY)
            )
            assert saved is not None
            assert saved.sequence == number
        assert [saved.sequence for saved in run(jobs.list("job"))] == [5, 6, 7]
        assert run(jobs.load("job", 4)) is None
        run(jobs.stop("job", owner="ann"))
        second = self._started(run, jobs, "bob")
        assert self._saved(run, jobs, second, DATA).sequence == 8

    def test_save_sent_again(self, run: Run, jobs: CheckpointStore) -> None:
        """A save that is sent again answers what was stored, and stores nothing more."""
        started = self._started(run, jobs, "ann")
        answers = [
            run(jobs.save("job", DATA, fence=started.fence, sequence=1, label="first", ttl=DAY))
            for _ in range(3)
        ]
        assert {answer.sequence for answer in answers if answer is not None} == {1}
        assert None not in answers
        assert len(run(jobs.list("job"))) == 1

    def test_save_by_hand(self, run: Run, jobs: CheckpointStore) -> None:
        """By hand it is saved while nobody runs the job, and refused while somebody does."""
        first = run(jobs.save("job", DATA))
        assert first is not None
        assert first.sequence == 1
        started = self._started(run, jobs, "ann")
        assert started.checkpoint is not None
        assert started.checkpoint.data == DATA
        assert run(jobs.save("job", DATA, ttl=DAY)) is None
        self._saved(run, jobs, started, DATA)
        run(jobs.stop("job", owner="ann"))
        third = run(jobs.save("job", DATA, ttl=DAY))
        assert third is not None
        assert third.sequence == 3

    def test_trim(self, run: Run, jobs: CheckpointStore) -> None:
        """An operator drops all but the newest few."""
        started = self._started(run, jobs, "ann")
        for _ in range(5):
            self._saved(run, jobs, started, DATA)
        assert run(jobs.trim("job", keep=2)) == 3
        assert run(jobs.trim("job", keep=2)) == 0
        assert [saved.sequence for saved in run(jobs.list("job"))] == [4, 5]
        assert self._saved(run, jobs, started, DATA).sequence == 6
        assert run(jobs.trim("absent", keep=2)) == 0

    # --- the end

    def test_delete(self, run: Run, jobs: CheckpointStore) -> None:
        """A forgotten job leaves nothing; its runner finds itself stale."""
        first = self._started(run, jobs, "ann", fingerprint="mine", version="1")
        self._saved(run, jobs, first, DATA)
        run(jobs.step("job", "s", DATA, fence=first.fence, ttl=DAY, lease=LONG))
        assert run(jobs.delete("job")) is True
        assert run(jobs.delete("job")) is False
        assert run(jobs.runner("job")) is None
        assert run(jobs.latest("job")) is None
        assert run(jobs.list("job")) == []
        assert run(jobs.renew("job", owner="ann", lease=LONG)) is False
        assert run(jobs.save("job", DATA, fence=first.fence, sequence=2, ttl=DAY)) is None
        assert run(jobs.finish("job", RESULT, fence=first.fence, ttl=DAY)) is False
        second = self._started(run, jobs, "bob", fingerprint="other")
        assert (second.attempt, second.checkpoint, second.version) == (1, None, "")
        assert dict(second.steps) == {}
        assert second.fence > first.fence
        assert run(jobs.save("job", DATA, fence=first.fence, ttl=DAY)) is None

    def test_jobs_expire(self, run: Run, jobs: CheckpointStore) -> None:
        """A job is kept for its TTL after the last write; then nothing is left of it."""
        started = self._started(run, jobs, "ann", fingerprint="mine")
        self._saved(run, jobs, started, DATA)
        run(jobs.step("job", "s", DATA, fence=started.fence, ttl=DAY, lease=LONG))
        run(jobs.finish("job", RESULT, fence=started.fence, ttl=SHORT))
        self.advance(SHORT * 1.2)
        assert run(jobs.runner("job")) is None
        assert run(jobs.latest("job")) is None
        assert run(jobs.list("job")) == []
        assert run(jobs.delete("job")) is False
        fresh = self._started(run, jobs, "bob", fingerprint="other")
        assert (fresh.attempt, fresh.checkpoint, dict(fresh.steps)) == (1, None, {})

    def test_a_write_keeps_all_of_it(self, run: Run, jobs: CheckpointStore) -> None:
        """Checkpoints and steps live as long as the job, also those that were written early."""
        started = run(jobs.start("job", owner="ann", lease=SHORT, ttl=SHORT))
        assert isinstance(started, Started)
        run(jobs.step("job", "s", DATA, fence=started.fence, ttl=SHORT, lease=SHORT))
        run(jobs.save("job", DATA, fence=started.fence, ttl=SHORT, lease=SHORT))
        kept = run(jobs.save("job", DATA, fence=started.fence, ttl=DAY, lease=LONG))
        if kept is None:  # the machine was so slow that all of it was over before this save
            return
        self.advance(SHORT * 2.5)
        again = self._started(run, jobs, "ann")
        assert dict(again.steps) == {"s": DATA}
        assert [saved.sequence for saved in run(jobs.list("job"))] == [1, 2]

    @pytest.mark.parametrize("how", ["finish", "stop"])
    def test_waiting_runners_are_woken(self, run: Run, live: Backend, how: str) -> None:
        """All who wait for a runner are woken when it ends, in whatever way."""
        jobs: CheckpointStore = live.require("checkpoints")
        started = self._started(run, jobs, "ann")
        waiters = []
        for number in range(3):
            waiter, address = run.listen(live)
            run(jobs.start("job", owner=f"o{number}", lease=LONG, ttl=DAY, waiter=address))
            waiters.append(waiter)
        if how == "finish":
            run(jobs.finish("job", RESULT, fence=started.fence, ttl=DAY))
        else:
            run(jobs.stop("job", owner="ann"))
        assert [run.wait(waiter, 1.0) for waiter in waiters] == [True] * 3
