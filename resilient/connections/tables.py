"""Tables of ours in the user's database, made by whoever needs one first."""

from __future__ import annotations

import zlib
from typing import NamedTuple

from resilient.connections.drivers import UserConnection

__all__ = ["UserTable", "ensured"]


class UserTable(NamedTuple):
    """A table that is made when it is missing.

    Attributes:
        name: Its name, in the schema in which the user's connection makes tables.
        columns: What stands between the parentheses of `CREATE TABLE`, for SQLite and PostgreSQL.
    """

    name: str
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
