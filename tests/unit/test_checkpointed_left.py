"""Loops with `conn=` that the body leaves by `break`: they are over, and each row is there once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


class Flaky(Exception):
    """Raised by a body once."""


class Rows:
    """A table of the user's, written on one connection, and read on another: what is committed."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, check_same_thread=False)
        self._reader = sqlite3.connect(path, check_same_thread=False)
        self._reader.execute("CREATE TABLE rows (n integer)")

    def add(self, number: int) -> None:
        """An effect."""
        self.connection.execute("INSERT INTO rows VALUES (?)", (number,))

    def committed(self) -> list[int]:
        """What a kill would leave."""
        return [n for (n,) in self._reader.execute("SELECT n FROM rows ORDER BY rowid")]

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self._reader.close()


@pytest.fixture(name="rows")
def _rows(tmp_path: Path) -> Iterator[Rows]:
    rows = Rows(tmp_path / "user.db")
    yield rows
    rows.close()


async def left(job: Any, rows: Rows) -> None:
    """A loop that is left with its fifth item in hand, which is written already."""
    async for item in each(job.iterate(range(10), conn=rows.connection)):
        rows.add(item)
        job.state["left"] = job.state.get("left", 0) + 1
        if item == 4:
            break


LEFT = [0, 1, 2, 3, 4]


@pytest.mark.parametrize("then", ["loop", "transaction", "plain loop", "map", "step", "save"])
def test_a_loop_that_is_left_is_committed_before_anything_else(
    mode: Mode, rows: Rows, then: str
) -> None:
    """Whatever the body does next finds it committed, complete, and with the state that it left."""
    seen: list[list[int]] = []
    fails = True

    async def note(item: int = 0) -> int:
        seen.append(rows.committed())
        if fails:
            raise Flaky
        return item

    async def load(job: Any) -> int:
        await left(job, rows)
        function = mode.function(note)
        if then in ("loop", "plain loop"):
            conn = rows.connection if then == "loop" else None
            async for item in each(job.iterate([100], conn=conn)):
                if conn is not None:
                    rows.add(item)
                await note()
        elif then == "transaction":
            transaction = job.transaction(rows.connection)
            if mode.is_async:
                async with transaction:
                    await note()
            else:
                with transaction:
                    await note()
        elif then == "map":
            await mode.within(job.map, function, [1], returns=int)
        elif then == "step":
            await mode.within(job.step, "note", function, returns=int)
        else:
            await mode.within(job.save)
            await note()
        return int(job.state["left"])

    run = mode.decorate(checkpointed("k", every=100, seconds=1000), load)
    with pytest.raises(Flaky):
        mode.call(run)
    fails = False
    assert mode.call(run) == 5
    assert seen == [LEFT, LEFT]
    assert rows.committed() == (LEFT if then != "loop" else [*LEFT, 100])


def test_a_loop_that_is_left_in_an_item_is_committed_with_it(mode: Mode, rows: Rows) -> None:
    """The item around is done only when what is inside of it is committed."""
    seen: list[tuple[int, int]] = []

    async def load(job: Any) -> None:
        async for outer in each(job.iterate(range(3))):
            seen.append((outer, len(rows.committed())))
            await left(job, rows)

    mode.call(mode.decorate(checkpointed("k", every=1), load))
    assert seen == [(0, 0), (1, 5), (2, 10)]
    assert rows.committed() == LEFT * 3


def test_a_result_that_is_not_stored_redoes_nothing(
    mode: Mode, rows: Rows, backend: resilient.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The item in hand at the `break` is done, should the end of the job be lost."""

    async def finish(*args: Any, **options: Any) -> bool:
        raise resilient.BackendError("gone", transient=False)

    async def load(job: Any) -> int:
        await left(job, rows)
        return int(job.state["left"])

    run = mode.decorate(checkpointed("k", every=100, seconds=1000), load)
    with monkeypatch.context() as patch:
        patch.setattr(backend.checkpoints, "finish", finish)
        with pytest.raises(resilient.BackendError, match="gone"):
            mode.call(run)
    assert mode.call(run) == 5
    assert rows.committed() == LEFT


def test_a_loop_that_is_left_is_not_entered_again(mode: Mode, rows: Rows) -> None:
    """A second loop of its name is refused, and does not end at once."""

    async def load(job: Any) -> None:
        for _ in range(2):
            async for item in each(job.iterate(range(9), name="a", conn=rows.connection)):
                rows.add(item)
                break

    with pytest.raises(resilient.ConfigurationError, match="has left its loop 'a'"):
        mode.call(mode.decorate(checkpointed("k"), load))
    assert rows.committed() == []


def test_what_an_error_has_left_is_not_committed_by_its_handler(mode: Mode, rows: Rows) -> None:
    """Half an item is in the transaction: the connection is refused, and the job rolls back."""
    handles = True

    async def load(job: Any) -> None:
        try:
            async for item in each(job.iterate(range(3), name="a", conn=rows.connection)):
                rows.add(item)
                if handles and item == 1:
                    raise Flaky
        except Flaky:
            await mode.within(job.save)
            async for item in each(job.iterate([7], name="b", conn=rows.connection)):
                rows.add(item)

    async def called_by_a_handler(job: Any) -> None:
        await left(job, rows)
        await mode.within(job.save)
        assert rows.committed()[-5:] == LEFT

    run = mode.decorate(checkpointed("k"), load)
    with pytest.raises(resilient.ConfigurationError, match="open transaction of the loop 'a'"):
        mode.call(run)
    assert rows.committed() == []
    handles = False
    mode.call(run)
    assert rows.committed() == [0, 1, 2]
    try:
        raise Flaky
    except Flaky:  # an error around the whole job is none of its loop's
        mode.call(mode.decorate(checkpointed("other"), called_by_a_handler))


def test_two_tasks_on_one_connection_are_refused(rows: Rows) -> None:
    """The second loop would commit what the first one has in hand."""

    @checkpointed("k")
    async def load(job: resilient.AsyncJob) -> None:
        async def write(name: str) -> None:
            async for item in job.iterate(range(3), name=name, conn=rows.connection):
                rows.add(item)
                await asyncio.sleep(0)

        first, second = (asyncio.create_task(write(name)) for name in "ab")
        with pytest.raises(resilient.ConfigurationError, match="open transaction of the loop 'a'"):
            await second
        await first

    with Mode("async") as mode:
        mode.call(load)
    assert rows.committed() == [0, 1, 2]


def test_a_loop_that_is_complete_undoes_nothing(mode: Mode, rows: Rows) -> None:
    """What the body has written before it is committed by the run that does the loop, and later."""
    fails = True

    async def load(job: Any) -> None:
        rows.add(-1)
        async for item in each(job.iterate(range(2), conn=rows.connection)):
            rows.add(item)
        if fails:
            raise Flaky

    run = mode.decorate(checkpointed("k"), load)
    with pytest.raises(Flaky):
        mode.call(run)
    assert rows.committed() == [-1, 0, 1]
    fails = False
    mode.call(run)
    assert rows.committed() == [-1, 0, 1, -1]
