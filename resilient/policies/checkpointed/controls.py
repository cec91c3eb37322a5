"""`checkpointed.of(f).at(...)`: one job, as seen from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from resilient.engine.identity import describe
from resilient.engine.plan import Plan, Together
from resilient.engine.wrap import Layer, Shape
from resilient.policies.checkpointed.plan import POLICY, Settings
from resilient.policies.checkpointed.record import Record
from resilient.protocols.checkpoints import Checkpoint, CheckpointStore, Finished, Running

__all__ = ["CheckpointedControls", "CheckpointedLayer", "JobCheckpoint", "JobControls", "JobStatus"]


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """One saved position of a job.

    Attributes:
        sequence: Its number; each save of the job has the next one.
        saved_at: Seconds since the epoch, by the server's clock.
        label: What `job.save(label)` named it; `""` if nothing.
        done: Items done, over the job's outermost loops.
        percent: 0 to 100; `None` if unknown.
        eta: Estimated seconds that were to go; `None` if unknown.
        state: `job.state` as it was.
        version: The `version=` of the code that saved it.
    """

    sequence: int
    saved_at: float
    label: str
    done: int
    percent: float | None
    eta: float | None
    state: Any
    version: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What has become of a job.

    Attributes:
        task: Its key.
        phase: `"running"`; `"finished"`; `"stopped"`: the next call goes on from `checkpoint`;
            `"new"`: nothing is saved.
        runner: The process that runs it, such as `pid 812 on host-3`; `None` if none does.
        attempt: The runner's attempt; `None` if there is no runner.
        checkpoint: The latest; `None` if none is saved.
    """

    task: str
    phase: Literal["new", "running", "stopped", "finished"]
    runner: str | None
    attempt: int | None
    checkpoint: JobCheckpoint | None


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


class CheckpointedControls:
    """`checkpointed.of(f)`: the jobs of one function."""

    def __init__(self, layer: CheckpointedLayer, bound: tuple[Any, ...]) -> None:
        self._layer = layer
        self._bound = bound

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of the job that a call with these arguments runs."""
        return self._layer.key(*self._bound, *args, **kwargs)

    def at(self, *args: Any, **kwargs: Any) -> JobControls:
        """The job that a call with these arguments runs."""
        return JobControls(self._layer, self.key(*args, **kwargs))


class JobControls:
    """One job; what is asked of that of an `async def` is awaited."""

    def __init__(self, layer: CheckpointedLayer, task: str) -> None:
        self._layer = layer
        self.task = task

    def status(self) -> Any:
        """What has become of the job, as a `JobStatus`."""
        return self._layer.run(self._status())

    def history(self) -> Any:
        """The checkpoints that are kept, as a list of `JobCheckpoint`, the oldest first."""
        return self._layer.run(self._history())

    def forget(self) -> Any:
        """Forget the job, so that the next call begins it anew; false if there was none.

        A runner that is at work finds itself stale, and changes nothing any more.
        """
        return self._layer.run(self._forget())

    async def _status(self) -> JobStatus:
        store = self._store()
        if store is None:
            return JobStatus(self.task, "new", None, None, None)
        runner, latest = await _both(store.runner(self.task), store.latest(self.task))
        checkpoint = None if latest is None else self._readable(latest)
        if isinstance(runner, Running):
            who = describe(runner.owner)
            return JobStatus(self.task, "running", who, runner.attempt, checkpoint)
        phase: Literal["new", "stopped", "finished"] = (
            "finished"
            if isinstance(runner, Finished)
            else "new"
            if checkpoint is None
            else "stopped"
        )
        return JobStatus(self.task, phase, None, None, checkpoint)

    async def _history(self) -> list[JobCheckpoint]:
        store = self._store()
        return [] if store is None else [self._readable(c) for c in await store.list(self.task)]

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
            percent=checkpoint.progress,
            eta=checkpoint.eta,
            state=self._layer.settings.state.codec.decode(record.state),
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


async def _both(first: Plan[Any], second: Plan[Any]) -> list[Any]:
    answers = await Together([first, second])
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers
