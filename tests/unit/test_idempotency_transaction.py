"""`idempotency.transaction(conn)`: record and effects are committed together, or neither is."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import resilient
from resilient import idempotency
from resilient.connections import tables
from tests.support.postgres import PostgresAt

pytestmark = pytest.mark.filterwarnings("ignore::resilient.BlockingCallInLoop")


@dataclass
class Receipt:
    """A result."""

    order: str
    amount: Decimal


class Database:
    """A database of the user's, and how to write to it through one library."""

    def __init__(self, kind: str, connect: Callable[[], Any], look: Callable[[], Any]) -> None:
        self.kind = kind
        self.connect = connect
        self._look = look

    def write(self, connection: Any, amount: int) -> None:
        """An effect."""
        statement: Any = f"INSERT INTO charge VALUES ({amount})"
        alchemy = self.kind.startswith("sqlalchemy")
        connection.execute(sqlalchemy.text(statement) if alchemy else statement)

    def charges(self) -> list[int]:
        """What is committed."""
        with contextlib.closing(self._look()) as connection:
            rows = connection.execute("SELECT amount FROM charge ORDER BY amount").fetchall()
        return [row[0] for row in rows]

    def keys(self) -> list[str]:
        """Of the calls that are known."""
        with contextlib.closing(self._look()) as connection:
            return [row[0] for row in connection.execute("SELECT key FROM resilient_calls")]

    def pass_by(self, seconds: int) -> None:
        """Make what is known older."""
        with contextlib.closing(self._look()) as connection, connection:
            connection.execute(f"UPDATE resilient_calls SET expires = expires - {seconds}")

    def charge(self, amount: int, *, key: str = "A-7", **options: Any) -> Any:
        """The user's function."""
        with (
            contextlib.closing(self.connect()) as connection,
            idempotency.transaction(connection, key=key, **options) as tx,
        ):
            if tx.done:
                return tx.result
            self.write(connection, amount)
            tx.result = Receipt(key, Decimal(amount))
            return tx.result


KINDS = [
    "sqlite3",
    "psycopg",
    "sqlalchemy on sqlite",
    "sqlalchemy on postgresql",
    "sqlalchemy session on postgresql",
]


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Each library in turn."""
    kind: str = request.param
    path = tmp_path / "user.db"
    if kind == "psycopg" or kind.endswith("on postgresql"):
        server: PostgresAt = request.getfixturevalue("postgres")
        look: Callable[[], Any] = server.connect
        url = server.url.replace("postgresql://", "postgresql+psycopg://")
    else:
        look = lambda: sqlite3.connect(path, timeout=20)  # noqa: E731 - as short as it is
        url = f"sqlite:///{path}"
    with contextlib.closing(look()) as connection, connection:
        connection.execute("CREATE TABLE charge (amount integer)")
    if not kind.startswith("sqlalchemy"):
        yield Database(kind, look, look)
        return
    options = {"connect_args": {"timeout": 20}} if "sqlite" in kind else {}
    engine = sqlalchemy.create_engine(url, **options)
    yield Database(kind, partial(Session, engine) if "session" in kind else engine.connect, look)
    engine.dispose()


def test_a_call_is_made_once(database: Database) -> None:
    """Its result comes back equal and of the same type; another key is another call."""
    assert [database.charge(5) for _ in range(3)] == [Receipt("A-7", Decimal(5))] * 3
    database.charge(6, key="A-8")
    assert database.charges() == [5, 6]


def test_a_rollback_leaves_nothing(database: Database) -> None:
    """Neither the effect nor the record: the next call runs."""
    with (
        contextlib.closing(database.connect()) as connection,
        pytest.raises(ValueError, match="no"),
        idempotency.transaction(connection, key="A-7"),
    ):
        database.write(connection, 1)
        raise ValueError("no")
    assert database.charges() == []
    database.charge(5)
    assert database.charges() == [5]


def test_in_the_users_transaction(database: Database) -> None:
    """The user's commit is what counts; an exception that leaves the block undoes all of it."""
    for commits in (False, True):
        with contextlib.closing(database.connect()) as connection:
            database.write(connection, 1)
            with idempotency.transaction(connection, key="A-7") as tx:
                assert tx.replayed is False
                database.write(connection, 2)
            assert database.charges() == []
            connection.commit() if commits else connection.rollback()
    assert database.charges() == [1, 2]
    with contextlib.closing(database.connect()) as connection:
        database.write(connection, 3)
        with (
            contextlib.suppress(ValueError),
            idempotency.transaction(connection, key="A-8"),
        ):
            raise ValueError
        with contextlib.suppress(Exception):
            connection.commit()
    assert database.charges() == [1, 2]


def test_another_payload_is_refused(database: Database) -> None:
    """With the same key; the one without a payload matches all."""
    database.charge(5, fingerprint=("A-7", Decimal(5)))
    assert database.charge(5, fingerprint=("A-7", Decimal(5))) == Receipt("A-7", Decimal(5))
    with pytest.raises(resilient.FingerprintMismatch, match="A-7"):
        database.charge(6, fingerprint=("A-7", Decimal(6)))
    database.charge(6)
    assert database.charges() == [5]


def test_a_result_without_a_stored_form_is_not_made_again(database: Database) -> None:
    """It took effect: duplicates are told."""

    def call() -> None:
        with (
            contextlib.closing(database.connect()) as connection,
            idempotency.transaction(connection, key="odd") as tx,
        ):
            database.write(connection, 1)
            tx.result = object()

    call()
    for _ in range(2):
        with pytest.raises(resilient.ResultUnavailable, match="object"):
            call()
    assert database.charges() == [1]


def test_many_at_once(database: Database) -> None:
    """16 first callers, with no table yet: one runs, 15 wait for it and have its result."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: database.charge(5), range(16)))
    assert answers == [Receipt("A-7", Decimal(5))] * 16
    assert database.charges() == [5]


def test_a_duplicate_waits_for_the_uncommitted_one(database: Database) -> None:
    """Rolled back: it runs. Committed: it replays."""
    for commits in (False, True):
        with ThreadPoolExecutor(1) as pool:
            with (
                contextlib.closing(database.connect()) as connection,
                contextlib.suppress(ValueError),
                idempotency.transaction(connection, key=f"w{commits}") as tx,
            ):
                duplicate = pool.submit(database.charge, 7, key=f"w{commits}")
                time.sleep(0.2)
                assert not duplicate.done()
                tx.result = "first"
                if not commits:
                    raise ValueError
            assert duplicate.result(20) == ("first" if commits else Receipt("wFalse", Decimal(7)))
    assert database.charges() == [7]


def test_results_expire(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After their TTL the call is made again; and some later call drops the record."""
    database.charge(5, ttl=60)
    database.pass_by(30)
    assert database.charge(6, ttl=60) == Receipt("A-7", Decimal(5))
    database.pass_by(60)
    assert database.charge(6, ttl=60) == Receipt("A-7", Decimal(6))
    assert database.charges() == [5, 6]
    database.pass_by(61)
    monkeypatch.setattr(tables, "SWEEP_SHARE", 1)
    database.charge(7, key="A-8")
    assert database.keys() == ["A-8"]


def test_async_connections(postgres: PostgresAt) -> None:
    """psycopg's and SQLAlchemy's, in one loop: 8 duplicates at once, one effect."""
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE charge (amount integer)")

    async def by_psycopg(number: int) -> Any:
        connection = await psycopg.AsyncConnection.connect(postgres.url)
        async with connection, idempotency.transaction(connection, key="p") as tx:
            if tx.done:
                return tx.result
            await connection.execute("INSERT INTO charge VALUES (1)")
            tx.result = ("p", number)
            return tx.result

    async def main() -> None:
        answers = await asyncio.gather(*map(by_psycopg, range(8)))
        assert len(set(answers)) == 1
        engine = create_async_engine(postgres.url.replace("postgresql://", "postgresql+psycopg://"))

        async def by_sqlalchemy(number: int) -> Any:
            session = AsyncSession(engine) if number % 2 else engine.connect()
            async with session as connection, idempotency.transaction(connection, key="s") as tx:
                if tx.done:
                    return tx.result
                await connection.execute(sqlalchemy.text("INSERT INTO charge VALUES (2)"))
                tx.result = ("s", number)
                return tx.result

        assert len(set(await asyncio.gather(*map(by_sqlalchemy, range(4))))) == 1
        assert len(await by_sqlalchemy(1)) == 2  # replayed over a session, whoever has made it
        with pytest.raises(ValueError, match="no"):
            async with engine.connect() as connection, idempotency.transaction(connection, key="x"):
                await connection.execute(sqlalchemy.text("INSERT INTO charge VALUES (3)"))
                raise ValueError("no")
        await engine.dispose()

    asyncio.run(main())
    with postgres.connect() as connection:
        rows = connection.execute("SELECT amount FROM charge ORDER BY amount").fetchall()
    assert rows == [(1,), (2,)]


def test_what_is_wrong_is_said(postgres: PostgresAt) -> None:
    """Of the key, the payload, and the connection."""
    connection: Any = sqlite3.connect(":memory:")
    with contextlib.closing(connection):
        with pytest.raises(resilient.KeyMissing):
            idempotency.transaction(connection, key="")
        with pytest.raises(resilient.ConfigurationError, match="key"):
            idempotency.transaction(connection, key=7)  # type: ignore[arg-type]  # what is refused
        with pytest.raises(resilient.ConfigurationError, match="fingerprint"):
            idempotency.transaction(connection, key="k", fingerprint=object())
        with pytest.raises(resilient.ConfigurationError, match="ttl"):
            idempotency.transaction(connection, key="k", ttl=-1)
        with (
            pytest.raises(resilient.ConfigurationError, match="very transaction"),
            idempotency.transaction(connection, key="k"),
            idempotency.transaction(connection, key="k"),
        ):
            pass
    with (
        pytest.raises(resilient.ConfigurationError, match="not a connection"),
        idempotency.transaction(object(), key="k"),
    ):
        pass
    with (
        postgres.connect(autocommit=True) as commits,
        pytest.raises(resilient.ConfigurationError, match="autocommit"),
        idempotency.transaction(commits, key="k"),
    ):
        pass


def test_the_doc_example_runs() -> None:
    """The docstring's example is true."""
    import doctest

    from resilient.connections import idempotency as module

    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(module.transaction, "transaction"):
        runner.run(example)
    results = runner.summarize(verbose=False)
    assert (results.failed, results.attempted > 3) == (0, True)
