"""One transaction over the tables: what `resilient.engine.transactional` asks of a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from resilient.backends.sqlite.clock import StoreClock
from resilient.engine import chance
from resilient.engine.identity import is_dead
from resilient.engine.transactional import Record, Table
from resilient.errors import CodecError

__all__ = ["Signal", "SqliteTransaction"]

R = TypeVar("R", bound=Record)

SWEEP_CHANCE = 1 / 64
SWEEP = 128
"""One write in so many looks at so many rows, and drops those that expired: more than are added."""
EVENTS = 2_000
"""Signals that are kept for processes that are slow to look."""

GET = "SELECT data FROM record WHERE prefix = ? AND kind = ? AND key = ? AND expires > ?"
PUT = (
    "INSERT INTO record VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (prefix, kind, key) "
    "DO UPDATE SET expires = excluded.expires, data = excluded.data"
)
DELETE = "DELETE FROM record WHERE prefix = ? AND kind = ? AND key = ?"
SCAN = "SELECT key, data FROM record WHERE prefix = ? AND kind = ? AND expires > ? AND key >= ?"
SWEEP_ROWS = "SELECT rowid, expires FROM record WHERE rowid > ? ORDER BY rowid LIMIT ?"
SEND = "INSERT INTO event (origin, prefix, channel, message) VALUES (?, ?, ?, ?)"
TRIM = "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?"

_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[Table[Any], msgspec.msgpack.Decoder[Any]] = {}


class Signal(NamedTuple):
    """Something to tell waiters (`channel` is `None`: one waiter's address) or listeners."""

    channel: str | None
    message: str


class SqliteTransaction:
    """Valid between a BEGIN and its COMMIT.

    Args:
        connection: Where the transaction runs.
        clock: The store's clock.
        prefix: The tenant.
    """

    __slots__ = ("_clock", "_connection", "_prefix", "now", "signals")

    def __init__(self, connection: sqlite3.Connection, clock: StoreClock, prefix: str) -> None:
        self._connection = connection
        self._clock = clock
        self._prefix = prefix
        self.now = clock.now()
        self.signals: list[Signal] = []

    def tick(self) -> int:
        """A number larger than all before it."""
        return self._clock.tick(self._connection, self.now)

    def get(self, table: Table[R], key: str) -> R | None:
        """The live record of a key."""
        found = self._connection.execute(GET, (self._prefix, table.name, key, self.now))
        row = found.fetchone()
        return None if row is None else decoded(table, row[0])

    def put(self, table: Table[R], key: str, record: R, *, ttl: float) -> None:
        """Store a record."""
        row = (self._prefix, table.name, key, self.now + ttl, _encode(record))
        self._connection.execute(PUT, row)
        if chance.random() < SWEEP_CHANCE:
            self._sweep()

    def delete(self, table: Table[R], key: str) -> None:
        """Remove a record."""
        self._connection.execute(DELETE, (self._prefix, table.name, key))

    def scan(
        self,
        table: Table[R],
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[tuple[str, R]]:
        """The live records of a range of keys, by key."""
        # Only the bounds that there are: SQLite finds no range through an OR.
        statement, bounds = SCAN, [self._prefix, table.name, self.now, prefix]
        if (end := successor(prefix)) is not None:
            statement += " AND key < ?"
            bounds.append(end)
        if after is not None:
            statement += " AND key > ?"
            bounds.append(after)
        statement += " ORDER BY key LIMIT ?"
        bounds.append(-1 if limit is None else limit)
        for key, data in self._connection.execute(statement, bounds).fetchall():
            yield key, decoded(table, data)

    def wake(self, address: str, gift: str = "") -> None:
        """Wake a waiter after the commit."""
        self.signals.append(Signal(None, f"{address}={gift}"))

    def is_there(self, address: str) -> bool:
        """Whether its process is alive, as far as that can be known."""
        return not is_dead(address.partition(":")[0])

    def publish(self, channel: str, message: str) -> None:
        """Deliver a message after the commit."""
        self.signals.append(Signal(channel, message))

    def store_signals(self, origin: str) -> None:
        """Write down what other processes must hear, before the commit."""
        for channel, message in self.signals:
            if channel is not None or not message.startswith(f"{origin}:"):
                self._connection.execute(SEND, (origin, self._prefix, channel, message))
        if chance.random() < SWEEP_CHANCE * len(self.signals):
            self._connection.execute(TRIM, (EVENTS,))

    def _sweep(self) -> None:
        """Look at the next rows and drop those that expired, so that none stays for ever."""
        execute = self._connection.execute
        (swept,) = execute("SELECT swept FROM state").fetchone()
        rows = execute(SWEEP_ROWS, (swept, SWEEP)).fetchall()
        expired = [(row,) for row, expires in rows if expires <= self.now]
        self._connection.executemany("DELETE FROM record WHERE rowid = ?", expired)
        last = rows[-1][0] if len(rows) == SWEEP else 0
        execute("UPDATE state SET swept = ?", (last,))


def decoded(table: Table[R], data: bytes) -> R:
    """A record from its stored form."""
    decoder = _decoders.get(table)
    if decoder is None:
        decoder = _decoders[table] = msgspec.msgpack.Decoder(table.record)
    try:
        record: R = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise CodecError(f"a stored record of {table.name!r} cannot be read: {error}") from error
    return record


def successor(prefix: str) -> str | None:
    """The first text after all those that begin with a prefix; `None` if there is none.

    SQLite orders texts by their UTF-8 bytes, which is the order of their code points.
    """
    while prefix:
        following = ord(prefix[-1]) + 1
        if following == 0xD800:  # no text may hold a surrogate
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None
