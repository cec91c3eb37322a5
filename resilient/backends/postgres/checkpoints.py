"""Resumable jobs on PostgreSQL: a row a job, and rows of what it saves (`sql/checkpoints.sql`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resilient.backends.postgres.commands import Call, First, Function, first, same
from resilient.backends.postgres.keys import Keys
from resilient.backends.postgres.texts import Row, microseconds
from resilient.engine.plan import Ask, Transport
from resilient.protocols.checkpoints import (
    ArgumentsDiffer,
    Checkpoint,
    Finished,
    Running,
    Started,
)
from resilient.protocols.values import Encoded

__all__ = ["PostgresCheckpoints"]

START = Function("job_start", read=same)
RENEW = Function("job_renew", read=same)
FINISH = Function("job_finish", read=same)
STOP = Function("job_stop", read=same)
RUNNER = Function("job_runner", read=first, many=True)
SAVE = Function("job_save", read=first, many=True)
SAVE_NEXT = Function("job_save", read=first, many=True, repeatable=False)
"""Sent twice it would be saved twice."""
STEP = Function("job_step", read=same)
STEP_ALONE = Function("job_step", read=same, first=First("step_store", 4))
"""Stores a step that is not there yet by a plain statement, which costs less than a function."""
CANCEL = Function("job_cancel", read=same)
REWIND = Function("job_rewind", read=same)
STEPS = Function("job_steps", read=same, many=True)
LIST = Function("job_list", read=same, many=True)
TRIM = Function("job_trim", read=same)
DELETE = Function("job_delete", read=same)
LONG = 256
"""Characters from which on the name of a step may be too long."""
NEWEST = 0
"""Asks for the newest checkpoint: none has this number."""


class PostgresCheckpoints:
    """Jobs, checkpoints and steps (`resilient.protocols.checkpoints.CheckpointStore`)."""

    def __init__(self, transport: Transport, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl

    # --- running

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
        """Become the runner of the job, and get everything needed to resume it."""
        call = Call(
            START,
            *(self._keys.name(task), owner, microseconds(lease, "lease")),
            *(microseconds(ttl, "ttl"), version, fingerprint, rerun, waiter or ""),
        )
        row = await Ask(self._transport, call)
        if row[0] == "differ":
            return ArgumentsDiffer(row[1])
        if row[0] != "started":
            return _runner(row)
        *_, names, values = row
        return Started(
            fence=row[2],
            attempt=row[3],
            checkpoint=None if row[8] is None else _checkpoint(task, row[8:14]),
            steps=dict(zip(names or (), map(Encoded, values or ()), strict=True)),
            version=row[6],
            life=row[7],
        )

    async def renew(self, task: str, *, owner: str, lease: float) -> bool:
        """Start the runner's lease anew; false for a stale runner."""
        lives = microseconds(lease, "lease")
        call = Call(RENEW, self._keys.name(task), owner, lives)
        return bool(await Ask(self._transport, call))

    async def finish(self, task: str, result: Encoded, *, fence: int, ttl: float) -> bool:
        """Store the job's result, end the run and wake all waiters; false for a stale runner."""
        lives = microseconds(ttl, "ttl")
        call = Call(FINISH, self._keys.name(task), result, fence, lives)
        return bool(await Ask(self._transport, call))

    async def stop(self, task: str, *, owner: str) -> bool:
        """End the run without a result, and wake all waiters."""
        call = Call(STOP, self._keys.name(task), owner)
        return bool(await Ask(self._transport, call))

    async def runner(self, task: str) -> Running | Finished | None:
        """Who runs the job, or its result."""
        call = Call(RUNNER, self._keys.name(task))
        row = await Ask(self._transport, call)
        return None if row is None else _runner(row)

    # --- saving

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
        """Save cursors, state, history and lease together, and drop all but the newest `keep`."""
        call = Call(
            SAVE_NEXT if sequence is None else SAVE,
            *(self._keys.name(task), data, fence, sequence, progress, eta, label, keep),
            microseconds(self._max_ttl() if ttl is None else ttl, "ttl"),
            None if lease is None else microseconds(lease, "lease"),
        )
        row = await Ask(self._transport, call)
        return None if row is None else _checkpoint(task, row)

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
        """Store the result of a step; the first writer wins. False for a stale runner."""
        call = Call(
            STEP_ALONE if lease is None else STEP,
            *(self._keys.name(task), name if len(name) < LONG else self._checked(name)),
            *(value, fence, microseconds(ttl, "ttl")),
            None if lease is None else microseconds(lease, "lease"),
        )
        return bool(await Ask(self._transport, call))

    # --- by hand

    async def cancel(self, task: str) -> bool:
        """Ask the runner to stop; false if the job has none."""
        call = Call(CANCEL, self._keys.name(task))
        return bool(await Ask(self._transport, call))

    async def rewind(self, task: str, sequence: int) -> bool:
        """Let the next start go on from this checkpoint: later ones and a result are dropped."""
        call = Call(REWIND, self._keys.name(task), sequence)
        return bool(await Ask(self._transport, call))

    async def steps(self, task: str) -> Mapping[str, Encoded]:
        """The results of the steps that were done, by name."""
        call = Call(STEPS, self._keys.name(task))
        rows = await Ask(self._transport, call)
        return {name: Encoded(value) for name, value in rows}

    # --- what is saved

    async def _saved(self, task: str, sequence: int | None) -> list[Checkpoint]:
        call = Call(LIST, self._keys.name(task), sequence)
        return [_checkpoint(task, row) for row in await Ask(self._transport, call)]

    async def latest(self, task: str) -> Checkpoint | None:
        """The newest checkpoint."""
        found = await self._saved(task, NEWEST)
        return found[0] if found else None

    async def load(self, task: str, sequence: int) -> Checkpoint | None:
        """One checkpoint by its number."""
        found = await self._saved(task, sequence) if sequence > 0 else []
        return found[0] if found else None

    async def trim(self, task: str, *, keep: int) -> int:
        """Drop all but the newest `keep` checkpoints; how many were dropped."""
        call = Call(TRIM, self._keys.name(task), keep)
        return int(await Ask(self._transport, call))

    async def delete(self, task: str) -> bool:
        """Forget the job; false if there was none."""
        call = Call(DELETE, self._keys.name(task))
        return bool(await Ask(self._transport, call))

    def _checked(self, name: str) -> str:
        self._keys.name(name)  # it is in an index, as a key is
        return name

    async def list(self, task: str) -> list[Checkpoint]:
        """All kept checkpoints, the oldest first."""
        return await self._saved(task, None)


def _runner(row: Row) -> Running | Finished:
    answer, owner, left, attempt, cancelled, result, *_ = row
    if answer == "finished":
        return Finished(Encoded(result), left / 1e6)
    return Running(owner, left / 1e6, attempt, cancelled)


def _checkpoint(task: str, row: Row) -> Checkpoint:
    sequence, at, progress, eta, label, data = row
    return Checkpoint(
        id=f"{task}:{sequence}",
        task=task,
        sequence=sequence,
        timestamp=at / 1e6,
        progress=progress,
        eta=eta,
        label=label,
        data=Encoded(data),
    )
