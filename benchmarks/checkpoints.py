"""What a step of a job costs: `@checkpointed`, a bare write, and DBOS."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import resilient
from benchmarks.harness import Group, Mode, NotHere, Place
from benchmarks.retries import MODES

STEPS = 100
KINDS = ("redis", "sqlite", "memory")


def groups() -> list[Group]:
    """Steps and items, sync and async."""
    kinds = (_steps, _steps_in_a_file, _steps_on_the_disk, _items)
    return [made(mode) for made in kinds for mode in MODES]


def _steps(mode: Mode) -> Group:
    group = Group(f"checkpoint: a step, of a job with {STEPS}", mode)

    @group.case("redis-py: HSET", per=STEPS)
    def _(place: Place) -> Any:
        client = place.client

        def call(n: int) -> None:
            for index in range(STEPS):
                client.hset("raw-job", str(index), "result")

        async def acall(n: int) -> None:
            for index in range(STEPS):
                await client.hset("raw-job-async", str(index), "result")

        return call if mode == "sync" else acall

    for kind in ("redis", "memory"):
        group.case(f"resilient, {kind}", per=STEPS)(_job_of_steps(kind))
    return group


def _steps_in_a_file(mode: Mode) -> Group:
    """Beside a raw commit that survives as much: any process's death."""
    group = Group(f"checkpoint: a step in a SQLite file, of a job with {STEPS}", mode)
    _raw_commits(group, mode, "NORMAL")
    group.case("resilient, sqlite", per=STEPS)(_job_of_steps("sqlite"))
    group.case("DBOS, sqlite", per=STEPS)(_dbos)
    return group


def _steps_on_the_disk(mode: Mode) -> Group:
    """Beside a raw commit that survives as much: a loss of power too."""
    group = Group(f"checkpoint: a step synced to a SQLite file, of a job with {STEPS}", mode)
    _raw_commits(group, mode, "FULL")
    group.case("resilient, sqlite, synchronous=full", per=STEPS)(_job_of_steps("sqlite-full"))
    return group


def _items(mode: Mode) -> Group:
    group = Group(f"checkpoint: an item, saved every 100, of a job with {10 * STEPS}", mode)

    @group.case("redis-py: HSET every 100 items", per=10 * STEPS)
    def _(place: Place) -> Any:
        client = place.client

        def call(n: int) -> None:
            for index in range(10 * STEPS):
                if index % 100 == 99:
                    client.hset("raw-position", "done", index)

        async def acall(n: int) -> None:
            for index in range(10 * STEPS):
                if index % 100 == 99:
                    await client.hset("raw-position-async", "done", index)

        return call if mode == "sync" else acall

    for kind in KINDS:
        group.case(f"resilient, {kind}", per=10 * STEPS)(_job_of_items(kind))
    return group


def one_job(kind: str) -> Any:
    """Each call is a job of its own that does nothing."""

    def make(place: Place) -> Any:
        job = _empty(place, kind)
        return lambda n: job(place.fresh())

    return make


def finished_job(kind: str) -> Any:
    """Each call is the same job, which is finished."""
    return lambda place: _empty(place, kind)


def _empty(place: Place, kind: str) -> Any:
    decorate = resilient.checkpointed("job:{n}", backend=place.backend(kind))
    if place.mode == "sync":

        @decorate
        def job(job: resilient.Job, n: int) -> int:
            return n

        return job

    @decorate
    async def ajob(job: resilient.AsyncJob, n: int) -> int:
        return n

    return ajob


def _job_of_steps(kind: str) -> Any:
    return lambda place: job_of_steps(place, place.backend(kind))


def job_of_steps(place: Place, backend: resilient.Backend) -> Any:
    """A job of `STEPS` steps, a new one with each call."""
    decorate = resilient.checkpointed("job:{n}", backend=backend)
    if place.mode == "sync":

        @decorate
        def steps(job: resilient.Job, n: int) -> None:
            for index in range(STEPS):
                job.step(str(index), _double, index)

        return lambda n: steps(place.fresh())

    @decorate
    async def asteps(job: resilient.AsyncJob, n: int) -> None:
        for index in range(STEPS):
            await job.step(str(index), _double, index)

    return lambda n: asteps(place.fresh())


def _job_of_items(kind: str) -> Any:
    def make(place: Place) -> Any:
        decorate = resilient.checkpointed("job:{n}", every=100, backend=place.backend(kind))
        if place.mode == "sync":

            @decorate
            def items(job: resilient.Job, n: int) -> None:
                for _ in job.iterate(range(10 * STEPS)):
                    pass

            return lambda n: items(place.fresh())

        @decorate
        async def aitems(job: resilient.AsyncJob, n: int) -> None:
            async for _ in job.iterate(range(10 * STEPS)):
                pass

        return lambda n: aitems(place.fresh())

    return make


def _double(n: int) -> int:
    return 2 * n


def _raw_commits(group: Group, mode: Mode, synchronous: str) -> None:
    """Commits in the calling thread; in async code those that block no loop as well, as ours."""
    if mode == "async":
        name = f"sqlite3: the same in a thread, {synchronous}"
        group.case(name, per=STEPS)(_inserts(synchronous, aside=True))
    name = f"sqlite3: INSERT and commit, {synchronous}"
    group.case(name, per=STEPS)(_inserts(synchronous, aside=False))


def _inserts(synchronous: str, *, aside: bool) -> Any:
    def make(place: Place) -> Any:
        path = place.directory / f"raw-{aside}.db"
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, result BLOB)")
        place.exits.callback(connection.close)

        insert = partial(connection.execute, "INSERT INTO steps (result) VALUES (?)", (b"result",))

        def call(n: int) -> None:
            for _ in range(STEPS):
                insert()

        async def acall(n: int) -> None:
            for _ in range(STEPS):
                await asyncio.to_thread(insert) if aside else insert()

        return call if place.mode == "sync" else acall

    return make


def _dbos(place: Place) -> Any:
    from dbos import DBOS

    if place.mode == "async":
        raise NotHere("left out: one DBOS a process, and sync has it")
    database: Path = place.directory / "dbos.sqlite"
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{database}"})

    @DBOS.step()
    def double(n: int) -> int:
        return 2 * n

    @DBOS.workflow()
    def workflow(n: int) -> None:
        for index in range(STEPS):
            double(index)

    DBOS.launch()
    place.exits.callback(DBOS.destroy)
    return workflow
