"""`checkpointed.of(f).at(...)`: one job, as seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from resilient.engine import identity
from resilient.engine.drivers.sync import drive
from resilient.engine.identity import describe
from resilient.engine.plan import Plan, Together
from resilient.engine.wrap import Controls, Layer, Shape
from resilient.errors import ConfigurationError, JobRunning
from resilient.policies.checkpointed.plan import POLICY, Settings
from resilient.policies.checkpointed.record import Record
from resilient.policies.checkpointed.versions import seen_state
from resilient.protocols.checkpoints import (
    Checkpoint,
    CheckpointStore,
    Finished,
    Running,
    Started,
)

__all__ = ["CheckpointedControls", "CheckpointedLayer", "JobCheckpoint", "JobControls", "JobStatus"]


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """One saved position of a job.

    Attributes:
        sequence: Its number; each save of the job has the next one.
        saved_at: Seconds since the epoch, by the server's clock.
        label: What `job.save(label)` named it; `""` if nothing.
        done: Items done, over the job's outermost loops.
        total: How many there are; `None` if unknown.
        percent: 0 to 100; `None` if unknown.
        rate: Items a second at that time; `None` if unknown.
        eta: Estimated seconds that were to go; `None` if unknown.
        state: `job.state` as it was; of what another version of the code has saved, its fields, as
            `migrate=` is given them.
        version: The `version=` of the code that saved it.
    """

    sequence: int
    saved_at: float
    label: str
    done: int
    total: int | None
    percent: float | None
    rate: float | None
    eta: float | None
    state: Any
    version: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What has become of a job.

    Attributes:
        task: Its key.
        phase: `"running"`; `"finished"`; `"stopped"`: the next call goes on from `checkpoint` and
            the results of steps; `"new"`: none is saved.
        runner: The process that runs it, such as `pid 812 on host-3`; `None` if none does.
        attempt: The runner's attempt; `None` if there is no runner.
        cancelled: Whether the runner has been asked to stop, and has not yet.
        checkpoint: The latest; `None` if none is saved.
    """

    task: str
    phase: Literal["new", "running", "stopped", "finished"]
    runner: str | None
    attempt: int | None
    checkpoint: JobCheckpoint | None
    cancelled: bool = False


class CheckpointedLayer(Layer):
    """What the decorator knows about one function."""

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Shape,
        key: Callable[..., str],
        settings: Settings,
    ) -> None:
        super().__init__(POLICY, function, shape)
        self.key = key
        self.settings = settings


class CheckpointedControls(Controls[CheckpointedLayer]):
    """`checkpointed.of(f)`: the jobs of one function."""

    def __init__(
        self, layer: CheckpointedLayer, bound: tuple[Any, ...], function: Callable[..., Any]
    ) -> None:
        super().__init__(layer, bound)
        self._function = function

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of the job that a call with these arguments runs."""
        return self._layer.key(*self._bound, *args, **kwargs)

    def at(self, *args: Any, **kwargs: Any) -> JobControls:
        """The job that a call with these arguments runs."""
        call = partial(self._function, *args, **kwargs)
        return JobControls(self._layer, self.key(*args, **kwargs), call)


class JobControls:
    """One job; what is asked of that of an `async def` is awaited."""

    def __init__(self, layer: CheckpointedLayer, task: str, call: Callable[[], Any]) -> None:
        self._layer = layer
        self._call = call
        self.task = task

    def status(self) -> Any:
        """What has become of the job, as a `JobStatus`."""
        return self._layer.run(self._status())

    def history(self) -> Any:
        """The checkpoints that are kept, as a list of `JobCheckpoint`, the oldest first."""
        return self._layer.run(self._history())

    def cancel(self) -> Any:
        """Ask the job's runner to stop; false if it has none.

        It sees that when an item or a step is done, within a second: what is done is saved, and
        its call raises `JobCancelled`. The next call goes on from there.
        """
        return self._layer.run(self._cancel())

    def resume(self, *, from_checkpoint: int | None = None) -> Any:
        """Call the function with these arguments; its result.

        Args:
            from_checkpoint: The number of a kept checkpoint (`history()`) to go on from, of a
                finished job too. Later checkpoints are dropped; the results of steps stay, and so
                does what a loop with `conn=` has committed. By default it is the latest.

        Raises:
            ConfigurationError: There is no such checkpoint.
            JobRunning: The job has a live runner.
        """
        if self._layer.shape.mode == "sync":
            drive(self._rewind(from_checkpoint))
            return self._call()
        return self._aresume(from_checkpoint)

    async def _aresume(self, from_checkpoint: int | None) -> Any:
        from resilient.engine.drivers.aio import adrive

        await adrive(self._rewind(from_checkpoint))
        return await self._call()

    def fork(self, to: JobControls, *, from_checkpoint: int | None = None) -> Any:
        """Let another job, of other arguments, begin where this one was saved.

        Args:
            to: The other job, new so far: `runs.at("b.csv")`.
            from_checkpoint: The number of a kept checkpoint; by default the latest. The results
                of all steps go along.

        Raises:
            ConfigurationError: There is no such checkpoint, or the other job has one already, or
                `to` is no job.
            JobRunning: The other job has a live runner.
        """
        given: object = to
        if not isinstance(given, JobControls):
            raise ConfigurationError(
                f"fork: to={to!r} is no job, such as checkpointed.of(f).at(...) answers"
            )
        return self._layer.run(self._fork(to, from_checkpoint))

    def forget(self) -> Any:
        """Forget the job, so that the next call begins it anew; false if there was none.

        A runner that is at work finds itself stale, and changes nothing any more.
        """
        return self._layer.run(self._forget())

    async def _status(self) -> JobStatus:
        store = self._store()
        if store is None:
            return JobStatus(self.task, "new", None, None, None)
        runner, latest = await _all([store.runner(self.task), store.latest(self.task)])
        checkpoint = None if latest is None else self._readable(latest)
        phase: Literal["new", "stopped", "finished"]
        if isinstance(runner, Running):
            who = describe(runner.owner)
            return JobStatus(
                self.task, "running", who, runner.attempt, checkpoint, runner.cancelled
            )
        if isinstance(runner, Finished):
            phase = "finished"
        else:
            is_saved = checkpoint is not None or await store.steps(self.task)
            phase = "stopped" if is_saved else "new"
        return JobStatus(self.task, phase, None, None, checkpoint)

    async def _history(self) -> list[JobCheckpoint]:
        store = self._store()
        return [] if store is None else [self._readable(c) for c in await store.list(self.task)]

    async def _cancel(self) -> bool:
        store = self._store()
        return False if store is None else await store.cancel(self.task)

    async def _rewind(self, sequence: int | None) -> None:
        store = self._store()
        if store is None or sequence is None or await store.rewind(self.task, sequence):
            return
        runner = await store.runner(self.task)
        if isinstance(runner, Running):
            raise _has_runner(self.task, runner)
        raise ConfigurationError(f"the job {self.task!r} keeps no checkpoint {sequence}")

    async def _fork(self, to: JobControls, sequence: int | None) -> None:
        store = self._store()
        if store is None:
            return
        if to.task == self.task:
            raise ConfigurationError(f"fork: {self.task!r} is the job itself")
        settings = self._layer.settings
        saved = await (
            store.latest(self.task) if sequence is None else store.load(self.task, sequence)
        )
        steps = await store.steps(self.task)
        if saved is None:
            raise ConfigurationError(f"the job {self.task!r} keeps no such checkpoint")
        owner, ttl = identity.new_owner(), settings.kept_for()
        version = Record.decode(saved.data).version
        started = await store.start(
            to.task, owner=owner, lease=settings.lease, ttl=ttl, version=version
        )
        if isinstance(started, Running):
            raise _has_runner(to.task, started)
        try:
            if not isinstance(started, Started) or started.checkpoint is not None:
                raise ConfigurationError(
                    f"fork: the job {to.task!r} has been begun already: forget() it first"
                )
            # The checkpoint comes last: a fork that was killed half-way is none, and is done again.
            fence = started.fence
            await _all(
                [
                    store.step(to.task, name, value, fence=fence, ttl=ttl)
                    for name, value in steps.items()
                ]
            )
            await store.save(
                to.task,
                saved.data,
                fence=fence,
                progress=saved.progress,
                eta=saved.eta,
                label=f"fork of {saved.id}",
                keep=settings.keep,
                ttl=ttl,
            )
        finally:
            if isinstance(started, Started):
                await store.stop(to.task, owner=owner)

    async def _forget(self) -> bool:
        store = self._store()
        return False if store is None else await store.delete(self.task)

    def _readable(self, checkpoint: Checkpoint) -> JobCheckpoint:
        record = Record.decode(checkpoint.data)
        return JobCheckpoint(
            sequence=checkpoint.sequence,
            saved_at=checkpoint.timestamp,
            label=checkpoint.label,
            done=record.done,
            total=record.total,
            percent=checkpoint.progress,
            rate=record.rate,
            eta=checkpoint.eta,
            state=seen_state(self._layer.settings, record),
            version=record.version,
        )

    def _store(self) -> CheckpointStore | None:
        backend = self._layer.settings.source.backend()
        if backend is None:
            return None
        store: CheckpointStore = backend.require("checkpoints")
        return store

    def __repr__(self) -> str:
        return f"<the job {self.task!r} of {self._layer.name}>"


def _has_runner(task: str, runner: Running) -> JobRunning:
    return JobRunning(
        f"the job {task!r} is run by {describe(runner.owner)}",
        policy=POLICY,
        key=task,
        retry_after=runner.ttl,
    )


async def _all(plans: list[Plan[Any]]) -> list[Any]:
    answers = await Together(plans)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
