"""Loops with an async `conn=`: psycopg's, and a connection or session of SQLAlchemy's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import resilient
from resilient import checkpointed
from tests.support.modes import Mode
from tests.support.postgres import PostgresAt


@pytest.fixture(name="backend", autouse=True)
def _backend() -> Iterator[resilient.Backend]:
    with resilient.using("memory://") as backend:
        yield backend


class Flaky(Exception):
    """Raised by a body once."""


class Database:
    """A database of the user's with a table of rows, and how one library writes to it."""

    def __init__(self, server: PostgresAt, kind: str) -> None:
        self._server = server
        self._kind = kind
        with server.connect() as connection:
            connection.execute("CREATE TABLE rows (n integer)")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """A connection of this library."""
        if self._kind == "psycopg":
            connection = await psycopg.AsyncConnection.connect(self._server.url)
            try:
                yield connection
            finally:
                await connection.close()
            return
        url = self._server.url.replace("postgresql://", "postgresql+psycopg://")
        engine = create_async_engine(url)
        try:
            async with AsyncSession(engine) if "session" in self._kind else engine.connect() as one:
                yield one
        finally:
            await engine.dispose()

    async def add(self, connection: Any, number: int) -> None:
        """An effect."""
        statement: Any = f"INSERT INTO rows VALUES ({number})"
        await connection.execute(
            statement if self._kind == "psycopg" else sqlalchemy.text(statement)
        )

    def rows(self) -> list[int]:
        """What was committed."""
        with self._server.connect() as connection:
            return [n for (n,) in connection.execute("SELECT n FROM rows ORDER BY n")]


@pytest.fixture(params=["psycopg", "sqlalchemy connection", "sqlalchemy session"])
def database(request: pytest.FixtureRequest, postgres: PostgresAt) -> Database:
    """Each library in turn."""
    return Database(postgres, request.param)


@pytest.mark.parametrize("way", ["iterate", "chunks", "map"])
def test_effects_and_position_are_committed_together(database: Database, way: str) -> None:
    """What was not committed when it failed is done again, and each row is there once."""
    fails = [5]
    seen: list[int] = []

    @checkpointed("k", every=2)
    async def load(job: resilient.AsyncJob[dict[str, int]]) -> Any:
        async with database.connected() as connection:

            async def one(item: int) -> int:
                seen.append(item)
                await database.add(connection, item)
                job.state["sum"] = job.state.get("sum", 0) + item
                if item in fails:
                    fails.remove(item)
                    raise Flaky
                return item * item

            if way == "map":
                return await job.map(one, range(8), conn=connection)
            if way == "iterate":
                async for item in job.iterate(range(8), conn=connection):
                    await one(item)
            else:
                async for chunk in job.chunks(range(8), 2, conn=connection):
                    for item in chunk:
                        await one(item)
            return job.state["sum"]

    with Mode("async") as mode:
        with pytest.raises(Flaky):
            mode.call(load)
        assert database.rows() == [0, 1, 2, 3]
        answer = mode.call(load)
    assert answer == ([n * n for n in range(8)] if way == "map" else sum(range(8)))
    assert database.rows() == list(range(8))
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]


def test_a_transaction_is_committed_once(database: Database) -> None:
    """An error undoes it; once committed, a later run is told so and leaves it out."""
    fails = ["inside", "after"]

    @checkpointed("k")
    async def load(job: resilient.AsyncJob) -> bool:
        async with database.connected() as connection, job.transaction(connection) as tx:
            if not tx.done:
                await database.add(connection, 1)
                if "inside" in fails:
                    fails.remove("inside")
                    raise Flaky
        if "after" in fails:
            fails.remove("after")
            raise Flaky
        return tx.done

    with Mode("async") as mode:
        for committed in ([], [1]):
            with pytest.raises(Flaky):
                mode.call(load)
            assert database.rows() == committed
        assert mode.call(load) is True
    assert database.rows() == [1]
