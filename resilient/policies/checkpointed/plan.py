"""The job, as a plan: become its runner, go on from the last save, run the body, store its result.

There is one runner at a time. Whatever it writes carries its fence and is refused once another
runner has started the job, so that a stale one changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from resilient import events
from resilient.config import Source
from resilient.engine import clock, identity
from resilient.engine.identity import describe
from resilient.engine.plan import Body, Plan
from resilient.engine.waiting import obtained
from resilient.errors import BackendError, FingerprintMismatch, JobRunning
from resilient.policies.checkpointed.leases import RunnerLease
from resilient.policies.checkpointed.places import here
from resilient.policies.checkpointed.results import opened
from resilient.policies.checkpointed.run import Run
from resilient.protocols.checkpoints import (
    ArgumentsDiffer,
    CheckpointStore,
    Finished,
    Running,
    Started,
)

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.bars import Bar, Display
    from resilient.policies.checkpointed.declaration import StateKind
    from resilient.policies.checkpointed.job import AnyJob
    from resilient.policies.checkpointed.versions import Code, Migrate

__all__ = ["POLICY", "Settings", "resumable"]

POLICY = "checkpointed"
Answer: TypeAlias = Started | Running | Finished | ArgumentsDiffer


class Settings:
    """The options of one checkpointed function.

    Attributes:
        source: Where its backend comes from.
        name: The function, for messages.
        job: The kind of job that the body gets.
        state: How a job's state is made and stored.
        result: Turns its results into their stored form and back.
        version: Of the code.
        migrate: Makes today's state of one that another version has saved.
        code: The function's source.
        rerun: Whether a finished job begins again, instead of answering its result.
        bar: How its progress is shown.
        every: Items after which a checkpoint is saved.
        seconds: Seconds after which one is saved, when an item is done; infinity: never.
        lease: Seconds for which a runner lives without renewing or saving.
        wait: Seconds to wait for another runner; 0: not at all; `None`: no limit.
        keep: Checkpoints that are kept.
        ttl: Seconds for which a job is kept after its last write; `None`: the backend's `max_ttl`.
        skip: Whether a running job skips the call, which then answers `skipped`.
        unguarded: Whether the body runs when the backend is away, and nothing of it is kept.
    """

    __slots__ = (
        "bar",
        "code",
        "every",
        "job",
        "keep",
        "lease",
        "migrate",
        "name",
        "rerun",
        "result",
        "seconds",
        "skip",
        "skipped",
        "source",
        "state",
        "ttl",
        "unguarded",
        "version",
        "wait",
    )

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        job: type[AnyJob],
        state: StateKind,
        result: Codec,
        version: str,
        migrate: Migrate | None,
        code: Code,
        rerun: bool,
        bar: Bar | None,
        every: int,
        seconds: float,
        lease: float,
        wait: float | None,
        keep: int,
        ttl: float | None,
        skip: bool,
        skipped: Any,
        unguarded: bool,
    ) -> None:
        self.source = source
        self.name = name
        self.job = job
        self.state = state
        self.result = result
        self.version = version
        self.migrate = migrate
        self.code = code
        self.rerun = rerun
        self.bar: Bar | None = bar
        self.every = every
        self.seconds = seconds
        self.lease = lease
        self.wait = wait
        self.keep = keep
        self.ttl = ttl
        self.skip = skip
        self.skipped = skipped
        self.unguarded = unguarded

    def kept_for(self) -> float:
        """Seconds for which a job is kept after its last write."""
        if self.ttl is not None:
            return self.ttl
        backend = self.source.backend()
        assert backend is not None  # without one nothing is kept
        return backend.max_ttl

    def display(self, task: str) -> Display | None:
        """What shows the progress of a run that has something to show."""
        if self.bar is None:
            return None
        from resilient.policies.checkpointed.bars import display_of

        return display_of(self.bar, task)


async def resumable(settings: Settings, task: str, fingerprint: str) -> Any:
    """Run the body from where the last run was saved, or answer what the finished job answered.

    In one piece: each coroutine around the body is gone through twice in every call.
    """
    backend = settings.source.backend()
    run: Run | None = None
    started: Started | None = None
    if backend is not None:
        contest = JobContest(settings, backend, task, identity.new_owner(), fingerprint)
        try:
            began, answer = await obtained(contest, backend.hub, settings.wait, clock.now())
        except JobRunning:
            if settings.skip:
                return settings.skipped
            raise
        except BackendError as error:
            if not settings.unguarded:
                raise
            events.emit(events.BackendTrouble(POLICY, task, error))
        else:
            if type(answer) is Started:
                run, started = contest.run(answer, began), answer
            elif type(answer) is Finished:
                return opened(settings.result, answer.result, task)
            else:
                raise FingerprintMismatch(
                    f"the job {task!r} was started with other arguments of {settings.name} than "
                    "these: what tells two jobs apart belongs into the key",
                    key=task,
                )
    if run is None:  # nothing of it is kept
        run = Run(settings, task)
    outer, job, lease = run.around, run.job, run.lease
    try:
        if lease is not None:
            lease.keep()
        if started is not None and (started.attempt > 1 or started.checkpoint is not None):
            await run.resume(started)
            sequence = 0 if started.checkpoint is None else started.checkpoint.sequence
            events.emit(events.JobResumed(run.task, started.attempt, sequence))
        here.set(run)
        answer = await Body(job, lease, True)
        here.set(outer)
        await run.finish(answer)
    except BaseException as error:
        here.set(outer)
        await run.abandon(error)
        raise
    finally:
        if lease is not None:
            lease.heartbeat.leases.discard(lease)  # wherever this is interrupted
        run.close()
    return answer


class JobContest:
    """One caller's attempt to become the runner of one job."""

    __slots__ = ("_backend", "_settings", "_store", "_ttl", "fingerprint", "owner", "task")

    def __init__(
        self, settings: Settings, backend: Backend, task: str, owner: str, fingerprint: str
    ) -> None:
        self._settings = settings
        self._backend = backend
        assert backend.checkpoints is not None  # its source has looked
        self._store: CheckpointStore = backend.checkpoints
        self._ttl = backend.max_ttl if settings.ttl is None else settings.ttl
        self.task = task
        self.owner = owner
        self.fingerprint = fingerprint

    def run(self, started: Started, began: float) -> Run:
        """The run that this caller has won."""
        settings, backend, task = self._settings, self._backend, self.task
        fence, store, heartbeat = started.fence, self._store, backend.heartbeat
        lease = RunnerLease("job", task, self.owner, fence, settings.lease, began, store, heartbeat)
        attempt, life, scope = started.attempt, started.life, backend.prefix
        return Run(settings, task, lease, self._ttl, attempt, scope, life, began)

    def ask(self, waiter: str | None) -> Plan[Answer]:
        """Try once."""
        return self._store.start(
            self.task,
            owner=self.owner,
            lease=self._settings.lease,
            ttl=self._ttl,
            version=self._settings.version,
            fingerprint=self.fingerprint,
            rerun=self._settings.rerun,
            waiter=waiter,
        )

    def is_busy(self, answer: Answer) -> bool:
        """Whether somebody else runs the job."""
        return type(answer) is Running

    def evict(self, owner: str) -> Plan[object]:
        """End the run of a runner that died."""
        return self._store.stop(self.task, owner=owner)

    def withdraw(self, waiter: str | None) -> Plan[object]:
        """End the run that may have been won; what is registered as waiting expires."""
        return self._store.stop(self.task, owner=self.owner)

    def refusal(self, answer: Answer, waited: float) -> JobRunning:
        """The error that says who runs the job."""
        assert isinstance(answer, Running)
        return JobRunning(
            f"the job {self.task!r} is run by {describe(answer.owner)} (attempt "
            f"{answer.attempt}, {answer.ttl:.1f} s left unless renewed); waited {waited:.1f} s",
            policy=POLICY,
            key=self.task,
            retry_after=answer.ttl,
        )
