"""Resumable jobs on MongoDB: one document a job (`job_document.py`), and parts beside it.

Every operation is one command, but for what is large: that is written beside the document first and
then pointed at, and what the document points at no longer is removed afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resilient.backends.mongodb import job_pipelines as become
from resilient.backends.mongodb.commands import Change, Document, Look, Pipeline, compiled
from resilient.backends.mongodb.expressions import NOW, filtered, or_else, put
from resilient.backends.mongodb.job_document import ALL_PLACES
from resilient.backends.mongodb.job_reading import JobReader, bound, checkpoint, running
from resilient.backends.mongodb.job_saving import KEPT, SAVE, STEP, VOLUME
from resilient.backends.mongodb.keys import Keys
from resilient.backends.mongodb.parts import Parts, Place, Stored, is_beside, read_whole
from resilient.backends.mongodb.times import microseconds
from resilient.engine.plan import Ask, Transport
from resilient.protocols.checkpoints import (
    ArgumentsDiffer,
    Checkpoint,
    Finished,
    Running,
    Started,
)
from resilient.protocols.values import Encoded

__all__ = ["MongoCheckpoints"]

CHECKPOINTS = "checkpoints"
ROOM_FOR_STATES = 2 << 20
"""Bytes of the document for all checkpoints together: what is more lies beside it."""
ROOM_FOR_A_STATE = 256 << 10
ROOM_FOR_A_RESULT = 1 << 20
ROOM_FOR_A_STEP = 8 << 10
ROOM_FOR_STEPS = 16 << 10
"""Bytes of steps after which they are made a volume: each step writes the document anew."""
OF_A_STEP = 100
"""Bytes for which a step counts, however small it is."""
KEPT_TIMES = 3
"""How many times longer than the job its parts are kept: they are kept anew before that is over."""

TIMES = ("turn", "at", "ttl", "expires", "parts_until")

LATELY = compiled(
    put(at=NOW),
    {
        "$project": dict.fromkeys(
            ("at", "state", "owner", "until", "expires", "attempt", "cancelled", "result"), 1
        )
    },
)
STEPS = compiled(put(at=NOW), {"$project": dict.fromkeys(("at", "expires", "steps", "volumes"), 1)})
PLACES = compiled({"$project": {"places": ALL_PLACES}})


def _saved_where(condition: Any) -> Pipeline:
    saved = filtered(or_else("$saved", []), condition)
    return compiled(put(at=NOW), {"$project": {"at": 1, "expires": 1, "saved": saved}})


ALL_SAVED = _saved_where(True)
LATEST_SAVED = _saved_where({"$eq": ["$$each.sequence", "$last"]})
ONE_SAVED = _saved_where({"$eq": ["$$each.sequence", "$$p.sequence"]})


class MongoCheckpoints:
    """Jobs, checkpoints and steps (`resilient.protocols.checkpoints.CheckpointStore`)."""

    def __init__(self, transport: Transport[Any], keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl
        self._parts = Parts(transport)
        self._reader = JobReader(self._parts)

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
        arguments = {
            "owner": owner,
            "lease": microseconds(lease, "lease"),
            "ttl": microseconds(ttl, "ttl"),
            "version": version,
            "fingerprint": fingerprint,
            "rerun": rerun,
            "waiter": waiter or "",
        }
        # Whoever has become the runner and asks again still is it.
        return await read_whole(lambda: self._started(task, arguments))

    async def _started(
        self, task: str, arguments: Mapping[str, Any]
    ) -> Started | Running | Finished | ArgumentsDiffer:
        job = await self._change(task, become.START, arguments, upsert=True)
        assert job is not None
        if job["turn"] == "differ":
            return ArgumentsDiffer(job["fingerprint"])
        if job["turn"] == "running":
            return running(job)
        if job["turn"] == "finished":
            return await self._reader.finished(job)
        await self._tidied(task, job)
        newest = [each for each in job["saved"] if each["sequence"] == job["last"]]
        saved = await self._reader.checkpoints(task, newest)
        return Started(
            fence=int(job["fence"]),
            attempt=int(job["attempt"]),
            checkpoint=saved[0] if saved else None,
            steps=await self._reader.steps(job),
            version=job["previous"],
            life=int(job["life"]),
        )

    async def renew(self, task: str, *, owner: str, lease: float) -> bool:
        """Start the runner's lease anew; false for a stale runner."""
        arguments = {"owner": owner, "lease": microseconds(lease, "lease")}
        return await self._did(task, become.RENEW, arguments)

    async def finish(self, task: str, result: Encoded, *, fence: int, ttl: float) -> bool:
        """Store the job's result, end the run and wake all waiters; false for a stale runner."""
        lives = microseconds(ttl, "ttl")
        stored = await self._parts.put(result, ROOM_FOR_A_RESULT, KEPT_TIMES * lives)
        arguments = {
            "fence": fence,
            "result": stored,
            "ttl": lives,
            "keep": KEPT_TIMES * lives,
        }
        return await self._pointed(task, become.FINISH, arguments, stored)

    async def stop(self, task: str, *, owner: str) -> bool:
        """End the run without a result, and wake all waiters."""
        return await self._did(task, become.STOP, {"owner": owner})

    async def runner(self, task: str) -> Running | Finished | None:
        """Who runs the job, or its result."""
        return await read_whole(lambda: self._runner(task))

    async def _runner(self, task: str) -> Running | Finished | None:
        job = await self._look(task, LATELY)
        if job is None:
            return None
        if job["state"] == "finished":
            return await self._reader.finished(job)
        is_running = job["state"] == "running" and job["until"] > job["at"]
        return running(job) if is_running else None

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
        lives = microseconds(self._max_ttl() if ttl is None else ttl, "ttl")
        room = min(ROOM_FOR_A_STATE, ROOM_FOR_STATES // max(keep, 1))
        stored = await self._parts.put(data, room, KEPT_TIMES * lives)
        arguments = {
            "data": stored,
            "fence": 0 if fence is None else fence,
            "sequence": -1 if sequence is None else sequence,
            "token": secrets.token_hex(8),  # by which it is known when it is sent again
            "progress": progress,
            "eta": eta,
            "label": label,
            "keep_last": keep,
            "ttl": lives,
            "lease": 0 if lease is None else microseconds(lease, "lease"),
            "keep": KEPT_TIMES * lives,
        }
        job = await self._change(
            task,
            SAVE,
            arguments,
            upsert=fence is None,
            fields=(*TIMES, "answer", "dropped", "pointed"),
        )
        await self._unless_pointed_at(stored, job)
        if job is None or job["turn"] == "refused" or job.get("answer") is None:
            return None
        await self._tidied(task, job)
        return checkpoint(task, job["answer"], b"")

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
        lives = microseconds(ttl, "ttl")
        volume: Stored = b""
        if len(value) > ROOM_FOR_A_STEP:
            volume = await self._parts.put(bound({name: value}), 0, KEPT_TIMES * lives)
        arguments = {
            "name": name,
            "value": b"" if is_beside(volume) else value,
            "weight": len(value) + len(name) + OF_A_STEP,
            "volume": volume,
            "fence": fence,
            "ttl": lives,
            "lease": 0 if lease is None else microseconds(lease, "lease"),
            "keep": KEPT_TIMES * lives,
        }
        fields = (*TIMES, "weight", "pointed")
        job = await self._change(task, STEP, arguments, fields=fields)
        await self._unless_pointed_at(volume, job)
        if job is None or not job["turn"]:
            return False
        if job["weight"] > ROOM_FOR_STEPS:
            await self._bind(task, fence, KEPT_TIMES * lives)
        await self._tidied(task, job)
        return True

    async def _bind(self, task: str, fence: int, keep: int) -> None:
        """Make a volume of the steps that are in the document."""
        job = await self._look(task, STEPS)
        if job is None or not job["steps"]:
            return
        steps = {each["name"]: each["value"] for each in job["steps"]}
        volume = await self._parts.put(bound(steps), 0, keep)
        arguments = {"fence": fence, "names": list(steps), "volume": volume, "keep": keep}
        await self._pointed(task, VOLUME, arguments, volume)

    # --- by hand

    async def cancel(self, task: str) -> bool:
        """Ask the runner to stop; false if the job has none."""
        return await self._did(task, become.CANCEL, {})

    async def rewind(self, task: str, sequence: int) -> bool:
        """Let the next start go on from this checkpoint: later ones and a result are dropped."""
        return await self._did(task, become.REWIND, {"sequence": sequence})

    async def steps(self, task: str) -> Mapping[str, Encoded]:
        """The results of the steps that were done, by name."""
        return await read_whole(lambda: self._steps(task))

    async def _steps(self, task: str) -> Mapping[str, Encoded]:
        job = await self._look(task, STEPS)
        return {} if job is None else await self._reader.steps(job)

    async def trim(self, task: str, *, keep: int) -> int:
        """Drop all but the newest `keep` checkpoints; how many were dropped."""
        fields = (*TIMES, "dropped")
        job = await self._change(task, become.TRIM, {"keep_last": keep}, fields=fields)
        if job is None:
            return 0
        await self._tidied(task, job)
        return int(job["turn"])

    async def delete(self, task: str) -> bool:
        """Forget the job; false if there was none."""
        return await self._did(task, become.DELETE, {})

    # --- what is saved

    async def latest(self, task: str) -> Checkpoint | None:
        """The newest checkpoint."""
        found = await self._saved(task, LATEST_SAVED, 0)
        return found[0] if found else None

    async def load(self, task: str, sequence: int) -> Checkpoint | None:
        """One checkpoint by its number."""
        found = await self._saved(task, ONE_SAVED, sequence)
        return found[0] if found else None

    async def list(self, task: str) -> list[Checkpoint]:
        """All kept checkpoints, the oldest first."""
        return [*await self._saved(task, ALL_SAVED, 0)]

    async def _saved(self, task: str, stages: Pipeline, sequence: int) -> Sequence[Checkpoint]:
        async def read() -> Sequence[Checkpoint]:
            job = await self._look(task, stages, {"sequence": sequence})
            return [] if job is None else await self._reader.checkpoints(task, job["saved"])

        return await read_whole(read)

    # --- inside

    async def _change(
        self,
        task: str,
        pipeline: Pipeline,
        arguments: Mapping[str, Any],
        *,
        upsert: bool = False,
        fields: Sequence[str] = (),
    ) -> Document | None:
        change = Change(
            CHECKPOINTS,
            self._keys.name(task),
            pipeline,
            arguments,
            read=_same,
            upsert=upsert,
            fields=fields,
        )
        job: Document | None = await Ask(self._transport, change)
        return job

    async def _did(self, task: str, pipeline: Pipeline, arguments: Mapping[str, Any]) -> bool:
        """Whether the operation came to pass."""
        fields = (*TIMES, "dropped")
        job = await self._change(task, pipeline, arguments, fields=fields)
        if job is None or not job["turn"]:
            return False
        await self._tidied(task, job)
        return True

    async def _pointed(
        self, task: str, pipeline: Pipeline, arguments: Mapping[str, Any], stored: Stored
    ) -> bool:
        """The same, for a value that the document points at then."""
        job = await self._change(task, pipeline, arguments, fields=(*TIMES, "dropped", "pointed"))
        await self._unless_pointed_at(stored, job)
        if job is None or not job["turn"]:
            return False
        await self._tidied(task, job)
        return True

    async def _unless_pointed_at(self, stored: Stored, job: Document | None) -> None:
        """Remove a value that was written beside the document, and that came to nothing."""
        if is_beside(stored) and not (job is not None and job["pointed"]):
            await self._parts.remove([stored])

    async def _tidied(self, task: str, job: Document) -> None:
        """Remove what the job points at no longer, and keep what it does for long enough."""
        dropped: list[Place] = job.get("dropped") or []
        await self._parts.remove(dropped)
        until, ttl = job.get("parts_until"), job["ttl"]
        if until is not None and until < job["expires"] + ttl // 2:
            look = Look(CHECKPOINTS, {"_id": self._keys.name(task)}, PLACES, read=_one)
            whole = await Ask(self._transport, look)
            await self._parts.keep((whole or {}).get("places", ()), KEPT_TIMES * ttl)
            arguments = {"keep": KEPT_TIMES * ttl}
            await self._change(task, KEPT, arguments, fields=("_id",))

    async def _look(
        self, task: str, stages: Pipeline, arguments: Mapping[str, Any] | None = None
    ) -> Document | None:
        """The job, unless it has expired."""
        look = Look(CHECKPOINTS, {"_id": self._keys.name(task)}, stages, arguments, read=_one)
        job: Document | None = await Ask(self._transport, look)
        return job if job is not None and job["expires"] > job["at"] else None


def _same(document: Document | None) -> Document | None:
    return document


def _one(found: list[Document]) -> Document | None:
    return found[0] if found else None
