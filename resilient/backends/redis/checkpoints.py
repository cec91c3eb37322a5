"""Resumable jobs on Redis.

A job is one hash (runner, fence, lease, result); its steps are another, and each of its checkpoints
is a hash of its own, found by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from resilient.backends.redis.commands import Call, Script, milliseconds, text
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.server import Server
from resilient.engine.plan import Ask
from resilient.protocols.checkpoints import (
    ArgumentsDiffer,
    Checkpoint,
    Finished,
    Running,
    Started,
)
from resilient.protocols.values import Encoded

__all__ = ["RedisCheckpoints"]

_RUNNING = ("start", "renew", "finish", "stop", "runner")
_SAVING = ("save", "step", "load", "list", "trim", "delete")
_BY_HAND = ("cancel", "rewind", "steps")
SCRIPTS = {
    name: Script(f"checkpoints/{name}", shared=("checkpoints/job",))
    for name in _RUNNING + _SAVING + _BY_HAND
}
STEP = Script("checkpoints/step_alone")

MEMORY_LIVES = 7 * 86_400_000
"""Milliseconds for which the fence of a forgotten job is remembered."""


class RedisCheckpoints:
    """Jobs, checkpoints and steps (`resilient.protocols.checkpoints.CheckpointStore`)."""

    def __init__(self, transport: Server, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys_of = lru_cache(128)(keys.job)  # a job asks again and again
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
        call = self._call(
            "start",
            task,
            owner,
            milliseconds(lease, "lease"),
            milliseconds(ttl, "ttl"),
            version,
            fingerprint,
            int(rerun),
            self._transport.address(waiter, self._keys_of(task)[0]),
        )
        outcome, *rest = await Ask(self._transport, call)
        if outcome == b"differ":
            return ArgumentsDiffer(text(rest[0]))
        if outcome != b"started":
            return _runner(outcome, rest)
        fence, attempt, before, latest, steps, life = rest
        return Started(
            fence=int(fence),
            attempt=int(attempt),
            checkpoint=_checkpoint(task, latest),
            steps=_steps(steps),
            version=text(before),
            life=int(life),
        )

    async def renew(self, task: str, *, owner: str, lease: float) -> bool:
        """Start the runner's lease anew; false for a stale runner."""
        call = self._call("renew", task, owner, milliseconds(lease, "lease"))
        return bool(await Ask(self._transport, call))

    async def finish(self, task: str, result: Encoded, *, fence: int, ttl: float) -> bool:
        """Store the job's result, end the run and wake all waiters; false for a stale runner."""
        call = self._call("finish", task, fence, result, milliseconds(ttl, "ttl"))
        return bool(await Ask(self._transport, call))

    async def stop(self, task: str, *, owner: str) -> bool:
        """End the run without a result, and wake all waiters."""
        return bool(await Ask(self._transport, self._call("stop", task, owner)))

    async def runner(self, task: str) -> Running | Finished | None:
        """Who runs the job, or its result."""
        answer = await Ask(self._transport, self._call("runner", task))
        return None if answer is None else _runner(answer[0], answer[1:])

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
        call = self._call(
            "save",
            task,
            *("" if fence is None else fence, "" if sequence is None else sequence, data),
            *("" if progress is None else progress, "" if eta is None else eta, label, keep),
            milliseconds(self._max_ttl() if ttl is None else ttl, "ttl"),
            "" if lease is None else milliseconds(lease, "lease"),
            repeatable=sequence is not None,  # else it would be saved twice
        )
        return _checkpoint(task, await Ask(self._transport, call))

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
        lives = milliseconds(ttl, "ttl")
        if lease is None:
            call = STEP(self._keys_of(task)[:2], fence, name, value, lives)
        else:
            call = self._call("step", task, fence, name, value, lives, milliseconds(lease, "lease"))
        return bool(await Ask(self._transport, call))

    # --- by hand

    async def cancel(self, task: str) -> bool:
        """Ask the runner to stop; false if the job has none."""
        return bool(await Ask(self._transport, self._call("cancel", task)))

    async def rewind(self, task: str, sequence: int) -> bool:
        """Let the next start go on from this checkpoint: later ones and a result are dropped."""
        return bool(await Ask(self._transport, self._call("rewind", task, sequence)))

    async def steps(self, task: str) -> Mapping[str, Encoded]:
        """The results of the steps that were done, by name."""
        return _steps(await Ask(self._transport, self._call("steps", task)))

    # --- what is saved

    async def latest(self, task: str) -> Checkpoint | None:
        """The newest checkpoint."""
        return _checkpoint(task, await Ask(self._transport, self._call("load", task, "")))

    async def load(self, task: str, sequence: int) -> Checkpoint | None:
        """One checkpoint by its number."""
        return _checkpoint(task, await Ask(self._transport, self._call("load", task, sequence)))

    async def list(self, task: str) -> list[Checkpoint]:
        """All kept checkpoints, the oldest first."""
        found = await Ask(self._transport, self._call("list", task))
        return [saved for each in found if (saved := _checkpoint(task, each)) is not None]

    async def trim(self, task: str, *, keep: int) -> int:
        """Drop all but the newest `keep` checkpoints; how many were dropped."""
        return int(await Ask(self._transport, self._call("trim", task, keep)))

    async def delete(self, task: str) -> bool:
        """Forget the job; false if there was none."""
        return bool(await Ask(self._transport, self._call("delete", task, MEMORY_LIVES)))

    def _call(
        self, name: str, task: str, *args: str | bytes | int | float, repeatable: bool = True
    ) -> Call:
        return SCRIPTS[name](self._keys_of(task), *args, repeatable=repeatable)


def _runner(outcome: bytes, fields: list[Any]) -> Running | Finished:
    if outcome == b"finished":
        return Finished(Encoded(fields[0]), fields[1] / 1000)
    owner, left, attempt, cancelled = fields
    return Running(text(owner), left / 1e6, int(attempt), bool(cancelled))


def _steps(fields: list[bytes]) -> dict[str, Encoded]:
    names = [text(name) for name in fields[::2]]
    return dict(zip(names, map(Encoded, fields[1::2]), strict=True))


def _checkpoint(task: str, fields: list[Any] | None) -> Checkpoint | None:
    if fields is None:
        return None
    sequence, timestamp, progress, eta, label, data = fields
    return Checkpoint(
        id=f"{task}:{int(sequence)}",
        task=task,
        sequence=int(sequence),
        timestamp=int(timestamp) / 1e6,
        progress=float(progress) if progress else None,
        eta=float(eta) if eta else None,
        label=text(label),
        data=Encoded(data),
    )
