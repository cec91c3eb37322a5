"""What the processes of the job tests do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

import resilient
import resilient.backends.mongodb
import resilient.backends.postgres
import resilient.backends.redis
import resilient.backends.sqlite
import resilient.engine.codecs
import resilient.engine.side_by_side  # each killed process would import these anew
from resilient import AsyncJob, Job, checkpointed
from tests.support.processes import receive, tell

EVERY = 25
PAUSE = 0.001
"""Seconds an item takes, so that a kill meets a job at work and not one that starts."""


@dataclass
class State:
    """What the items have made; the digest depends on their order."""

    count: int = 0
    digest: int = 0

    def add(self, item: int) -> None:
        """Take an item in."""
        self.count += 1
        self.digest = (self.digest * 1_000_003 + item) % (1 << 61)


def uninterrupted(items: int) -> list[int]:
    """What the job answers, computed without one."""
    state = State()
    for item in range(items):
        state.add(item)
    return [state.count, state.digest]


def handled(path: str, state: State, item: int) -> None:
    """Take the item in, and leave a trace of it outside."""
    state.add(item)
    traced(path, item)


def traced(path: str, item: int) -> None:
    """Leave a trace of an item."""
    with open(path, "a") as effects:
        effects.write(f"{item}\n")


@checkpointed("batch:{path}", state=State, every=EVERY, version="1")
def batch(job: Job[State], path: str, items: int) -> list[int]:
    """The job as a `def`."""
    total = job.step("total", lambda: items, returns=int)
    for item in job.iterate(range(total)):
        time.sleep(PAUSE)
        handled(path, job.state, item)
    return [job.state.count, job.state.digest]


@checkpointed("batch:{path}", state=State, every=EVERY, version="1")
async def abatch(job: AsyncJob[State], path: str, items: int) -> list[int]:
    """The same job as an `async def`: either goes on from what the other saved."""
    total = await job.step("total", lambda: items, returns=int)
    async for item in job.iterate(range(total)):
        await asyncio.sleep(PAUSE)
        handled(path, job.state, item)
    return [job.state.count, job.state.digest]


def run_batch(url: str, prefix: str, path: str, items: int) -> list[int]:
    """Run the job, each time in the other mode, and mark where the items of this run begin."""
    resilient.configure(url, prefix=prefix)
    with open(path, "a+") as effects:
        effects.seek(0)
        runs = effects.read().count("run")
        effects.write("run\n")
    warnings.simplefilter("ignore", resilient.JobCodeChanged)  # the two are written differently
    return batch(path, items) if runs % 2 else asyncio.run(abatch(path, items))


@checkpointed("map:{path}")
def mapped(job: Job, path: str, items: int) -> list[int]:
    """Squares, in threads; each call leaves a trace when it has ended."""

    def square(number: int) -> int:
        time.sleep(PAUSE * 5)
        traced(path, number)
        return number * number

    return job.map(square, range(items), workers=8)


@checkpointed("map:{path}")
async def amapped(job: AsyncJob, path: str, items: int) -> list[int]:
    """The same, in tasks."""

    async def square(number: int) -> int:
        await asyncio.sleep(PAUSE * 5)
        traced(path, number)
        return number * number

    return await job.map(square, range(items), workers=8)


def run_map(url: str, prefix: str, path: str, items: int) -> list[int]:
    """Run the map, each time in the other mode."""
    resilient.configure(url, prefix=prefix)
    with open(path, "a+") as effects:
        effects.seek(0)
        runs = effects.read().count("run")
        effects.write("run\n")
    warnings.simplefilter("ignore", resilient.JobCodeChanged)
    return mapped(path, items) if runs % 2 else asyncio.run(amapped(path, items))


def connected(url: str) -> Any:
    """A connection of the user's."""
    if url.startswith("postgresql"):
        return psycopg.connect(url)
    return sqlite3.connect(url, timeout=20)


@checkpointed("rows:{url}", state=State, every=EVERY)
def rows(job: Job[State], url: str, path: str, items: int) -> int:
    """Rows that are written in the transactions of their own database."""
    with closing(connected(url)) as connection:
        for item in job.iterate(range(items), conn=connection):
            time.sleep(PAUSE)
            connection.execute(f"INSERT INTO rows VALUES ({item})")
            job.state.count += 1
            traced(path, item)
    return job.state.count


@checkpointed("rows:{url}", state=State, every=EVERY)
async def arows(job: AsyncJob[State], url: str, path: str, items: int) -> int:
    """The same."""
    with closing(connected(url)) as connection:
        async for item in job.iterate(range(items), conn=connection):
            await asyncio.sleep(PAUSE)
            connection.execute(f"INSERT INTO rows VALUES ({item})")
            job.state.count += 1
            traced(path, item)
    return job.state.count


def run_rows(url: str, prefix: str, database: str, path: str, items: int) -> list[Any]:
    """Run it, each time in the other mode; what it answers, and what is in the database."""
    resilient.configure(url, prefix=prefix)
    with open(path, "a+") as runs:
        runs.seek(0)
        number = runs.read().count("run")
        runs.write("run\n")
    with closing(connected(database)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS rows (n integer)")
        connection.commit()
    warnings.simplefilter("ignore")
    count = rows(database, path, items) if number % 2 else asyncio.run(arows(database, path, items))
    with closing(connected(database)) as connection:
        found = connection.execute("SELECT n FROM rows ORDER BY n").fetchall()
    return [count, [row[0] for row in found]]


@checkpointed("held", every=1, lease=1.5, wait=0)
def held(job: Job[dict[str, int]]) -> str:
    """A job that waits to be told to go on, in its third item, and whom no refusal stops."""
    try:
        for item in job.iterate(range(6)):
            if item == 3:
                tell("holding", [os.getpid(), job.fence])
                receive()
                with told("save"):
                    job.save("late")
                with told("step"):
                    job.step("late", int)
            job.state["last"] = item
    except resilient.StaleRunner:
        tell("refused", "item")
    return f"by {os.getpid()}"


@checkpointed("held", every=1, lease=1.5, wait=0)
async def aheld(job: AsyncJob[dict[str, int]]) -> str:
    """The same; it does not block its loop, and is not stopped by being cancelled either."""
    try:
        async for item in job.iterate(range(6)):
            if item == 3:
                tell("holding", [os.getpid(), job.fence])
                told_to_go_on = asyncio.ensure_future(asyncio.to_thread(receive))
                try:
                    await asyncio.shield(told_to_go_on)
                except asyncio.CancelledError:
                    await told_to_go_on
                with told("save"):
                    await job.save("late")
                with told("step"):
                    await job.step("late", int)
            job.state["last"] = item
    except REFUSALS:
        tell("refused", "item")
    return f"by {os.getpid()}"


REFUSALS = (resilient.StaleRunner, asyncio.CancelledError)
"""A body is cancelled, once, by the loss of its lease: whatever it is at then."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Tell that it was refused, and go on."""
    try:
        yield
    except REFUSALS:
        tell("refused", what)


@checkpointed("forked", every=1)
def forked(job: Job[dict[str, int]]) -> str:
    """A job whose process forks in its second item; the child runs on in a copy of the body."""
    for item in job.iterate(range(4)):
        job.state["last"] = item
        if item == 1:
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                status = checkpointed.of(forked).at().status()
                assert (status.phase, status.attempt) == ("running", 1)
    return f"by {os.getpid()}"


def fork_inside(url: str, prefix: str) -> list[str]:
    """Run it; the child ends without a word when it has found itself stale."""
    resilient.configure(url, prefix=prefix)
    parent = os.getpid()
    try:
        return [forked(), f"by {parent}"]
    except resilient.StaleRunner:
        if os.getpid() == parent:
            raise
        os._exit(0)


def hold(url: str, prefix: str, mode: str, wait: float) -> list[str]:
    """Run the job once it is free; what came of it."""
    resilient.configure(url, prefix=prefix)
    deadline = time.monotonic() + wait
    while True:
        try:
            return ["done", held() if mode == "sync" else asyncio.run(aheld())]
        except resilient.StaleRunner as error:
            return ["stale", str(error)]
        except resilient.JobRunning as error:
            if time.monotonic() > deadline:
                return ["running", str(error)]
            time.sleep(0.02)
