"""`lease.bind(connection)`: the user's own transaction, exactly fenced."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import resilient
from resilient.connections import tables
from resilient.errors import LeaseLost
from tests.support.modes import Mode
from tests.support.postgres import PostgresAt

pytestmark = pytest.mark.filterwarnings("ignore::resilient.BlockingCallInLoop")

Connect = Callable[[], Any]


@pytest.fixture(params=["sqlite", "postgresql"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    """Connects to a database of the user's that has one account."""
    if request.param == "sqlite":
        made: Connect = lambda: sqlite3.connect(tmp_path / "user.db", timeout=20)  # noqa: E731 - as short as it is
    else:
        server: PostgresAt = request.getfixturevalue("postgres")
        made = server.connect
    with contextlib.closing(made()) as connection, connection:
        connection.execute("CREATE TABLE account (balance integer)")
        connection.execute("INSERT INTO account VALUES (0)")
    return made


def write(connection: Any, balance: int) -> None:
    connection.execute(f"UPDATE account SET balance = {balance}")


def balance_at(connect: Connect) -> int:
    with contextlib.closing(connect()) as connection:
        return int(connection.execute("SELECT balance FROM account").fetchone()[0])


def replaced(mode: Mode) -> tuple[Any, Any]:
    """A lease that was taken away and does not know it, and that of its successor."""
    stale = mode.call(_taken, mode)
    resilient.lock("account").force_release(reason="a test")
    return stale, mode.call(_taken, mode)


async def _ataken() -> Any:
    lock = resilient.lock("account", ttl=60)
    return await lock.__aenter__()


def _taken(mode: Mode) -> Any:
    return _ataken() if mode.is_async else resilient.lock("account", ttl=60).__enter__()


def test_a_replaced_holder_cannot_commit(mode: Mode, connect: Connect) -> None:
    """Its bind is refused, and what it wrote before in the same transaction is gone as well."""
    with resilient.using("memory://"):
        stale, newer = replaced(mode)
        with contextlib.closing(connect()) as connection, connection:
            mode.call(newer.bind, connection)
            write(connection, 2)
        with contextlib.closing(connect()) as connection:
            write(connection, 1)
            with pytest.raises(LeaseLost, match=rf"under the fence {newer.fence}"):
                mode.call(stale.bind, connection)
            with contextlib.suppress(Exception):
                connection.commit()
        assert balance_at(connect) == 2


def test_a_holder_may_bind_many_transactions(mode: Mode, connect: Connect) -> None:
    """One after the other, and twice in one."""
    with resilient.using("memory://"):
        lease = mode.call(_taken, mode)
        for balance in (1, 2, 3):
            with contextlib.closing(connect()) as connection, connection:
                mode.call(lease.bind, connection)
                mode.call(lease.bind, connection)
                write(connection, balance)
        assert balance_at(connect) == 3


def test_a_successor_waits_for_a_bound_transaction(mode: Mode, connect: Connect) -> None:
    """A holder that was replaced inside its transaction ends it first: nobody's update is lost."""
    with resilient.using("memory://"):
        stale, newer = replaced(mode)
        order: list[str] = []

        def successor() -> None:
            with contextlib.closing(connect()) as connection, connection:
                # A mode's loop belongs to one thread.
                mode.call(newer.bind, connection) if not mode.is_async else asyncio.run(
                    newer.bind(connection)
                )
                order.append("successor")
                balance = connection.execute("SELECT balance FROM account").fetchone()[0]
                write(connection, balance + 1)

        with contextlib.closing(connect()) as connection, connection:
            mode.call(stale.bind, connection)
            thread = threading.Thread(target=successor)
            thread.start()
            time.sleep(0.2)
            write(connection, 10)
            order.append("stale")
        thread.join(20)
        assert (order, balance_at(connect)) == (["stale", "successor"], 11)


def test_a_lease_known_to_be_lost_is_refused_at_once(mode: Mode, connect: Connect) -> None:
    """Nobody else need have written."""
    with resilient.using("memory://"):
        lease = mode.call(_taken, mode)
        lease.lose("a test says so")
        with contextlib.closing(connect()) as connection:
            write(connection, 1)
            with pytest.raises(LeaseLost, match="a test says so"):
                mode.call(lease.bind, connection)
            with contextlib.suppress(Exception):
                connection.commit()
        assert balance_at(connect) == 0


def test_tenants_do_not_meet(connect: Connect) -> None:
    """The same key under another prefix is another lock."""
    for prefix in ("one:", "two:"):
        with (
            resilient.using("memory://", prefix=prefix),
            resilient.lock("k") as lease,
            contextlib.closing(connect()) as connection,
            connection,
        ):
            lease.bind(connection)
            # Were it one name, the second of them would have to be the larger.
            connection.execute(f"UPDATE resilient_fences SET fence = fence + {10**9}")
    with contextlib.closing(connect()) as connection:
        names = connection.execute("SELECT name FROM resilient_fences ORDER BY name").fetchall()
    assert names == [("lock:one:k",), ("lock:two:k",)]


def test_fences_of_long_ago_are_forgotten(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table does not grow with every key that was ever locked."""
    monkeypatch.setattr(tables, "SWEEP_SHARE", 1)
    with resilient.using("memory://"):
        for key, days in {"old": 8, "recent": 6, "now": 0}.items():
            with (
                resilient.lock(key) as lease,
                contextlib.closing(connect()) as connection,
                connection,
            ):
                lease.bind(connection)
                connection.execute(
                    f"UPDATE resilient_fences SET bound_at = bound_at - {days * 86400} "
                    f"WHERE name = 'lock:{key}'"
                )
    with contextlib.closing(connect()) as connection:
        rows = connection.execute("SELECT name FROM resilient_fences ORDER BY name").fetchall()
    assert [name for (name,) in rows] == ["lock:now", "lock:recent"]


def test_a_call_without_its_lock_binds_nothing(connect: Connect) -> None:
    """Whoever chose to run without the lock when the backend is away is not refused."""
    with contextlib.closing(connect()) as connection, connection:
        pretended = resilient.LockLease.pretended("account")
        pretended.bind(connection)
        write(connection, 5)
    assert balance_at(connect) == 5


def test_an_async_connection_is_bound(postgres: PostgresAt) -> None:
    """psycopg's `AsyncConnection`, inside its own transaction block."""

    async def main() -> list[Any]:
        with resilient.using("memory://"):
            stale, newer = await _ataken(), None
            await resilient.lock("account").aforce_release(reason="a test")
            newer = await _ataken()
            async with await psycopg.AsyncConnection.connect(
                postgres.url, autocommit=True
            ) as connection:
                await connection.execute("CREATE TABLE account (balance integer)")
                async with connection.transaction():
                    await newer.bind(connection)
                    await connection.execute("INSERT INTO account VALUES (2)")
                with pytest.raises(LeaseLost):
                    async with connection.transaction():
                        await stale.bind(connection)
                with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                    async with connection.transaction():
                        with pytest.raises(LeaseLost):
                            await stale.bind(connection)
                        await connection.execute("INSERT INTO account VALUES (1)")
                cursor = await connection.execute("SELECT balance FROM account")
                return await cursor.fetchall()

    assert asyncio.run(main()) == [(2,)]
