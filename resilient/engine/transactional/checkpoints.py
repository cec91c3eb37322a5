"""Resumable jobs over transactions: one runner, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import CoroutineType
from typing import Any

from msgspec.structs import replace

from resilient.engine.transactional.job_runs import (
    Answer,
    finish,
    is_running,
    renew,
    runner,
    start,
    stop,
)
from resilient.engine.transactional.jobs import (
    IDLE,
    JOBS,
    RUNNING,
    SAVED,
    STEPS,
    Job,
    Saved,
    Step,
    as_checkpoint,
    checkpoint,
    contents,
    drop_contents,
    kept,
    numbered,
    steps_of,
    trimmed,
)
from resilient.engine.transactional.store import (
    Optimistic,
    Transaction,
    TransactionalStore,
    passed_on,
)
from resilient.engine.transactional.waiters import wake_all
from resilient.protocols.checkpoints import (
    Checkpoint,
    Finished,
    Running,
)
from resilient.protocols.values import Encoded

__all__ = ["TransactionalCheckpoints"]


class TransactionalCheckpoints:
    """`CheckpointStore` (`resilient.protocols.checkpoints`) over any store with transactions.

    Args:
        store: Where the jobs are kept.
        max_ttl: Seconds for which a job is kept whose TTL is `None`.
    """

    def __init__(self, store: TransactionalStore, max_ttl: Callable[[], float]) -> None:
        self._store = passed_on(store)
        self._max_ttl = max_ttl

    def start(
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
    ) -> CoroutineType[Any, Any, Answer]:
        """Become the runner of the job, and get everything needed to resume it."""
        return self._store.change(
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

    def step(
        self,
        task: str,
        name: str,
        value: Encoded,
        *,
        fence: int,
        ttl: float,
        lease: float | None = None,
    ) -> CoroutineType[Any, Any, bool]:
        """Store the result of a step; the first writer wins."""
        return self._store.change(
            Optimistic(lambda tx: step(tx, task, name, value, fence, ttl, lease))
        )

    def finish(
        self, task: str, result: Encoded, *, fence: int, ttl: float
    ) -> CoroutineType[Any, Any, bool]:
        """Store the job's result, end the run and wake all waiters."""
        return self._store.change(lambda tx: finish(tx, task, result, fence, ttl))

    async def stop(self, task: str, *, owner: str) -> bool:
        """End the run without a result, and wake all waiters."""
        return await self._store.change(lambda tx: stop(tx, task, owner))

    async def runner(self, task: str) -> Running | Finished | None:
        """Who runs the job, or its result."""
        return await self._store.read(lambda tx: runner(tx, task))

    async def cancel(self, task: str) -> bool:
        """Ask the runner to stop."""
        return await self._store.change(lambda tx: cancel(tx, task))

    async def rewind(self, task: str, sequence: int) -> bool:
        """Let the next start go on from this checkpoint."""
        return await self._store.change(lambda tx: rewind(tx, task, sequence))

    async def steps(self, task: str) -> Mapping[str, Encoded]:
        """The results of the steps that were done."""
        return await self._store.read(lambda tx: steps(tx, task))

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
            job = Job(IDLE, tx.tick(), "", 0, 0, 0.0, ttl, 0.0, math.inf)
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
    tx: Transaction,
    task: str,
    name: str,
    value: bytes,
    fence: int,
    ttl: float,
    lease: float | None,
) -> bool:
    """Store the result of a step, if nobody else has started the job."""
    job = tx.get(JOBS, task)
    if job is None or job.state != RUNNING or job.fence != fence:
        return False
    lifetime = max(ttl, lease or job.until - tx.now)
    key = contents(task, job.life) + name
    if tx.get(STEPS, key) is None:
        # Where the job is not written, its next write counts the step as one of that moment, which
        # comes within the job's own lifetime: so it is kept for that much longer.
        tx.put(STEPS, key, Step(value), ttl=(3 if lease is None else 2) * lifetime)
    if lease is not None:
        kept(tx, task, replace(job, until=tx.now + lease), lifetime)
    return True


# --- by hand


def cancel(tx: Transaction, task: str) -> bool:
    """Mark the run of a live runner."""
    job = tx.get(JOBS, task)
    if job is None or not is_running(tx, job):
        return False
    tx.put(JOBS, task, replace(job, cancelled=True), ttl=job.expires - tx.now)
    return True


def rewind(tx: Transaction, task: str, sequence: int) -> bool:
    """Make a checkpoint the newest one, of a job that nobody runs."""
    job = tx.get(JOBS, task)
    if job is None or is_running(tx, job) or checkpoint(tx, task, job, sequence) is None:
        return False
    for number in range(sequence + 1, job.last + 1):
        tx.delete(SAVED, numbered(task, job, number))
    idle = replace(job, state=IDLE, until=0.0, last=sequence, result=b"")
    kept(tx, task, idle, job.ttl)
    return True


# --- what is saved


def steps(tx: Transaction, task: str) -> Mapping[str, Encoded]:
    """The results of the steps that were done."""
    job = tx.get(JOBS, task)
    return {} if job is None else steps_of(tx, task, job)


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


def delete(tx: Transaction, task: str) -> bool:
    """Forget the job, so that a runner still at work finds itself stale."""
    job = tx.get(JOBS, task)
    if job is None:
        return False
    wake_all(tx, job.queue)
    drop_contents(tx, task, job)
    tx.delete(JOBS, task)
    return True
