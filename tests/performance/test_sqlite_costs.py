"""What a step of a job in a SQLite file costs beside a raw commit that is as durable."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

import resilient
from tests.performance.ratios import Costs

pytestmark = pytest.mark.timing

STEPS = 100


def double(number: int) -> int:
    """What a step computes."""
    return 2 * number


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A file of which every statement is a commit; ours is another one, beside it."""
    connection = sqlite3.connect(tmp_path / "raw.db", isolation_level=None, check_same_thread=False)
    with closing(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, result BLOB)")
        with resilient.using(f"sqlite:///{tmp_path / 'state.db'}"):
            yield connection


def ratio(costs: Costs, limit: float) -> float:
    """How many raw commits a step costs."""
    answer = costs.settle(lambda costs: costs["step"] / costs["raw"], limit)
    print(f"a step: {answer:.2f} raw commits of {costs['raw'] / STEPS * 1e6:.0f} µs")
    return answer


INSERT = "INSERT INTO steps (result) VALUES (?)"


@pytest.mark.slow
def test_a_step_beside_a_raw_commit(raw: sqlite3.Connection) -> None:
    """A little more than two of them, of which its one statement is one and a third.

    It looks whether the job is still this runner's, and whether the step was stored before, and
    writes a row that is found by its key. The rest is Python's, and a look at the file: these take
    twice as long on a machine that shares its caches with others, where it is nearly four commits.
    """

    @resilient.checkpointed("steps:{n}")
    def steps(job: resilient.Job, n: int) -> None:
        for index in range(STEPS):
            job.step(str(index), double, index)

    def bare(_: int) -> None:
        for _ in range(STEPS):
            raw.execute(INSERT, (b"result",))

    numbers = count()
    costs = Costs({"step": lambda _: steps(next(numbers)), "raw": bare}, calls=1)
    assert ratio(costs, 2.5) <= 4.5


@pytest.mark.slow
def test_an_async_step_beside_a_raw_commit(raw: sqlite3.Connection) -> None:
    """It costs little more than a raw commit of which no event loop waits for the disk either.

    Both leave the loop for a thread, which takes three times as long as the commit. What is counted
    is the processor time of all threads.
    """

    @resilient.checkpointed("steps:{n}")
    async def steps(job: resilient.AsyncJob, n: int) -> None:
        for index in range(STEPS):
            await job.step(str(index), double, index)

    async def bare(_: int) -> None:
        for _ in range(STEPS):
            await asyncio.to_thread(raw.execute, INSERT, (b"result",))

    numbers = count()

    async def ours(_: int) -> None:
        await steps(next(numbers))

    costs = Costs({"step": ours, "raw": bare}, calls=1, now=time.process_time)
    assert ratio(costs, 1.5) <= 2
