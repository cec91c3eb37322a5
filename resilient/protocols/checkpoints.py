"""What a backend promises about resumable jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from resilient.protocols.values import Encoded

__all__ = [
    "ArgumentsDiffer",
    "Checkpoint",
    "CheckpointStore",
    "Finished",
    "Running",
    "Started",
]


class Checkpoint(NamedTuple):
    """One saved position of a job.

    Attributes:
        id: `{task}:{sequence}`.
        task: The job.
        sequence: Grows by one with every save of the job, over all its runs; a finished job that
            is started again begins anew.
        timestamp: Seconds since the epoch by the server's clock, for people to read.
        progress: 0 to 100; `None` if unknown.
        eta: Estimated seconds to go; `None` if unknown.
        label: What the caller named it; `""` if nothing.
        data: Cursors and state.
    """

    id: str
    task: str
    sequence: int
    timestamp: float
    progress: float | None
    eta: float | None
    label: str
    data: Encoded


class Started(NamedTuple):
    """The job is the caller's to run.

    Attributes:
        fence: Grows with every start of the job.
        attempt: 1 for the first start.
        checkpoint: The latest checkpoint, if any.
        steps: The results of the steps that were done, by name.
        version: The version under which the job was last started; `""` at first.
        life: The same for all attempts of this job, and for no earlier job of its name: one that
            was forgotten, expired, or begun again from the beginning.
    """

    fence: int
    attempt: int
    checkpoint: Checkpoint | None
    steps: Mapping[str, Encoded]
    version: str
    life: int = 0


class Running(NamedTuple):
    """The job has a live runner.

    Attributes:
        owner: The runner's token.
        ttl: Seconds until its lease runs out.
        attempt: Its attempt.
        cancelled: Whether it has been asked to stop.
    """

    owner: str
    ttl: float
    attempt: int
    cancelled: bool = False


class Finished(NamedTuple):
    """The job has run to its end.

    Attributes:
        result: What it returned.
        ttl: Seconds for which that is kept.
    """

    result: Encoded
    ttl: float


class ArgumentsDiffer(NamedTuple):
    """The task id belongs to a job that was started with other arguments.

    Attributes:
        fingerprint: The fingerprint under which it was started.
    """

    fingerprint: str


class CheckpointStore(Protocol):
    """Jobs with one runner, their checkpoints and steps. Every method is one atomic operation.

    A runner's writes carry its fence; they are refused (`False` or `None`), and change nothing,
    once another runner has started the job. Times are seconds.
    """

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
    ) -> Started | Running | Finished | ArgumentsDiffer:
        """Become the runner of the job if it has none, and get everything needed to resume it.

        The same owner asking again keeps its fence and attempt.

        Args:
            task: The job.
            owner: The caller's token.
            lease: Seconds for which the runner lives without renewing or saving.
            ttl: Seconds for which the job, its checkpoints and steps are kept after the last write.
            version: The version of the job's code, stored for the next start.
            fingerprint: A digest of the arguments; empty, given or stored, matches all.
            rerun: Start a finished job again from the beginning, without checkpoints and steps.
            waiter: The address to wake when the runner ends, registered when there is one.
        """
        ...

    async def renew(self, task: str, *, owner: str, lease: float) -> bool:
        """Start the runner's lease anew; false for a stale runner."""
        ...

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
        """Save cursors, state, history and lease together, and drop all but the newest `keep`.

        Args:
            task: The job.
            data: Cursors and state.
            fence: The runner's fence. `None`: by hand; refused while the job has a live runner.
            sequence: The number of the new checkpoint, one more than the last. The same number
                sent again by the same runner answers what was stored the first time, so a lost
                reply is safe. `None`: the next one.
            progress: 0 to 100.
            eta: Estimated seconds to go.
            label: A name for people.
            keep: How many checkpoints are kept.
            ttl: Seconds for which the job is kept; `None`: the backend's `max_ttl`.
            lease: Starts the runner's lease anew, in seconds; `None` leaves it.

        Returns:
            The checkpoint (with empty `data` if the store need not read it back), or `None` for
            a stale runner.
        """
        ...

    async def step(
        self,
        task: str,
        name: str,
        value: Encoded,
        *,
        fence: int,
        ttl: float,
        lease: float | None = None,
    ) -> bool:
        """Store the result of a step; the first writer wins. False for a stale runner.

        Args:
            task: The job.
            name: The step.
            value: Its result.
            fence: The runner's fence.
            ttl: Seconds for which the job is kept.
            lease: Starts the runner's lease anew, in seconds; `None` leaves it and the time of the
                job as they are, which costs less: the next renewal sees to both.
        """
        ...

    async def finish(self, task: str, result: Encoded, *, fence: int, ttl: float) -> bool:
        """Store the job's result, end the run and wake all waiters; false for a stale runner.

        Asked again under the same fence it answers true.
        """
        ...

    async def stop(self, task: str, *, owner: str) -> bool:
        """End the run without a result: the next start resumes at once. Wakes all waiters."""
        ...

    async def runner(self, task: str) -> Running | Finished | None:
        """Who runs the job, or its result; `None` if it is neither running nor finished."""
        ...

    async def cancel(self, task: str) -> bool:
        """Ask the runner to stop, by `Running.cancelled`; false if the job has none.

        The next start of another owner begins uncancelled.
        """
        ...

    async def rewind(self, task: str, sequence: int) -> bool:
        """Let the next start go on from this checkpoint: later ones and a result are dropped.

        Steps stay. False, and nothing is changed, if the job has a live runner or does not keep
        that checkpoint.
        """
        ...

    async def steps(self, task: str) -> Mapping[str, Encoded]:
        """The results of the steps that were done, by name."""
        ...

    async def latest(self, task: str) -> Checkpoint | None:
        """The newest checkpoint."""
        ...

    async def load(self, task: str, sequence: int) -> Checkpoint | None:
        """One checkpoint by its number."""
        ...

    async def list(self, task: str) -> list[Checkpoint]:
        """All kept checkpoints, the oldest first."""
        ...

    async def trim(self, task: str, *, keep: int) -> int:
        """Drop all but the newest `keep` checkpoints; how many were dropped."""
        ...

    async def delete(self, task: str) -> bool:
        """Forget the job: checkpoints, steps, result and runner. False if there was none.

        A runner that is still at work finds itself stale, and the next fence is larger.
        """
        ...
