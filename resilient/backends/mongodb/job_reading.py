"""What a job's document says, together with what lies beside it (`parts.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import bson

from resilient.backends.mongodb.commands import Document
from resilient.backends.mongodb.parts import Parts
from resilient.protocols.checkpoints import Checkpoint, Finished, Running
from resilient.protocols.values import Encoded

__all__ = ["JobReader", "bound", "checkpoint", "running"]


class JobReader:
    """Reads jobs. Each of its plans raises `PartsGone` for a document that is out of date.

    Args:
        parts: What lies beside the documents.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def finished(self, job: Document) -> Finished:
        """The result of a job that has one."""
        [result] = await self._parts.get([job["result"]])
        return Finished(Encoded(result), (job["expires"] - job["at"]) / 1e6)

    async def steps(self, job: Document) -> dict[str, Encoded]:
        """The results of its steps by name: of each, the first one."""
        steps: dict[str, Encoded] = {}
        for volume in await self._parts.get(job["volumes"]):
            for name, value in _unbound(volume).items():
                steps.setdefault(name, value)
        for each in job["steps"]:
            steps.setdefault(each["name"], Encoded(each["value"]))
        return steps

    async def checkpoints(self, task: str, saved: Sequence[Document]) -> list[Checkpoint]:
        """These of its checkpoints, with their data."""
        data = await self._parts.get([each["data"] for each in saved])
        return [checkpoint(task, each, value) for each, value in zip(saved, data, strict=True)]


def running(job: Document) -> Running:
    """Who runs a job that is run."""
    left = (job["until"] - job["at"]) / 1e6
    return Running(job["owner"], left, int(job["attempt"]), job["cancelled"])


def checkpoint(task: str, saved: Document, data: bytes) -> Checkpoint:
    """A checkpoint of a task, as it is in the document, with its data."""
    return Checkpoint(
        id=f"{task}:{saved['sequence']}",
        task=task,
        sequence=int(saved["sequence"]),
        timestamp=saved["at"] / 1e6,
        progress=saved["progress"],
        eta=saved["eta"],
        label=saved["label"],
        data=Encoded(data),
    )


def bound(steps: Mapping[str, bytes]) -> bytes:
    """Steps as a volume: names and values."""
    return bson.encode({"steps": [[name, value] for name, value in steps.items()]})


def _unbound(volume: bytes) -> dict[str, Encoded]:
    return {name: Encoded(value) for name, value in bson.decode(volume)["steps"]}
