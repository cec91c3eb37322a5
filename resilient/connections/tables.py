"""Tables of ours in the user's database: made by whoever needs one first, swept by all in turn."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from resilient.connections.drivers import UserConnection
from resilient.engine.plan import RANDOM

__all__ = ["SECONDS", "UserTable", "ensured", "swept"]

SWEEP_SHARE = 1 / 64
SWEEP_LIMIT = 256

SECONDS = {
    "sqlite": "CAST(strftime('%s', 'now') AS integer)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS bigint)",
}
"""The time of the database, in each dialect."""
# A row that somebody has locked is in use.
SWEEP = """
DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table}
WHERE {column} <= {now} - :memory LIMIT :limit {unlocked})
"""
UNLOCKED = {"sqlite": "", "postgresql": "FOR UPDATE SKIP LOCKED"}


class UserTable(NamedTuple):
    """A table that is made when it is missing.

    Attributes:
        name: Its name, in the schema in which the user's connection makes tables.
        key: The columns of its primary key.
        columns: What stands between the parentheses of `CREATE TABLE`, for SQLite and PostgreSQL.
    """

    name: str
    key: str
    columns: str

    @property
    def ddl(self) -> str:
        """The statement that makes it."""
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({self.columns})"


async def ensured(connection: UserConnection, table: UserTable) -> None:
    """Make a table in the open transaction, unless it is there; safe for many at once.

    It comes and goes with the transaction. On PostgreSQL two that make one table at the same moment
    would fail, `IF NOT EXISTS` or not: they take turns.
    """
    if connection.dialect == "postgresql":
        [(there,)] = await connection.execute(
            "SELECT to_regclass(CAST(:name AS text)) IS NOT NULL", name=table.name
        )
        if there:
            return
        await connection.execute(
            "SELECT pg_advisory_xact_lock(:turn)", turn=zlib.crc32(table.name.encode())
        )
    await connection.execute(table.ddl)


async def swept(
    connection: UserConnection, table: UserTable, column: str, *, memory: int = 0
) -> None:
    """Drop some rows that are of no use any more, in one call of many.

    Args:
        connection: In whose transaction.
        table: Whose rows.
        column: Since when a row is of no use, in seconds of the database's clock.
        memory: Seconds for which it is kept all the same.
    """
    if await RANDOM >= SWEEP_SHARE:
        return
    sweep = SWEEP.format(
        table=table.name,
        key=table.key,
        column=column,
        now=SECONDS[connection.dialect],
        unlocked=UNLOCKED[connection.dialect],
    )
    await connection.execute(sweep, memory=memory, limit=SWEEP_LIMIT)
