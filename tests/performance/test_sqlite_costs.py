"""What a step of a job in a SQLite file costs beside a raw commit that is as durable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

import resilient
from tests.performance.ratios import Costs

STEPS = 100


@pytest.mark.slow
def test_a_step_beside_a_raw_commit(tmp_path: Path) -> None:
    """A little more than two of them, of which its one statement is one and a third.

    It looks whether the job is still this runner's, and whether the step was stored before, and
    writes a row that is found by its key. The rest is Python's, and a look at the file.
    """

    def double(number: int) -> int:
        return 2 * number

    @resilient.checkpointed("steps:{n}")
    def steps(job: resilient.Job, n: int) -> None:
        for index in range(STEPS):
            job.step(str(index), double, index)

    with closing(sqlite3.connect(tmp_path / "raw.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = NORMAL")
        raw.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, result BLOB)")

        def bare(_: int) -> None:
            for _ in range(STEPS):
                raw.execute("INSERT INTO steps (result) VALUES (?)", (b"result",))

        numbers = count()
        with resilient.using(f"sqlite:///{tmp_path / 'state.db'}"):
            costs = Costs({"step": lambda _: steps(next(numbers)), "raw": bare}, calls=1)
            ratio = costs.settle(lambda costs: costs["step"] / costs["raw"], 2.5)
    print(f"a step: {ratio:.2f} raw commits of {costs['raw'] / STEPS * 1e6:.0f} µs")
    assert ratio <= 3
