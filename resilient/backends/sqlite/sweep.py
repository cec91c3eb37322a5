"""How rows that expired are collected: every now and then a write looks at the next ones.

An index on the time of expiry would cost more at every write than this does.
"""

from __future__ import annotations

import sqlite3

__all__ = ["SWEEP_CHANCE", "sweep", "sweep_clustered"]

SWEEP_CHANCE = 1 / 64
SWEEP = 128
"""One write in so many looks at so many rows, and drops those that expired: more than are added."""

SWEPT = "SELECT swept FROM state"
END = "SELECT rowid FROM record WHERE rowid > ? ORDER BY rowid LIMIT 1 OFFSET ?"
DROP = "DELETE FROM record WHERE rowid > ? AND rowid <= ? AND expires <= ?"
DROP_REST = "DELETE FROM record WHERE rowid > ? AND expires <= ?"
GO_ON = "UPDATE state SET swept = ?"

SWEPT_CLUSTERED = "SELECT swept_prefix, swept_kind, swept_key FROM state"
END_CLUSTERED = (
    "SELECT prefix, kind, key FROM clustered WHERE (prefix, kind, key) > (?, ?, ?) "
    "ORDER BY prefix, kind, key LIMIT 1 OFFSET ?"
)
DROP_CLUSTERED = (
    "DELETE FROM clustered WHERE (prefix, kind, key) > (?, ?, ?) "
    "AND (prefix, kind, key) <= (?, ?, ?) AND expires <= ?"
)
DROP_REST_CLUSTERED = "DELETE FROM clustered WHERE (prefix, kind, key) > (?, ?, ?) AND expires <= ?"
GO_ON_CLUSTERED = "UPDATE state SET swept_prefix = ?, swept_kind = ?, swept_key = ?"


def sweep(cursor: sqlite3.Cursor, now: float) -> None:
    """Look at the next rows and drop those that expired, so that none stays for ever."""
    swept = cursor.execute(SWEPT).fetchone()
    end = cursor.execute(END, (*swept, SWEEP - 1)).fetchone()
    if end is None:
        cursor.execute(DROP_REST, (*swept, now))
    else:
        cursor.execute(DROP, (*swept, *end, now))
    cursor.execute(GO_ON, end or (0,))


def sweep_clustered(cursor: sqlite3.Cursor, now: float) -> None:
    """The same, of rows that are found by their keys alone."""
    swept = cursor.execute(SWEPT_CLUSTERED).fetchone()
    end = cursor.execute(END_CLUSTERED, (*swept, SWEEP - 1)).fetchone()
    if end is None:
        cursor.execute(DROP_REST_CLUSTERED, (*swept, now))
    else:
        cursor.execute(DROP_CLUSTERED, (*swept, *end, now))
    cursor.execute(GO_ON_CLUSTERED, end or ("", "", ""))
