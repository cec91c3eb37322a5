"""The records of a resumable job: itself, its checkpoints and the results of its steps.

What belongs to a job is found through it and through the *life* in which it was written, so that
nothing of a job that expired or was forgotten comes back in the next one of that name. It is kept
for twice as long as the job, and all of it written again only when that is no longer enough: so a
save writes the job and one checkpoint, whatever the number of checkpoints and steps.
"""

from __future__ import annotations

from functools import lru_cache

from msgspec.structs import replace

from resilient.engine.transactional.store import Record, Table, Transaction
from resilient.engine.transactional.waiters import Queue
from resilient.protocols.checkpoints import Checkpoint
from resilient.protocols.values import Encoded

__all__ = [
    "FINISHED",
    "IDLE",
    "JOBS",
    "RUNNING",
    "SAVED",
    "STEPS",
    "Job",
    "Saved",
    "Step",
    "as_checkpoint",
    "checkpoint",
    "contents",
    "drop_contents",
    "kept",
    "numbered",
    "steps_of",
    "trimmed",
]

RUNNING, IDLE, FINISHED = "running", "idle", "finished"


class Job(Record, frozen=True, array_like=True):
    """The state of a job; times are the store's, in seconds.

    Attributes:
        state: Running, idle or finished.
        life: Told apart from that of an earlier job of the same name.
        owner: The last runner's token.
        fence: The last runner's fence.
        attempt: How many runners there were.
        until: When the runner's lease runs out.
        ttl: For how long the job is kept after a write.
        expires: When it is forgotten.
        kept_until: The earliest moment at which a checkpoint or a step is forgotten.
        version: Of the runner's code.
        previous_version: Of the runner before.
        fingerprint: Of the arguments.
        first: The number of the oldest checkpoint that is kept.
        last: The number of the newest; `first - 1` if none is kept.
        saved_by: The fence under which the newest was saved; 0: by hand.
        result: Of a finished job.
        queue: Who waits for the runner to end.
        cancelled: Whether the runner has been asked to stop.
    """

    state: str
    life: int
    owner: str
    fence: int
    attempt: int
    until: float
    ttl: float
    expires: float
    kept_until: float
    version: str = ""
    previous_version: str = ""
    fingerprint: str = ""
    first: int = 1
    last: int = 0
    saved_by: int = 0
    result: bytes = b""
    queue: Queue = ()
    cancelled: bool = False


class Saved(Record, frozen=True, array_like=True):
    """A checkpoint; its fields are those of `resilient.protocols.checkpoints.Checkpoint`."""

    data: bytes
    timestamp: float
    progress: float | None = None
    eta: float | None = None
    label: str = ""


class Step(Record, frozen=True, array_like=True):
    """The result of a step."""

    value: bytes


JOBS = Table("job", Job, clustered=True)
SAVED = Table("checkpoint", Saved)
STEPS = Table("step", Step, clustered=True)


def kept(tx: Transaction, task: str, job: Job, ttl: float) -> None:
    """Store the job for `ttl` seconds from now, and see to it that what belongs to it lasts."""
    expires, latest = tx.now + ttl, tx.now + 2 * ttl
    kept_until = job.kept_until
    if kept_until > latest:  # of what was written just now
        kept_until = latest
    if expires > kept_until:
        kept_until = latest
        for number in range(job.first, job.last + 1):
            saved = tx.get(SAVED, numbered(task, job, number))
            if saved is not None:
                tx.put(SAVED, numbered(task, job, number), saved, ttl=2 * ttl)
        for key, result in list(tx.scan(STEPS, contents(task, job.life))):
            tx.put(STEPS, key, result, ttl=2 * ttl)
    stored = replace(job, ttl=ttl, expires=expires, kept_until=kept_until)
    tx.put(JOBS, task, stored, ttl=ttl)


@lru_cache(64)
def contents(task: str, life: int) -> str:
    """What the keys of a job's checkpoints and steps begin with; no other job's keys do."""
    return f"{len(task)}:{task}:{life}:"


def numbered(task: str, job: Job, sequence: int) -> str:
    """The key of a checkpoint."""
    return f"{contents(task, job.life)}{sequence}"


def as_checkpoint(task: str, sequence: int, saved: Saved) -> Checkpoint:
    """A checkpoint as callers see it."""
    return Checkpoint(
        id=f"{task}:{sequence}",
        task=task,
        sequence=sequence,
        timestamp=saved.timestamp,
        progress=saved.progress,
        eta=saved.eta,
        label=saved.label,
        data=Encoded(saved.data),
    )


def checkpoint(tx: Transaction, task: str, job: Job, sequence: int) -> Checkpoint | None:
    """One of a job's checkpoints."""
    if not job.first <= sequence <= job.last:
        return None
    saved = tx.get(SAVED, numbered(task, job, sequence))
    return None if saved is None else as_checkpoint(task, sequence, saved)


def trimmed(tx: Transaction, task: str, job: Job, keep: int) -> Job:
    """The job with its newest `keep` checkpoints only."""
    first = max(job.first, job.last - keep + 1)
    for number in range(job.first, first):
        tx.delete(SAVED, numbered(task, job, number))
    return job if first == job.first else replace(job, first=first)


def steps_of(tx: Transaction, task: str, job: Job) -> dict[str, Encoded]:
    """The results of a job's steps, by name."""
    prefix = contents(task, job.life)
    return {key[len(prefix) :]: Encoded(step.value) for key, step in tx.scan(STEPS, prefix)}


def drop_contents(tx: Transaction, task: str, job: Job) -> None:
    """Remove a job's checkpoints and steps."""
    trimmed(tx, task, job, 0)
    for key, _ in list(tx.scan(STEPS, contents(task, job.life))):
        tx.delete(STEPS, key)
