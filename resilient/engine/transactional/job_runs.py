"""Who runs a job: how a run begins, goes on and ends."""

from __future__ import annotations

import math

from msgspec.structs import replace

from resilient.engine.transactional.jobs import (
    FINISHED,
    IDLE,
    JOBS,
    RUNNING,
    Job,
    checkpoint,
    drop_contents,
    kept,
    steps_of,
)
from resilient.engine.transactional.store import Transaction, made
from resilient.engine.transactional.waiters import joined, wake_all
from resilient.protocols.checkpoints import ArgumentsDiffer, Finished, Running, Started
from resilient.protocols.values import Encoded

__all__ = ["Answer", "finish", "is_running", "renew", "runner", "start", "stop"]

Answer = Started | Running | Finished | ArgumentsDiffer


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
            fingerprint, job = fingerprint or job.fingerprint, None
    if job is None:
        job = begun(tx, owner, lease, ttl, version, fingerprint)
        tx.put(JOBS, task, job, ttl=job.ttl)
        return made(Started, (job.fence, 1, None, {}, "", job.life))
    if job.last < job.first:  # nothing to go on from: the numbers begin anew, as for a new job
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
        cancelled=False,
    )
    kept(tx, task, job, max(ttl, lease))
    return started(tx, task, job)


def begun(
    tx: Transaction, owner: str, lease: float, ttl: float, version: str, fingerprint: str
) -> Job:
    """A job that nobody has run before."""
    now, life = tx.now, tx.tick()
    ttl = ttl if ttl > lease else lease
    return Job(
        RUNNING,
        life,
        owner,
        life,
        1,
        now + lease,
        ttl,
        now + ttl,
        math.inf,
        version,
        fingerprint=fingerprint,
    )


def started(tx: Transaction, task: str, job: Job) -> Started:
    """Everything that a runner needs."""
    return Started(
        fence=job.fence,
        attempt=job.attempt,
        checkpoint=checkpoint(tx, task, job, job.last),
        steps=steps_of(tx, task, job),
        version=job.previous_version,
        life=job.life,
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
        if job.queue:
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
    return Running(job.owner, job.until - tx.now, job.attempt, job.cancelled)


def finished(tx: Transaction, job: Job) -> Finished:
    """The result as everybody sees it."""
    return Finished(Encoded(job.result), job.expires - tx.now)
