"""What every backend must do with the steps of jobs, and with jobs from outside."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.protocols.checkpoints import (
    Checkpoint,
    CheckpointStore,
    Finished,
    Running,
    Started,
)
from resilient.protocols.values import Encoded
from resilient.testing.conformance.base import LONG, ODD_KEYS, SHORT, Conformance
from resilient.testing.conformance.runs import Run

__all__ = ["DATA", "DAY", "RESULT", "JobConformance"]

DAY = 86400.0
DATA, RESULT = Encoded(b"data"), Encoded(b"result")


class JobConformance(Conformance):
    """Steps are done once; whoever is not the runner may cancel, rewind and look."""

    capability = "checkpoints"

    @pytest.fixture(name="jobs")
    def _jobs(self, store: CheckpointStore) -> CheckpointStore:
        return store

    # --- steps

    def test_first_step_wins(self, run: Run, jobs: CheckpointStore) -> None:
        """The result of a step is written once, whoever writes again."""
        started = self._started(run, jobs, "ann")
        for value in (b"first", b"second"):
            stored = jobs.step("job", "s", Encoded(value), fence=started.fence, ttl=DAY, lease=LONG)
            assert run(stored) is True
        assert dict(self._started(run, jobs, "ann").steps) == {"s": b"first"}

    def test_odd_step_names(self, run: Run, jobs: CheckpointStore) -> None:
        """Steps of all names are different steps, and none is taken for another job's."""
        started = self._started(run, jobs, "ann")
        names = {name: Encoded(name.encode()) for name in ODD_KEYS}
        for name, value in names.items():
            run(jobs.step("job", name, value, fence=started.fence, ttl=DAY, lease=LONG))
        assert dict(self._started(run, jobs, "ann").steps) == names
        for task in ODD_KEYS:
            other = run(jobs.start(task, owner="bob", lease=LONG, ttl=DAY))
            assert isinstance(other, Started)
            assert dict(other.steps) == {}

    def test_step_without_a_lease(self, run: Run, jobs: CheckpointStore) -> None:
        """It is stored, refused to a stale runner, and outlives what the job's next write says."""
        ann = run(jobs.start("job", owner="ann", lease=SHORT, ttl=DAY))
        assert isinstance(ann, Started)
        assert run(jobs.step("job", "s", DATA, fence=ann.fence, ttl=DAY)) is True
        assert run(jobs.step("job", "s", RESULT, fence=ann.fence, ttl=DAY)) is True
        self.advance(SHORT * 1.2)
        assert run(jobs.runner("job")) is None, "the lease is as it was"
        bob = self._started(run, jobs, "bob")
        assert dict(bob.steps) == dict(run(jobs.steps("job"))) == {"s": DATA}
        assert run(jobs.step("job", "t", DATA, fence=ann.fence, ttl=DAY)) is False
        assert dict(run(jobs.steps("job"))) == {"s": DATA}
        assert dict(run(jobs.steps("absent"))) == {}

    # --- by hand

    def test_cancel(self, run: Run, jobs: CheckpointStore) -> None:
        """The runner is told so, may still save, and the next one knows nothing of it."""
        assert run(jobs.cancel("job")) is False
        ann = self._started(run, jobs, "ann")
        running = run(jobs.runner("job"))
        assert isinstance(running, Running)
        assert running.cancelled is False
        assert run(jobs.cancel("job")) is True
        assert run(jobs.cancel("job")) is True
        for answer in (
            run(jobs.runner("job")),
            run(jobs.start("job", owner="bob", lease=LONG, ttl=DAY)),
        ):
            assert isinstance(answer, Running)
            assert answer.cancelled is True
        self._saved(run, jobs, ann, DATA)
        run(jobs.stop("job", owner="ann"))
        assert run(jobs.cancel("job")) is False
        self._started(run, jobs, "bob")
        running = run(jobs.runner("job"))
        assert isinstance(running, Running)
        assert running.cancelled is False

    def test_rewind(self, run: Run, jobs: CheckpointStore) -> None:
        """A job, finished too, goes on from an earlier checkpoint; the later ones are gone."""
        ann = self._started(run, jobs, "ann")
        for number in range(1, 4):
            self._saved(run, jobs, ann, Encoded(b"%d" % number))
        run(jobs.step("job", "s", DATA, fence=ann.fence, ttl=DAY))
        assert run(jobs.rewind("job", 1)) is False, "it has a runner"
        run(jobs.finish("job", RESULT, fence=ann.fence, ttl=DAY))
        assert run(jobs.rewind("job", 4)) is False, "there is no such checkpoint"
        assert isinstance(run(jobs.runner("job")), Finished)
        assert run(jobs.rewind("job", 1)) is True
        assert run(jobs.runner("job")) is None
        assert [saved.sequence for saved in run(jobs.list("job"))] == [1]
        bob = self._started(run, jobs, "bob")
        assert bob.checkpoint is not None
        assert (bob.checkpoint.data, dict(bob.steps)) == (b"1", {"s": DATA})
        saved = run(jobs.save("job", DATA, fence=bob.fence, sequence=2, ttl=DAY))
        assert saved is not None
        assert saved.sequence == 2
        assert run(jobs.rewind("absent", 1)) is False

    def test_lives(self, run: Run, jobs: CheckpointStore) -> None:
        """All attempts of a job are of one life; one that begins anew has another."""
        first = self._started(run, jobs, "ann")
        assert self._started(run, jobs, "ann").life == first.life
        run(jobs.stop("job", owner="ann"))
        second = self._started(run, jobs, "bob")
        assert second.life == first.life
        run(jobs.finish("job", RESULT, fence=second.fence, ttl=DAY))
        third = self._started(run, jobs, "ann", rerun=True)
        assert third.life != first.life
        run(jobs.delete("job"))
        assert self._started(run, jobs, "ann").life not in (first.life, third.life)

    def _started(self, run: Run, jobs: CheckpointStore, owner: str, **options: Any) -> Started:
        answer = run(jobs.start("job", owner=owner, lease=LONG, ttl=DAY, **options))
        assert isinstance(answer, Started)
        return answer

    def _saved(
        self, run: Run, jobs: CheckpointStore, started: Started, data: Encoded
    ) -> Checkpoint:
        saved = run(jobs.save("job", data, fence=started.fence, ttl=DAY))
        assert saved is not None
        return saved
