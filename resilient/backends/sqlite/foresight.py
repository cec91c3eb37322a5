"""Optimistic transactions: one statement, in place of a transaction that would find nothing new.

What a process does again and again (the step of a job) finds what it found before, and writes one
record. So it is run on the rows that were found before, and what it writes is written by a single
statement, which looks in the same moment whether those rows still are what they were. If they are
not, nothing is written, and it runs in a transaction like any other.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, TypeVar

from resilient.backends.sqlite.clock import StoreClock
from resilient.backends.sqlite.database import Connection
from resilient.backends.sqlite.sweep import SWEEP_CHANCE
from resilient.backends.sqlite.transaction import SqliteTransaction, encoded
from resilient.engine import chance
from resilient.engine.transactional import Optimistic, Record, Table

__all__ = ["UNFORESEEN", "Foresight"]

R = TypeVar("R", bound=Record)

LIMIT = 256
"""How many rows are remembered; one more, and they are forgotten."""
LONGEST = 4096
"""Bytes up to which a row is remembered: it is compared with what is stored each time."""
UNFORESEEN: Any = object()
"""In the place of an answer: nothing was written."""

ROW = "SELECT expires, data FROM clustered WHERE prefix = ? AND kind = ? AND key = ?"
# Without the row there is no value for `data`, and what lacks one is ignored. A `SELECT` in the
# place of `VALUES` would go by way of a temporary table. The kinds stand in the text, and the
# prefix is bound once: four bindings take as long as the search for a row.
WRITE = """
    INSERT OR IGNORE INTO clustered VALUES (?1, '{written}', ?2, ?3, (
        SELECT ?4 FROM clustered
        WHERE prefix = ?1 AND kind = '{found}' AND key = ?5 AND expires = ?6 AND data = ?7
    ))
    ON CONFLICT (prefix, kind, key) DO UPDATE SET expires = excluded.expires, data = excluded.data
    WHERE clustered.expires <= ?8
"""


class Row(NamedTuple):
    """A row as it was found, and what it says."""

    expires: float
    data: bytearray
    record: Any


Rows = dict[tuple[Table[Any], str], Row]


@lru_cache
def writing(written: Table[Any], found: Table[Any]) -> str:
    """The statement that writes a record of one kind, if one of the other still is as it was."""
    return WRITE.format(written=written.name, found=found.name)


class Foresight:
    """What a process remembers of a file, for one tenant; one thread at a time uses it.

    Args:
        clock: The store's clock.
        prefix: The tenant.
    """

    def __init__(self, clock: StoreClock, prefix: str) -> None:
        self._clock = clock
        self._prefix = prefix
        self._rows: Rows = {}
        self._sweeps = False

    def attempt(self, connection: Connection, work: Optimistic[Any]) -> Any:
        """Answer what the function does, and write what it writes; or `UNFORESEEN`."""
        self._sweeps = chance.random() < SWEEP_CHANCE  # that takes a transaction
        if self._sweeps:
            return UNFORESEEN
        draft = Draft(self._rows, self._clock.now())
        try:
            answer = work(draft)
        except Unforeseen:
            return UNFORESEEN
        found, written = draft.found, draft.written
        if found is None or written is None:
            return UNFORESEEN
        (table, key), row = found
        (into, name), expires, data = written
        cursor = connection.single
        cursor.execute(
            writing(into, table),
            (self._prefix, name, expires, data, key, row.expires, row.data, draft.now),
        )
        return answer if cursor.rowcount == 1 else UNFORESEEN

    def transaction(self, cursor: sqlite3.Cursor) -> SqliteTransaction:
        """The transaction in which it runs after all; what is found there is remembered."""
        if len(self._rows) >= LIMIT:
            self._rows.clear()
        return Learning(cursor, self._clock, self._prefix, self._rows, self._sweeps)


class Unforeseen(Exception):
    """The function asks for more than is remembered."""


class Draft:
    """A transaction on what is remembered: it reads one such row, and writes a record elsewhere.

    What is not remembered is taken not to be there. So only that may be written: then the statement
    finds out.
    """

    __slots__ = ("_absent", "_rows", "found", "now", "written")

    def __init__(self, rows: Rows, now: float) -> None:
        self._rows = rows
        self._absent: tuple[Table[Any], str] | None = None
        self.now = now
        self.found: tuple[tuple[Table[Any], str], Row] | None = None
        self.written: tuple[tuple[Table[Any], str], float, bytearray] | None = None

    def get(self, table: Table[R], key: str) -> R | None:
        """The record that was there before."""
        place = (table, key)
        row = self._rows.get(place)
        if row is None:
            if self._absent is not None or not table.clustered:
                raise Unforeseen
            self._absent = place
            return None
        if self.found is not None or row.expires <= self.now:
            raise Unforeseen
        self.found = (place, row)
        record: R = row.record
        return record

    def put(self, table: Table[R], key: str, record: R, *, ttl: float) -> None:
        """Take down what is to be stored."""
        if self.written is not None or self._absent != (table, key):
            raise Unforeseen
        self.written = ((table, key), self.now + ttl, encoded(record))

    def _unforeseen(self, *args: Any, **options: Any) -> NoReturn:
        raise Unforeseen

    tick = delete = scan = wake = is_there = publish = _unforeseen


class Learning(SqliteTransaction):
    """A transaction that remembers the rows which it finds."""

    def __init__(
        self, cursor: sqlite3.Cursor, clock: StoreClock, prefix: str, rows: Rows, sweeps: bool
    ) -> None:
        super().__init__(cursor, clock, prefix)
        self.sweep_chance = float(sweeps)
        self._rows = rows

    def get(self, table: Table[R], key: str) -> R | None:
        """The live record of a key."""
        record = super().get(table, key)
        if record is not None and table.clustered:
            found = self._cursor.execute(ROW, (self._prefix, table.name, key))
            expires, data = found.fetchone()
            if len(data) <= LONGEST:
                self._rows[table, key] = Row(expires, bytearray(data), record)
        return record
