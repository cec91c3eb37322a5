"""The connections that are recognised: sqlite3, psycopg 3 (sync and async), and SQLAlchemy on them.

One text of SQL serves all of them. Parameters are written `:name`; a `%` or a colon of another
meaning does not occur in it (write `CAST(x AS bigint)`, not `x::bigint`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol

from resilient.errors import ConfigurationError

if TYPE_CHECKING:
    import sqlite3

    import psycopg

    from resilient.engine.backend import Mode

__all__ = ["Dialect", "UserConnection", "recognised"]

Dialect = Literal["sqlite", "postgresql"]
Rows = list[tuple[Any, ...]]

PARAMETER = re.compile(r":(\w+)")
KNOWN = "sqlite3, psycopg 3 (sync or async), or a SQLAlchemy connection or session on one of them"
REFUSED = "DO $$BEGIN RAISE EXCEPTION 'resilient: refused, its holder was replaced'; END$$"


class UserConnection(Protocol):
    """A connection of the user's, in the user's transaction."""

    dialect: Dialect
    is_async: bool
    """Whether it needs a running event loop."""

    async def is_open(self) -> bool:
        """Whether a transaction is open."""
        ...

    async def begin(self) -> None:
        """Make sure that a transaction is open, which the user will commit.

        Raises:
            ConfigurationError: The connection commits each statement by itself.
        """
        ...

    async def execute(self, statement: str, /, **parameters: Any) -> Rows:
        """Run one statement in the transaction; its rows as tuples, whatever the row factory."""
        ...

    async def doom(self) -> None:
        """See to it that nothing of the open transaction can be committed."""
        ...

    async def commit(self) -> None:
        """Commit the open transaction."""
        ...

    async def rollback(self) -> None:
        """Undo the open transaction, if there is one."""
        ...


def recognised(connection: Any, *, mode: Mode, what: str) -> UserConnection:
    """The connection as one that our plans can use.

    Args:
        connection: The user's own.
        mode: Of whoever uses it. A blocking connection serves an async caller too: its statements
            are short, and it belongs to this thread.
        what: What it was given to, for the message.

    Raises:
        ConfigurationError: It is none that is known, or an async one in a sync call.
    """
    made = _on_sqlalchemy(connection) or _on_driver(connection)
    if made is None:
        raise ConfigurationError(f"{what}: {connection!r} is not a connection of {KNOWN}")
    if made.is_async and mode == "sync":
        raise ConfigurationError(
            f"{what}: {connection!r} needs an event loop: use it in an `async def`"
        )
    return made


def _on_driver(connection: Any) -> SqliteConnection | PsycopgConnection | None:
    # Whoever has such a connection has imported its module.
    sqlite3 = sys.modules.get("sqlite3")
    if sqlite3 is not None and isinstance(connection, sqlite3.Connection):
        return SqliteConnection(connection)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(connection, psycopg.Connection):
        return PsycopgConnection(connection, is_async=False)
    if psycopg is not None and isinstance(connection, psycopg.AsyncConnection):
        return PsycopgConnection(connection, is_async=True)
    return None


def _on_sqlalchemy(connection: Any) -> AlchemyConnection | None:
    orm = sys.modules.get("sqlalchemy.orm")
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")
    engine = sys.modules.get("sqlalchemy.engine")
    if engine is not None and isinstance(connection, engine.Connection):
        return AlchemyConnection(connection, is_async=False)
    if orm is not None and isinstance(connection, orm.Session | orm.scoped_session):
        return AlchemyConnection(connection, is_async=False, connect=connection.connection)
    if asyncio is not None and isinstance(connection, asyncio.AsyncConnection):
        return AlchemyConnection(connection, is_async=True)
    if asyncio is not None and isinstance(connection, asyncio.AsyncSession):
        return AlchemyConnection(connection, is_async=True, connect=connection.connection)
    return None


class SqliteConnection:
    """One of `sqlite3`."""

    dialect: Dialect = "sqlite"
    is_async = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def is_open(self) -> bool:
        """Whether the driver, or a `BEGIN` of the user's, has opened one."""
        return self._connection.in_transaction

    async def begin(self) -> None:
        """Begin a transaction that writes, unless one is open: in autocommit mode as well."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    async def execute(self, statement: str, /, **parameters: Any) -> Rows:
        """Run one statement."""
        cursor = self._connection.cursor()
        cursor.row_factory = None
        return cursor.execute(statement, parameters).fetchall()

    async def doom(self) -> None:
        """Roll the transaction back at once."""
        await self.rollback()

    async def commit(self) -> None:
        """Commit the transaction, in autocommit mode as well."""
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    async def rollback(self) -> None:
        """Undo the transaction, in autocommit mode as well."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class PsycopgConnection:
    """One of psycopg 3."""

    dialect: Dialect = "postgresql"

    def __init__(
        self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], *, is_async: bool
    ) -> None:
        self._connection = connection
        self.is_async = is_async

    async def is_open(self) -> bool:
        """Whether one is, failed or not."""
        from psycopg.pq import TransactionStatus

        return self._connection.info.transaction_status != TransactionStatus.IDLE

    async def begin(self) -> None:
        """Nothing: the first statement begins one, except in autocommit mode."""
        from psycopg.pq import TransactionStatus

        status = self._connection.info.transaction_status
        if self._connection.autocommit and status == TransactionStatus.IDLE:
            raise ConfigurationError(
                f"{self._connection!r} is in autocommit mode and no transaction is open: write "
                "`with connection.transaction():` around it"
            )

    async def execute(self, statement: str, /, **parameters: Any) -> Rows:
        """Run one statement, with a cursor of our own: the user's kind may write it otherwise."""
        import psycopg
        from psycopg.rows import tuple_row

        query = PARAMETER.sub(r"%(\1)s", statement).encode()
        if isinstance(self._connection, psycopg.AsyncConnection):
            async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as acursor:
                await acursor.execute(query, parameters)
                return await acursor.fetchall() if acursor.description else []
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    async def doom(self) -> None:
        """Have the server refuse whatever else it is asked in this transaction.

        Its end belongs to the user's `with connection.transaction()`, which allows no rollback
        inside; a failed transaction can only be rolled back.
        """
        import psycopg

        with suppress(psycopg.Error):
            await self.execute(REFUSED)

    async def commit(self) -> None:
        """Commit the transaction."""
        await _awaited(self._connection.commit())

    async def rollback(self) -> None:
        """Undo the transaction."""
        await _awaited(self._connection.rollback())


class AlchemyConnection:
    """One of SQLAlchemy, or a session's: statements pass through it, so that it knows of them."""

    def __init__(
        self, connection: Any, *, is_async: bool, connect: Callable[[], Any] | None = None
    ) -> None:
        self._connection = connection
        self._connect = connect
        self.is_async = is_async
        dialect = (connection.get_bind() if connect else connection).dialect.name
        if dialect not in ("sqlite", "postgresql"):
            raise ConfigurationError(f"{connection!r} is connected to {dialect}, not to {KNOWN}")
        self.dialect: Dialect = dialect

    async def is_open(self) -> bool:
        """Whether SQLAlchemy knows of one, which any statement begins."""
        return bool(self._connection.in_transaction())

    async def begin(self) -> None:
        """Begin SQLAlchemy's transaction, which any statement does, and the driver's."""
        if not (await self._opened()).in_transaction():
            await self.execute("SELECT 1")
        await (await self._driver()).begin()

    async def execute(self, statement: str, /, **parameters: Any) -> Rows:
        """Run one statement."""
        from sqlalchemy import text

        connection = await self._opened()
        result = connection.execute(text(statement), parameters)
        result = await result if self.is_async else result
        return [tuple(row) for row in result] if result.returns_rows else []

    async def doom(self) -> None:
        """As on the driver's own connection."""
        await (await self._driver()).doom()

    async def commit(self) -> None:
        """Commit SQLAlchemy's transaction, and with it the driver's."""
        await _awaited(self._connection.commit())

    async def rollback(self) -> None:
        """Undo both."""
        await _awaited(self._connection.rollback())

    async def _opened(self) -> Any:
        if self._connect is None:
            return self._connection
        return await _awaited(self._connect())

    async def _driver(self) -> UserConnection:
        connection = await self._opened()
        raw = await connection.get_raw_connection() if self.is_async else connection.connection
        driver = _on_driver(raw.driver_connection)
        if driver is None:
            raise ConfigurationError(
                f"{self._connection!r} is connected by {type(raw.driver_connection)!r}, not by "
                f"{KNOWN}"
            )
        return driver


async def _awaited(answer: Awaitable[Any] | Any) -> Any:
    return await answer if isinstance(answer, Awaitable) else answer
