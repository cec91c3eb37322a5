"""Resumable jobs over transactions.

Three tables: the job itself, its checkpoints and the results of its steps. A save writes the job
and one checkpoint, whatever the number of checkpoints and steps.

What belongs to a job is found through it and through the *life* in which it was written, so that
nothing of a job that expired or was forgotten comes back in the next one of that name. It is kept
for twice as long as the job, and all of it written again only when that is no longer enough.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from resilient.engine.transactional.store import Record, Table, Transaction, TransactionalStore
from resilient.engine.transactional.waiters import Queue, joined, wake_all
from resilient.protocols.checkpoints import (
    ArgumentsDiffer,
    Checkpoint,
    Finished,
    Running,
    Started,
)
from resilient.protocols.values import Encoded

__all__ = ["TransactionalCheckpoints"]

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


JOBS = Table("job", Job)
SAVED = Table("checkpoint", Saved)
STEPS = Table("step", Step)

Answer = Started | Running | Finished | ArgumentsDiffer


class TransactionalCheckpoints:
    """`CheckpointStore` (`resilient.protocols.checkpoints`) over any store with transactions.

    Args:
        store: Where the jobs are kept.
        max_ttl: Seconds for which a job is kept whose TTL is `None`.
    """

    def __init__(self, store: TransactionalStore, max_ttl: Callable[[], float]) -> None:
        self._store = store
        self._max_ttl = max_ttl

    async def start(
        self,
        task: str,
        *,
        owner: str,
        lease: float,
        ttl: float,
        version: str = "",
        fingerprint: str = "",
        rerun: bool = False,
        waiter: str | None = None,
    ) -> Answer:
        """Become the runner of the job, and get everything needed to resume it."""
        return await self._store.change(
            lambda tx: start(tx, task, owner, lease, ttl, version, fingerprint, rerun, waiter)
        )

    async def renew(self, task: str, *, owner: str, lease: float) -> bool:
        """Start the runner's lease anew."""
        return await self._store.change(lambda tx: renew(tx, task, owner, lease))

    async def save(
        self,
        task: str,
        data: Encoded,
        *,
        fence: int | None = None,
        sequence: int | None = None,
        progress: float | None = None,
        eta: float | None = None,
        label: str = "",
        keep: int = 5,
        ttl: float | None = None,
        lease: float | None = None,
    ) -> Checkpoint | None:
        """Save cursors, state, history and lease together."""
        lifetime = self._max_ttl() if ttl is None else ttl

        def work(tx: Transaction) -> Checkpoint | None:
            saved = Saved(data, tx.now, progress, eta, label)
            return save(tx, task, saved, fence, sequence, keep, lifetime, lease)

        return await self._store.change(work)

    async def step(
        self, task: str, name: str, value: Encoded, *, fence: int, ttl: float, lease: float
    ) -> bool:
        """Store the result of a step; the first writer wins."""
        return await self._store.change(lambda tx: step(tx, task, name, value, fence, ttl, lease))

    async def finish(self, task: str, result: Encoded, *, fence: int, ttl: float) -> bool:
        """Store the job's result, end the run and wake all waiters."""
        return await self._store.change(lambda tx: finish(tx, task, result, fence, ttl))

    async def stop(self, task: str, *, owner: str) -> bool:
        """End the run without a result, and wake all waiters."""
        return await self._store.change(lambda tx: stop(tx, task, owner))

    async def runner(self, task: str) -> Running | Finished | None:
        """Who runs the job, or its result."""
        return await self._store.read(lambda tx: runner(tx, task))

    async def latest(self, task: str) -> Checkpoint | None:
        """The newest checkpoint."""
        return await self._store.read(lambda tx: latest(tx, task))

    async def load(self, task: str, sequence: int) -> Checkpoint | None:
        """One checkpoint by its number."""
        return await self._store.read(lambda tx: load(tx, task, sequence))

    async def list(self, task: str) -> list[Checkpoint]:
        """All kept checkpoints, the oldest first."""
        return await self._store.read(lambda tx: history(tx, task))

    async def trim(self, task: str, *, keep: int) -> int:
        """Drop all but the newest `keep` checkpoints."""
        return await self._store.change(lambda tx: trim(tx, task, keep))

    async def delete(self, task: str) -> bool:
        """Forget the job."""
        return await self._store.change(lambda tx: delete(tx, task))


# --- running


def start(
    tx: Transaction,
    task: str,
    owner: str,
    lease: float,
    ttl: float,
    version: str,
    fingerprint: str,
    rerun: bool,
    waiter: str | None,
) -> Answer:
    """Make the caller the runner, or register the waiter and tell what has become of the job."""
    job = tx.get(JOBS, task)
    if job is not None:
        if fingerprint and job.fingerprint and fingerprint != job.fingerprint:
            return ArgumentsDiffer(job.fingerprint)
        if job.state == FINISHED and not rerun:
            return finished(tx, job)
        if job.state == RUNNING and job.owner == owner:
            kept(tx, task, replace(job, until=tx.now + lease), max(ttl, lease))
            return started(tx, task, job)
        if is_running(tx, job):
            wait_for(tx, task, job, waiter)
            return running(tx, job)
        if job.state == FINISHED:
            drop_contents(tx, task, job)
            job = None
    if job is None:
        life = tx.tick()
        job = Job(IDLE, life, "", 0, 0, 0.0, ttl, 0.0, 0.0, fingerprint=fingerprint)
    elif job.last < job.first:  # nothing to go on from: the numbers begin anew, as for a new job
        job = replace(job, first=1, last=0)
    job = replace(
        job,
        state=RUNNING,
        owner=owner,
        fence=tx.tick(),
        attempt=job.attempt + 1,
        until=tx.now + lease,
        version=version,
        previous_version=job.version,
        fingerprint=fingerprint or job.fingerprint,
    )
    kept(tx, task, job, max(ttl, lease))
    return started(tx, task, job)


def started(tx: Transaction, task: str, job: Job) -> Started:
    """Everything that a runner needs."""
    prefix = contents(task, job)
    return Started(
        fence=job.fence,
        attempt=job.attempt,
        checkpoint=checkpoint(tx, task, job, job.last),
        steps={key[len(prefix) :]: Encoded(step.value) for key, step in tx.scan(STEPS, prefix)},
        version=job.previous_version,
    )


def wait_for(tx: Transaction, task: str, job: Job, waiter: str | None) -> None:
    """Register a waiter."""
    if waiter is not None and (queue := joined(job.queue, waiter, tx.now)) is not job.queue:
        tx.put(JOBS, task, replace(job, queue=queue), ttl=job.expires - tx.now)


def renew(tx: Transaction, task: str, owner: str, lease: float) -> bool:
    """Start the lease anew, if nobody else has started the job."""
    job = tx.get(JOBS, task)
    if job is None or job.state != RUNNING or job.owner != owner:
        return False
    kept(tx, task, replace(job, until=tx.now + lease), max(job.ttl, lease))
    return True


def finish(tx: Transaction, task: str, result: bytes, fence: int, ttl: float) -> bool:
    """Store the result, if nobody else has started the job."""
    job = tx.get(JOBS, task)
    if job is None or job.fence != fence or job.state == IDLE:
        return False
    if job.state == RUNNING:
        wake_all(tx, job.queue)
        kept(tx, task, replace(job, state=FINISHED, until=0.0, result=result, queue=()), ttl)
    return True


def stop(tx: Transaction, task: str, owner: str) -> bool:
    """Let the next runner start at once."""
    job = tx.get(JOBS, task)
    if job is None or job.owner != owner or job.state == FINISHED:
        return False
    if job.state == RUNNING:
        wake_all(tx, job.queue)
        kept(tx, task, replace(job, state=IDLE, until=0.0, queue=()), job.ttl)
    return True


def runner(tx: Transaction, task: str) -> Running | Finished | None:
    """Who runs the job, or its result."""
    job = tx.get(JOBS, task)
    if job is None:
        return None
    if job.state == FINISHED:
        return finished(tx, job)
    return running(tx, job) if is_running(tx, job) else None


def is_running(tx: Transaction, job: Job) -> bool:
    """Whether the job has a runner whose lease has not run out."""
    return job.state == RUNNING and job.until > tx.now


def running(tx: Transaction, job: Job) -> Running:
    """The runner as others see it."""
    return Running(job.owner, job.until - tx.now, job.attempt)


def finished(tx: Transaction, job: Job) -> Finished:
    """The result as everybody sees it."""
    return Finished(Encoded(job.result), job.expires - tx.now)


# --- saving


def save(
    tx: Transaction,
    task: str,
    saved: Saved,
    fence: int | None,
    sequence: int | None,
    keep: int,
    ttl: float,
    lease: float | None,
) -> Checkpoint | None:
    """Store the next checkpoint, if it is the caller's to store."""
    job = tx.get(JOBS, task)
    if fence is None:
        if job is None:
            job = Job(IDLE, tx.tick(), "", 0, 0, 0.0, ttl, 0.0, 0.0)
        elif is_running(tx, job):
            return None
    elif job is None or job.state != RUNNING or job.fence != fence:
        return None
    by = fence or 0
    if sequence is not None and sequence == job.last and by == job.saved_by:
        return checkpoint(tx, task, job, sequence)  # the same save, sent again
    if sequence is not None and sequence != job.last + 1:
        return None
    until = job.until if lease is None else tx.now + lease
    job = replace(job, last=job.last + 1, saved_by=by, until=until)
    tx.put(SAVED, numbered(task, job, job.last), saved, ttl=2 * max(ttl, lease or 0.0))
    job = trimmed(tx, task, job, keep)
    kept(tx, task, job, max(ttl, lease or 0.0))
    return as_checkpoint(task, job.last, saved)


def step(
    tx: Transaction, task: str, name: str, value: bytes, fence: int, ttl: float, lease: float
) -> bool:
    """Store the result of a step, if nobody else has started the job."""
    job = tx.get(JOBS, task)
    if job is None or job.state != RUNNING or job.fence != fence:
        return False
    lifetime = max(ttl, lease)
    key = contents(task, job) + name
    if tx.get(STEPS, key) is None:
        tx.put(STEPS, key, Step(value), ttl=2 * lifetime)
    kept(tx, task, replace(job, until=tx.now + lease), lifetime)
    return True


def kept(tx: Transaction, task: str, job: Job, ttl: float) -> None:
    """Store the job for `ttl` seconds from now, and see to it that what belongs to it lasts."""
    expires = tx.now + ttl
    kept_until = min(job.kept_until, tx.now + 2 * ttl)  # of what was written just now
    if expires > kept_until:
        kept_until = tx.now + 2 * ttl
        for number in range(job.first, job.last + 1):
            saved = tx.get(SAVED, numbered(task, job, number))
            if saved is not None:
                tx.put(SAVED, numbered(task, job, number), saved, ttl=2 * ttl)
        for key, result in list(tx.scan(STEPS, contents(task, job))):
            tx.put(STEPS, key, result, ttl=2 * ttl)
    stored = replace(job, ttl=ttl, expires=expires, kept_until=kept_until)
    tx.put(JOBS, task, stored, ttl=ttl)


# --- what is saved


def contents(task: str, job: Job) -> str:
    """What the keys of a job's checkpoints and steps begin with; no other job's keys do."""
    return f"{len(task)}:{task}:{job.life}:"


def numbered(task: str, job: Job, sequence: int) -> str:
    """The key of a checkpoint."""
    return f"{contents(task, job)}{sequence}"


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


def latest(tx: Transaction, task: str) -> Checkpoint | None:
    """The newest checkpoint."""
    job = tx.get(JOBS, task)
    return None if job is None else checkpoint(tx, task, job, job.last)


def load(tx: Transaction, task: str, sequence: int) -> Checkpoint | None:
    """One checkpoint by its number."""
    job = tx.get(JOBS, task)
    return None if job is None else checkpoint(tx, task, job, sequence)


def history(tx: Transaction, task: str) -> list[Checkpoint]:
    """All kept checkpoints, the oldest first."""
    job = tx.get(JOBS, task)
    if job is None:
        return []
    found = [checkpoint(tx, task, job, number) for number in range(job.first, job.last + 1)]
    return [each for each in found if each is not None]


def trim(tx: Transaction, task: str, keep: int) -> int:
    """Drop all but the newest `keep` checkpoints."""
    job = tx.get(JOBS, task)
    if job is None:
        return 0
    shorter = trimmed(tx, task, job, keep)
    tx.put(JOBS, task, shorter, ttl=job.expires - tx.now)
    return shorter.first - job.first


def trimmed(tx: Transaction, task: str, job: Job, keep: int) -> Job:
    """The job with its newest `keep` checkpoints only."""
    first = max(job.first, job.last - keep + 1)
    for number in range(job.first, first):
        tx.delete(SAVED, numbered(task, job, number))
    return job if first == job.first else replace(job, first=first)


def delete(tx: Transaction, task: str) -> bool:
    """Forget the job, so that a runner still at work finds itself stale."""
    job = tx.get(JOBS, task)
    if job is None:
        return False
    wake_all(tx, job.queue)
    drop_contents(tx, task, job)
    tx.delete(JOBS, task)
    return True


def drop_contents(tx: Transaction, task: str, job: Job) -> None:
    """Remove a job's checkpoints and steps."""
    trimmed(tx, task, job, 0)
    for key, _ in list(tx.scan(STEPS, contents(task, job))):
        tx.delete(STEPS, key)
