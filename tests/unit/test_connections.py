"""Our records inside the user's own connection, on real SQLite and real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from resilient.connections import UserTable, ensured, recognised
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.errors import ConfigurationError
from tests.support.postgres import PostgresAt

NOTES = UserTable("resilient_notes", "name", "name text PRIMARY KEY, note text NOT NULL")
ADD = "INSERT INTO resilient_notes (name, note) VALUES (:name, :note) RETURNING name, note"
KINDS = ["sqlite3", "sqlite3-autocommit", "psycopg", "alchemy-sqlite", "alchemy-pg", "session-pg"]


@contextlib.contextmanager
def opened(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A connection of each kind to one and the same database; the end of the block closes it."""
    if kind.endswith(("pg", "psycopg")):
        server: PostgresAt = request.getfixturevalue("postgres")
        if kind == "psycopg":
            with contextlib.closing(server.connect(row_factory=dict_row)) as connection:
                yield connection
            return
        url = server.url.replace("postgresql://", "postgresql+psycopg://")
    else:
        path = tmp_path / "user.db"
        if kind.startswith("sqlite3"):
            level: Any = None if kind.endswith("autocommit") else ""
            with contextlib.closing(sqlite3.connect(path, isolation_level=level)) as connection:
                connection.row_factory = sqlite3.Row
                yield connection
            return
        url = f"sqlite:///{path}"
    engine = sqlalchemy.create_engine(url)
    with Session(engine) if kind.startswith("session") else engine.connect() as alchemy:
        yield alchemy
    engine.dispose()


async def noted(connection: Any, note: str) -> list[tuple[Any, ...]]:
    """A plan: one row in a table of ours."""
    own = recognised(connection, mode="sync", what="noted()")
    await own.begin()
    await ensured(own, NOTES)
    return await own.execute(ADD, name="k", note=note)


async def read(connection: Any) -> list[tuple[Any, ...]]:
    """A plan: what is in the table."""
    own = recognised(connection, mode="sync", what="read()")
    await own.begin()
    await ensured(own, NOTES)
    return await own.execute("SELECT note FROM resilient_notes")


@pytest.mark.parametrize("kind", KINDS)
def test_records_come_and_go_with_the_users_transaction(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Rolled back with it, committed with it; rows are tuples whatever the row factory."""
    with opened(kind, tmp_path, request) as connection:
        assert drive(noted(connection, "first")) == [("k", "first")]
        connection.rollback()
        assert drive(noted(connection, "100 % of it: done")) == [("k", "100 % of it: done")]
        connection.commit()
        assert drive(read(connection)) == [("100 % of it: done",)]
        connection.rollback()


@pytest.mark.parametrize("kind", KINDS)
def test_a_doomed_transaction_is_not_committed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Also if the user catches what was raised, and commits."""
    with opened(kind, tmp_path, request) as connection:
        drive(noted(connection, "first"))
        drive(recognised(connection, mode="sync", what="").doom())
        with contextlib.suppress(Exception):
            connection.commit()
        connection.rollback()
        assert drive(read(connection)) == []
        connection.rollback()


def test_psycopg_dooms_what_a_transaction_block_would_commit(postgres: PostgresAt) -> None:
    """Where no rollback is allowed, the block's own end becomes one."""
    with postgres.connect(autocommit=True) as connection:
        with connection.transaction():
            drive(noted(connection, "first"))
            drive(recognised(connection, mode="sync", what="").doom())
        with connection.transaction():
            assert drive(read(connection)) == []


def test_an_async_connection_runs_the_same_plans(postgres: PostgresAt) -> None:
    """psycopg's, and SQLAlchemy's connection and session on it."""

    async def on(connection: Any, note: str) -> list[tuple[Any, ...]]:
        own = recognised(connection, mode="async", what="on()")
        await own.begin()
        await ensured(own, NOTES)
        await own.execute("DELETE FROM resilient_notes")
        return await own.execute(ADD, name="k", note=note)

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(postgres.url) as connection:
            assert await adrive(on(connection, "psycopg")) == [("k", "psycopg")]
        engine = create_async_engine(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
        async with engine.connect() as alchemy:
            assert await adrive(on(alchemy, "alchemy")) == [("k", "alchemy")]
            await alchemy.commit()
        async with AsyncSession(engine) as session:
            assert await adrive(on(session, "session")) == [("k", "session")]
            await recognised(session, mode="async", what="").doom()
            with contextlib.suppress(sqlalchemy.exc.DBAPIError):
                await session.commit()
        await engine.dispose()

    asyncio.run(main())
    with postgres.connect() as connection:
        assert drive(read(connection)) == [("alchemy",)]


def test_many_make_the_table_at_once(postgres: PostgresAt, tmp_path: Path) -> None:
    """Ten first users at the same moment: one makes it, nobody fails."""

    def first(connect: Any) -> None:
        start.wait(20)
        try:
            with contextlib.closing(connect()) as connection, connection:
                own = recognised(connection, mode="sync", what="")
                drive(own.begin())
                drive(ensured(own, NOTES))
        except Exception as error:
            errors.append(error)

    errors: list[Exception] = []
    for connect in (
        postgres.connect,
        lambda: sqlite3.connect(tmp_path / "u.db", timeout=20),
    ):
        start = threading.Barrier(10)
        threads = [threading.Thread(target=first, args=(connect,)) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_what_is_no_connection_is_refused(postgres: PostgresAt) -> None:
    """The message says what is known, and where an event loop is needed."""
    with pytest.raises(ConfigurationError, match=r"lease\.bind\(\): 'nope' is not a connection of"):
        recognised("nope", mode="sync", what="lease.bind()")

    async def asynchronous() -> None:
        async with await psycopg.AsyncConnection.connect(postgres.url) as connection:
            with pytest.raises(ConfigurationError, match="needs an event loop"):
                recognised(connection, mode="sync", what="lease.bind()")

    asyncio.run(asynchronous())
    with (
        postgres.connect(autocommit=True) as connection,
        pytest.raises(ConfigurationError, match=r"with connection\.transaction\(\)"),
    ):
        drive(recognised(connection, mode="sync", what="").begin())
