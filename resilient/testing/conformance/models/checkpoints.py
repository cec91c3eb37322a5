"""The reference model of resumable jobs.

Transcribes `CheckpointStore` (`resilient/protocols/checkpoints.py`): one runner under a lease, a
fence that its writes carry, checkpoints whose numbers grow over all runs, steps whose first writer
wins. The fence is that of M. Kleppmann, "How to do distributed locking", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .answers import ANYTHING, EITHER

__all__ = ["ArgumentsDiffer", "Checkpoint", "CheckpointModel", "Finished", "Running", "Started"]


class Checkpoint(NamedTuple):
    """One saved position of a job."""

    id: str
    task: str
    sequence: int
    timestamp: float
    progress: float | None
    eta: float | None
    label: str
    data: bytes


class Started(NamedTuple):
    """The job is the caller's to run."""

    fence: int
    attempt: int
    checkpoint: Checkpoint | None
    steps: dict[str, bytes]
    version: str
    life: Any


class Running(NamedTuple):
    """The job has a live runner."""

    owner: str
    ttl: float
    attempt: int
    cancelled: bool


class Finished(NamedTuple):
    """The job has run to its end."""

    result: bytes
    ttl: float


class ArgumentsDiffer(NamedTuple):
    """The task id belongs to a job that was started with other arguments."""

    fingerprint: str


@dataclass
class _Job:
    state: str = "idle"
    """`idle` (made by hand, or stopped), `running` or `finished`."""
    owner: str = ""
    fence: int = 0
    attempt: Any = 0
    lease: float = 0.0
    version: Any = ""
    before: Any = ""
    """The version of the start before the last one."""
    fingerprint: str = ""
    sequence: int = 0
    checkpoints: list[Checkpoint] = field(default_factory=list)
    steps: dict[str, bytes] = field(default_factory=dict)
    result: bytes = b""
    expires: float = 0.0
    last_saved_by: int | None = None
    cancelled: bool = False


class CheckpointModel:
    """All jobs of one backend."""

    def __init__(self) -> None:
        self.now = 0.0
        self._jobs: dict[str, _Job] = {}
        self._fences = 0

    def start(
        self,
        task: str,
        *,
        owner: str,
        lease: float,
        ttl: float,
        version: str,
        fingerprint: str,
        rerun: bool,
    ) -> Started | Running | Finished | ArgumentsDiffer:
        """Become the runner of the job if it has none, and get everything needed to resume it.

        The same owner asking again keeps its fence and attempt.
        """
        job = self._jobs.get(task, _Job())
        if "" not in (fingerprint, job.fingerprint) and fingerprint != job.fingerprint:
            return ArgumentsDiffer(job.fingerprint)
        if job.state == "finished":
            if not rerun:
                return Finished(job.result, job.expires - self.now)
            # Its numbers begin anew, as those of a new job: its runner is given no checkpoint to
            # count on from. Whether attempts and versions go on is left open.
            job.state, job.checkpoints, job.steps, job.sequence = "idle", [], {}, 0
            job.attempt, job.version, job.last_saved_by = ANYTHING, ANYTHING, None
        if self._is_live(job):
            if job.owner != owner:
                return Running(job.owner, job.lease - self.now, job.attempt, job.cancelled)
        else:
            self._fences += 1
            job.owner, job.fence, job.state = owner, self._fences, "running"
            job.cancelled = False
            job.attempt = ANYTHING if job.attempt is ANYTHING else job.attempt + 1
            job.before, job.version = job.version, version
            job.fingerprint = job.fingerprint or fingerprint
        job.lease, job.expires = self.now + lease, self.now + max(ttl, lease)
        self._jobs[task] = job
        return Started(
            job.fence, job.attempt, self.latest(task), dict(job.steps), job.before, ANYTHING
        )

    def renew(self, task: str, *, owner: str, lease: float) -> bool:
        """Start the runner's lease anew; false for a stale runner.

        Whether a lease that has run out, and that nobody has taken over, can be renewed is left
        open.
        """
        job = self._jobs.get(task)
        if job is None or job.state != "running" or job.owner != owner:
            return False
        if job.lease <= self.now:
            return EITHER
        job.lease = self.now + lease
        return True

    def save(
        self,
        task: str,
        data: bytes,
        *,
        fence: int | None,
        sequence: int | None,
        progress: float | None,
        eta: float | None,
        label: str,
        keep: int,
        ttl: float,
        lease: float | None,
    ) -> Checkpoint | None:
        """Save, and drop all but the newest `keep`; `None` for a stale runner.

        By hand (no fence): refused while the job has a live runner. The same number sent again by
        the same runner answers what was stored the first time.
        """
        job = self._jobs.get(task, _Job())
        stale = self._is_live(job) if fence is None else self._is_stale(job, fence)
        if stale:
            return None
        if sequence is not None and sequence == job.sequence and job.last_saved_by == fence:
            return self.latest(task)
        job.sequence += 1
        saved = Checkpoint(
            f"{task}:{job.sequence}", task, job.sequence, ANYTHING, progress, eta, label, data
        )
        job.checkpoints = [*job.checkpoints, saved][-keep:]
        job.last_saved_by = fence
        if lease is not None:
            job.lease = self.now + lease
        job.expires = max(self.now + ttl, job.lease)
        self._jobs[task] = job
        return saved

    def step(
        self, task: str, name: str, value: bytes, *, fence: int, ttl: float, lease: float | None
    ) -> bool:
        """Store the result of a step; the first writer wins. False for a stale runner."""
        job = self._jobs.get(task, _Job())
        if self._is_stale(job, fence):
            return False
        job.steps.setdefault(name, value)
        if lease is not None:
            job.lease, job.expires = self.now + lease, self.now + max(ttl, lease)
        return True

    def finish(self, task: str, result: bytes, *, fence: int, ttl: float) -> bool:
        """Store the job's result and end the run; again under the same fence it answers true."""
        job = self._jobs.get(task, _Job())
        if job.state == "finished" and job.fence == fence:
            return True
        if self._is_stale(job, fence):
            return False
        job.state, job.result, job.expires = "finished", result, self.now + ttl
        return True

    def stop(self, task: str, *, owner: str) -> bool:
        """End the run without a result, so that the next start resumes at once.

        False for somebody who does not run the job. What it answers when asked again, or when the
        lease has run out, is left open.
        """
        job = self._jobs.get(task)
        if job is None or job.owner != owner or job.state == "finished":
            return False
        if not self._is_live(job):
            return EITHER
        job.state = "idle"
        return True

    def runner(self, task: str) -> Running | Finished | None:
        """Who runs the job, or its result; `None` if it is neither running nor finished."""
        job = self._jobs.get(task, _Job())
        if job.state == "finished":
            return Finished(job.result, job.expires - self.now)
        if not self._is_live(job):
            return None
        return Running(job.owner, job.lease - self.now, job.attempt, job.cancelled)

    def cancel(self, task: str) -> bool:
        """Ask the runner to stop; false if the job has none."""
        job = self._jobs.get(task, _Job())
        if not self._is_live(job):
            return False
        job.cancelled = True
        return True

    def rewind(self, task: str, sequence: int) -> bool:
        """Let the next start go on from this checkpoint; false with a live runner."""
        job = self._jobs.get(task, _Job())
        if self._is_live(job) or self.load(task, sequence) is None:
            return False
        job.checkpoints = [saved for saved in job.checkpoints if saved.sequence <= sequence]
        job.sequence, job.state, job.result = sequence, "idle", b""
        job.last_saved_by = ANYTHING  # a number is sent again by its own runner only
        return True

    def steps(self, task: str) -> dict[str, bytes]:
        """The results of the steps that were done, by name."""
        return dict(self._jobs.get(task, _Job()).steps)

    def latest(self, task: str) -> Checkpoint | None:
        """The newest checkpoint."""
        kept = self.list(task)
        return kept[-1] if kept else None

    def load(self, task: str, sequence: int) -> Checkpoint | None:
        """One checkpoint by its number."""
        found = [saved for saved in self.list(task) if saved.sequence == sequence]
        return found[0] if found else None

    def list(self, task: str) -> list[Checkpoint]:
        """All kept checkpoints, the oldest first."""
        return list(self._jobs.get(task, _Job()).checkpoints)

    def trim(self, task: str, *, keep: int) -> int:
        """Drop all but the newest `keep` checkpoints; how many were dropped."""
        job = self._jobs.get(task, _Job())
        before = len(job.checkpoints)
        job.checkpoints = job.checkpoints[-keep:]
        return before - len(job.checkpoints)

    def delete(self, task: str) -> bool:
        """Forget the job: checkpoints, steps, result and runner. False if there was none."""
        return self._jobs.pop(task, None) is not None

    def state(self, task: str) -> str:
        """`absent`, `idle`, `expired` (running, but for a lease that has run out), ..."""
        job = self._jobs.get(task)
        if job is None:
            return "absent"
        return "expired" if job.state == "running" and not self._is_live(job) else job.state

    def owner(self, task: str) -> str | None:
        """Who runs the job, also when the lease has run out."""
        job = self._jobs.get(task, _Job())
        return job.owner if job.state == "running" else None

    def version(self, task: str) -> str:
        """The version of the last start."""
        return str(self._jobs.get(task, _Job()).version)

    def fingerprint(self, task: str) -> str:
        """The fingerprint of the first start."""
        return self._jobs.get(task, _Job()).fingerprint

    def sequence(self, task: str) -> int:
        """The number of the last checkpoint that was ever saved."""
        return self._jobs.get(task, _Job()).sequence

    def _is_live(self, job: _Job) -> bool:
        return job.state == "running" and job.lease > self.now

    def _is_stale(self, job: _Job, fence: int) -> bool:
        return job.state != "running" or job.fence != fence
