"""The tables, and how they come into being when many processes start at once."""

from __future__ import annotations

import sqlite3

from resilient.errors import ConfigurationError

__all__ = ["check", "create", "is_current"]

APPLICATION = 0x52534C54
"""What `file` and we know such a database by: "RSLT"."""
VERSION = 2

# Rows are found by prefix, kind (the table's name in `engine.transactional`) and key. There is no
# index on `expires`: it would cost half as much again at every write (see `sweep`).
ROWS = """(
    prefix TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    expires REAL NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (prefix, kind, key)
)"""
TABLES = (
    f"CREATE TABLE record {ROWS}",
    # The index is the table: a row that comes or goes is one page to write, and not two.
    f"CREATE TABLE clustered {ROWS} WITHOUT ROWID",
    # Signals to other processes. The newest row always stays, so that no id is used twice.
    """
    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        origin TEXT NOT NULL,
        prefix TEXT NOT NULL,
        channel TEXT,
        message TEXT NOT NULL
    )
    """,
    # The store's time minus the boot clock's, for each boot of the machine.
    "CREATE TABLE clock (boot TEXT PRIMARY KEY, offset REAL NOT NULL)",
    # Ticks: the last one that was counted, and a bound above those that were read from the clock.
    # `swept` is the last row of `record` that was looked at for expiry; the other three name that
    # of `clustered`.
    """
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        counted INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        swept INTEGER NOT NULL,
        swept_prefix TEXT NOT NULL,
        swept_kind TEXT NOT NULL,
        swept_key TEXT NOT NULL
    )
    """,
    "INSERT INTO state VALUES (1, 0, 0, 0, '', '', '')",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)


def check(connection: sqlite3.Connection) -> None:
    """Look whether the file is ours, or empty, before anything in it is touched.

    Raises:
        ConfigurationError: It is another program's database, or a later version's.
    """
    connection.execute("BEGIN")  # one look: another process may be creating the tables
    try:
        application = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
        is_empty = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    finally:
        connection.rollback()
    if application == APPLICATION and version != VERSION:
        raise ConfigurationError(
            f"was made by another version of resilient: its tables are of version {version}, "
            f"and this one knows {VERSION}"
        )
    if application != APPLICATION and not is_empty:
        raise ConfigurationError("is another program's database: give resilient a file of its own")


def create(connection: sqlite3.Connection) -> None:
    """Create the tables if they are not there, inside a write transaction."""
    if not is_current(connection):
        for statement in TABLES:
            connection.execute(statement)


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the tables are there, in this version."""
    return (
        _pragma(connection, "application_id") == APPLICATION
        and _pragma(connection, "user_version") == VERSION
    )


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
