"""Loops with `conn=`: position, state and effects are committed together, and nothing is redone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import orm

import resilient
from resilient import checkpointed
from tests.support.jobs import each
from tests.support.modes import Mode
from tests.support.postgres import PostgresAt

pytestmark = pytest.mark.usefixtures("backend")


CREATE = "CREATE TABLE rows (n integer)"


class Flaky(Exception):
    """Raised by a body once."""


class Database:
    """A database of the user's, and how a row is written and all are read."""

    def __init__(self, connect: Callable[[], Any], wrap: Callable[[str], Any] = str) -> None:
        self.connect = connect
        self._wrap = wrap
        connection = connect()
        connection.execute(wrap(CREATE))
        connection.commit()
        connection.close()

    def add(self, connection: Any, number: int) -> None:
        """An effect."""
        self.run(connection, f"INSERT INTO rows VALUES ({number})")

    def run(self, connection: Any, statement: str) -> None:
        """Run a statement."""
        connection.execute(self._wrap(statement))

    def rows(self) -> list[int]:
        """What was committed."""
        connection = self.connect()
        try:
            found = connection.execute(self._wrap("SELECT n FROM rows ORDER BY n")).fetchall()
        finally:
            connection.close()
        return [row[0] for row in found]


@pytest.fixture(
    params=["sqlite", "sqlite autocommit", "postgresql", "sqlalchemy", "sqlalchemy session"]
)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """One of each kind."""
    path = tmp_path / "user.db"
    if request.param == "sqlite":
        return Database(lambda: sqlite3.connect(path))
    if request.param == "sqlite autocommit":
        return Database(lambda: sqlite3.connect(path, isolation_level=None))
    server: PostgresAt = request.getfixturevalue("postgres")
    if request.param == "postgresql":
        return Database(lambda: psycopg.connect(server.url))
    url = server.url.replace("postgresql://", "postgresql+psycopg://")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    if request.param == "sqlalchemy session":
        return Database(lambda: orm.Session(engine), sqlalchemy.text)
    return Database(engine.connect, sqlalchemy.text)


class Importing:
    """A job that writes rows with a connection of its own, and fails where each test wants."""

    def __init__(self, mode: Mode, database: Database, kind: str = "iterate") -> None:
        self.mode = mode
        self.database = database
        self.kind = kind
        self.fails_at: list[int] = []
        self.seen: list[int] = []
        self.run = mode.decorate(checkpointed("k", every=3), self._body)

    async def _body(self, job: Any) -> Any:
        connection = self.database.connect()
        try:
            if self.kind == "iterate":
                async for item in each(job.iterate(range(10), conn=connection)):
                    self._one(job, connection, item)
            elif self.kind == "chunks":
                async for chunk in each(job.chunks(range(10), 3, conn=connection)):
                    for item in chunk:
                        self._one(job, connection, item)
            else:

                async def one(item: int) -> int:
                    self._one(job, connection, item)
                    return item * item

                function = self.mode.function(one)
                return await self.mode.within(
                    job.map, function, range(10), conn=connection, returns=int
                )
            return job.state["sum"]
        finally:
            connection.close()

    def _one(self, job: Any, connection: Any, item: int) -> None:
        self.seen.append(item)
        self.database.add(connection, item)
        job.state["sum"] = job.state.get("sum", 0) + item
        if item in self.fails_at:
            self.fails_at.remove(item)
            raise Flaky


@pytest.mark.parametrize("kind", ["iterate", "chunks", "map"])
def test_what_is_not_committed_is_undone_and_done_once(
    mode: Mode, database: Database, kind: str
) -> None:
    """An error rolls back to the last commit; the resumed job goes on there, with its state."""
    job = Importing(mode, database, kind)
    job.fails_at = [4, 7]
    for committed in ([0, 1, 2], [0, 1, 2, 3, 4, 5]):
        with pytest.raises(Flaky):
            mode.call(job.run)
        assert database.rows() == committed
        status = mode.call(checkpointed.of(job.run).at().status)
        assert status.checkpoint.done == len(committed)
        assert status.checkpoint.state == {"sum": sum(committed)}
    assert mode.call(job.run) == ([n * n for n in range(10)] if kind == "map" else 45)
    assert database.rows() == list(range(10))
    assert job.seen == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 6, 7, 8, 9]


def test_the_database_knows_better_than_the_store(mode: Mode, database: Database) -> None:
    """Of a store that lost all since a commit, position and state are not believed."""
    job = Importing(mode, database)
    job.fails_at = [9]
    with pytest.raises(Flaky):
        mode.call(job.run)
    assert database.rows() == list(range(9))
    runs = checkpointed.of(job.run).at()
    first = mode.call(runs.history)[0]
    assert first.done == 3
    job.seen.clear()
    assert mode.call(runs.resume, from_checkpoint=first.sequence) == 45
    assert job.seen == [9]
    assert database.rows() == list(range(10))


def test_a_job_that_begins_anew_begins_there_anew(mode: Mode, database: Database) -> None:
    """What an earlier job of the name has left in the database is not taken for its own."""
    job = Importing(mode, database)
    assert mode.call(job.run) == 45
    mode.call(checkpointed.of(job.run).at().forget)
    assert mode.call(job.run) == 45
    assert database.rows() == sorted([*range(10), *range(10)])


def test_a_replaced_runner_commits_nothing(mode: Mode, database: Database) -> None:
    """Its next commit is refused by the database, whatever it believes itself."""

    def items() -> Iterator[int]:
        for item in range(10):
            if item == 3:  # the first three are committed
                connection = database.connect()
                database.run(connection, "UPDATE resilient_cursors SET fence = fence + 1")
                connection.commit()
                connection.close()
            yield item

    async def load(job: Any) -> None:
        connection = database.connect()
        try:
            async for item in each(job.iterate(items(), conn=connection)):
                database.run(connection, f"INSERT INTO rows VALUES ({item})")
        finally:
            connection.close()

    with pytest.raises(resilient.StaleRunner, match="written to the database"):
        mode.call(mode.decorate(checkpointed("k", every=3), load))
    assert database.rows() == [0, 1, 2]


def test_a_loop_that_is_left_is_committed_when_the_job_ends(tmp_path: Path) -> None:
    """`break` leaves a transaction open: the end of the job commits it, or fails."""
    path = tmp_path / "user.db"
    database = Database(lambda: sqlite3.connect(path))

    @checkpointed("k", every=100)
    def load(job: resilient.Job, closes: bool) -> int:
        connection = database.connect()
        for item in job.iterate(range(10), conn=connection):
            database.add(connection, item)
            if item == 4:
                break
        if closes:
            connection.close()
        return 1

    with pytest.raises(sqlite3.ProgrammingError):
        load(True)
    assert database.rows() == []
    checkpointed.of(load).at(True).forget()
    assert load(False) == 1
    assert database.rows() == [0, 1, 2, 3, 4]


def test_a_loop_inside_is_undone_with_the_item_around(mode: Mode, database: Database) -> None:
    """Its position is not saved by itself, and neither is a state in the middle of an item."""
    seen: list[tuple[int, int]] = []
    fails = True

    async def load(job: Any) -> int:
        nonlocal fails
        connection = database.connect()
        try:
            async for outer in each(job.iterate(range(3), conn=connection)):
                async for inner in each(job.iterate(range(4))):
                    seen.append((outer, inner))
                    database.add(connection, 10 * outer + inner)
                    job.state["n"] = job.state.get("n", 0) + 1
                    if fails and (outer, inner) == (1, 2):
                        fails = False
                        raise Flaky
        finally:
            connection.close()
        count: int = job.state["n"]
        return count

    run = mode.decorate(checkpointed("k", every=1), load)
    with pytest.raises(Flaky):
        mode.call(run)
    assert database.rows() == [0, 1, 2, 3]
    assert mode.call(run) == 12
    assert database.rows() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert seen.count((1, 0)) == 2


def test_a_transaction_is_committed_once(mode: Mode, database: Database) -> None:
    """An error undoes it; once committed, `done` says so, with the state that it left."""
    fails = ["inside", "after"]

    async def load(job: Any) -> tuple[bool, int]:
        connection = database.connect()
        try:
            manager = job.transaction(connection)
            with mode_entered(mode, manager) as enter:
                tx = await enter()
                done = tx.done
                if not done:
                    database.add(connection, 1)
                    job.state["n"] = job.state.get("n", 0) + 1
                    if "inside" in fails:
                        fails.remove("inside")
                        error = Flaky()
                        await leave(mode, manager, error)
                        raise error
                await leave(mode, manager, None)
        finally:
            connection.close()
        if "after" in fails:
            fails.remove("after")
            raise Flaky
        return done, job.state["n"]

    run = mode.decorate(checkpointed("k"), load)
    for committed in ([], [1]):
        with pytest.raises(Flaky):
            mode.call(run)
        assert database.rows() == committed
    assert mode.call(run) == (True, 1)
    assert database.rows() == [1]


class mode_entered:  # noqa: N801 - it reads as a word of the `with` statement
    """Gives what enters a manager of either kind."""

    def __init__(self, mode: Mode, manager: Any) -> None:
        self._mode = mode
        self._manager = manager

    def __enter__(self) -> Callable[[], Any]:
        return self._enter

    def __exit__(self, *error: object) -> None:
        pass

    async def _enter(self) -> Any:
        if self._mode.is_async:
            return await self._manager.__aenter__()
        return self._manager.__enter__()


async def leave(mode: Mode, manager: Any, error: BaseException | None) -> None:
    """Leave it."""
    if mode.is_async:
        await manager.__aexit__(type(error), error, None)
    else:
        manager.__exit__(type(error), error, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda job, c: job.iterate([1], conn="no connection"), "not a connection of sqlite3"),
        (lambda job, c: job.map(str, [1], conn=c, workers=4), "workers=4"),
        (lambda job, c: job.map(str, [1], conn=c, retries=1), "retries=1"),
        (lambda job, c: job.map(str, [1], conn=c, on_error="collect"), "on_error='collect'"),
    ],
)
def test_wrong_options(mode: Mode, call: Any, message: str) -> None:
    """Each is named, with its value."""
    connection = sqlite3.connect(":memory:")

    async def load(job: Any) -> None:
        await mode.within(call, job, connection)

    with pytest.raises(resilient.ConfigurationError, match=message):
        mode.call(mode.decorate(checkpointed("k"), load))
    connection.close()


def test_one_inside_another_is_refused(mode: Mode, tmp_path: Path) -> None:
    """The inner one would commit half an item of the outer one."""
    connection = sqlite3.connect(tmp_path / "user.db", check_same_thread=False)

    async def load(job: Any) -> None:
        async for _ in each(job.iterate([1], conn=connection)):
            job.iterate([1], conn=connection)

    with pytest.raises(resilient.ConfigurationError, match="committed half-way"):
        mode.call(mode.decorate(checkpointed("k"), load))
    connection.close()
