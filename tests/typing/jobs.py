"""`@checkpointed`: callers leave the job out, and its state has the type that was said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_type

import resilient
from resilient import AsyncJob, Job, checkpointed
from resilient.policies.checkpointed.progress import Progress


@dataclass
class State:
    """What a job keeps."""

    rows: int = 0


def count(path: str, encoding: str = "utf-8") -> int:
    """A step."""
    return len(path)


async def acount(path: str) -> int:
    """An async step."""
    return len(path)


@checkpointed("import:{path}", state=State, every=100, seconds="5s")
def load(job: Job[State], path: str, *, dry: bool = False) -> dict[str, int]:
    """The job is the first parameter."""
    assert_type(job.state, State)
    assert_type(job.progress, Progress)
    assert_type(job.progress.percent, float | None)
    assert_type(job.step("count", count, path), int)
    assert_type(job.step("count", count, path, encoding="ascii"), int)
    assert_type(job.step("decode", dict[str, int], returns=dict[str, int]), dict[str, int])
    job.step("count", count, 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    job.state.columns = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    for row in job.iterate(["a", "b"], total=2):
        assert_type(row, str)
    for chunk in job.chunks(["a", "b"], 2):
        assert_type(chunk, list[str])
    for after in job.iterate(lambda key: ["a", "b"], key=len):
        assert_type(after, str)
    assert_type(job.map(count, ["a", "b"], workers=2), list[int])
    assert_type(job.map(count, ["a", "b"], on_error="collect"), list[int | Exception])
    job.map(count, [1, 2])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with job.transaction(path) as tx:
        assert_type(tx.done, bool)
    job.save("half")
    return {"rows": job.state.rows}


assert_type(load("airports.csv", dry=True), dict[str, int])
as_callers_see_it: Callable[[str], dict[str, int]] = load
load()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
load(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@checkpointed("import:{path}", state=State)
async def aload(job: AsyncJob[State], path: str) -> list[str]:
    """The same names, awaited."""
    assert_type(job.state, State)
    assert_type(await job.step("count", acount, path), int)
    async for row in job.iterate(["a", "b"]):
        assert_type(row, str)
    async for chunk in job.chunks(["a", "b"], 2):
        assert_type(chunk, list[str])
    assert_type(await job.map(acount, ["a", "b"]), list[int])
    assert_type(await job.map(acount, ["a"], on_error="collect"), list[int | Exception])
    async with job.transaction(path) as tx:
        assert_type(tx.done, bool)
    await job.save()
    job.save()  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    return [path]


async def awaits() -> None:
    """Callers leave the job out here too."""
    assert_type(await aload("airports.csv"), list[str])
    await aload()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@checkpointed("plain:{n}")
def without_state(job: Job, n: int) -> int:
    """By default the state is a dict."""
    assert_type(job.state, dict[str, Any])
    return n


assert_type(without_state(1), int)


class Importer:
    """In a method the job is the second parameter."""

    @checkpointed("import:{path}", state=State)
    def load(self, job: Job[State], path: str) -> int:
        """A method."""
        return job.state.rows

    @checkpointed("import:{path}")
    async def aload(self, job: AsyncJob[State], path: str) -> int:
        """An async method."""
        return job.state.rows

    @classmethod
    @checkpointed("import:{path}")
    def make(cls, job: Job[State], path: str) -> int:
        """A class method."""
        return job.state.rows

    @staticmethod
    @checkpointed("import:{path}")
    def parse(job: Job[State], path: str) -> int:
        """A static method."""
        return job.state.rows


assert_type(Importer().load("airports.csv"), int)
assert_type(Importer().load(path="airports.csv"), int)
assert_type(Importer.make("airports.csv"), int)
assert_type(Importer.parse("airports.csv"), int)
Importer().load()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@checkpointed("skip:{n}", on_busy="skip")
def skipping(job: Job[State], n: int) -> int:
    """`None` stands for a skipped call."""
    return n


@checkpointed("skip:{n}", state=State, on_busy="skip", skipped="busy")
async def askipping(job: AsyncJob[State], n: int) -> int:
    """Or what was said."""
    return n


def migrate(fields: dict[str, int], version: str) -> State:
    """What another version has saved."""
    return State(fields["rows"])


@checkpointed("new:{n}", state=State, version="2", migrate=migrate, on_complete="rerun")
def migrated(job: Job[State], n: int) -> int:
    """A later version."""
    return job.state.rows


assert_type(migrated(1), int)
assert_type(skipping(1), int | None)


async def awaits_methods() -> None:
    """Async ones are awaited."""
    assert_type(await Importer().aload("airports.csv"), int)
    assert_type(await askipping(1), int | str)


# --- what is wrong


@checkpointed("k")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
def without_a_job(path: str) -> int:
    """There must be a job."""
    return 0


checkpointed("k", wait="1m", on_busy="queue")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
checkpointed("k", on_complete="again")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
assert_type(resilient.current_job().attempt, int)
