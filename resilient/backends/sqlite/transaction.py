"""One transaction over the tables: what `resilient.engine.transactional` asks of a store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from resilient.backends.sqlite.clock import StoreClock
from resilient.backends.sqlite.sweep import SWEEP_CHANCE, sweep, sweep_clustered
from resilient.engine import chance
from resilient.engine.decoders import decoder_of
from resilient.engine.identity import is_dead
from resilient.engine.transactional import Record, Table
from resilient.errors import CodecError

__all__ = ["Signal", "SqliteTransaction"]

R = TypeVar("R", bound=Record)

EVENTS = 2_000
"""Signals that are kept for processes that are slow to look."""


class Statements(NamedTuple):
    """Those of the table in which records lie."""

    get: str
    put: str
    delete: str
    scan: str

    @classmethod
    def of(cls, table: str) -> Statements:
        """Those of a table of the schema."""
        return cls(
            f"SELECT data FROM {table} WHERE prefix = ? AND kind = ? AND key = ? AND expires > ?",
            f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?) ON CONFLICT (prefix, kind, key) "
            "DO UPDATE SET expires = excluded.expires, data = excluded.data",
            f"DELETE FROM {table} WHERE prefix = ? AND kind = ? AND key = ?",
            f"SELECT key, data FROM {table} "
            "WHERE prefix = ? AND kind = ? AND expires > ? AND key >= ?",
        )


SCATTERED, CLUSTERED = Statements.of("record"), Statements.of("clustered")
SEND = "INSERT INTO event (origin, prefix, channel, message) VALUES (?, ?, ?, ?)"
TRIM = "DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?"

_encode_into = msgspec.msgpack.Encoder().encode_into
_decoders: dict[Table[Any], msgspec.msgpack.Decoder[Any]] = {}


class Signal(NamedTuple):
    """Something to tell waiters (`channel` is `None`: one waiter's address) or listeners."""

    channel: str | None
    message: str


class SqliteTransaction:
    """Valid between a BEGIN and its COMMIT.

    Args:
        cursor: Runs the statements of this transaction, one after the other.
        clock: The store's clock.
        prefix: The tenant.
    """

    __slots__ = ("_clock", "_cursor", "_prefix", "now", "signals")

    sweep_chance = SWEEP_CHANCE

    def __init__(self, cursor: sqlite3.Cursor, clock: StoreClock, prefix: str) -> None:
        self._cursor = cursor
        self._clock = clock
        self._prefix = prefix
        self.now = clock.now()
        self.signals: list[Signal] = []

    def tick(self) -> int:
        """A number larger than all before it."""
        return self._clock.tick(self._cursor, self.now)

    def get(self, table: Table[R], key: str) -> R | None:
        """The live record of a key."""
        get = (CLUSTERED if table.clustered else SCATTERED).get
        row = self._cursor.execute(get, (self._prefix, table.name, key, self.now)).fetchone()
        return None if row is None else decoded(table, row[0])

    def put(self, table: Table[R], key: str, record: R, *, ttl: float) -> None:
        """Store a record."""
        put = (CLUSTERED if table.clustered else SCATTERED).put
        row = (self._prefix, table.name, key, self.now + ttl, encoded(record))
        self._cursor.execute(put, row)
        if chance.random() < self.sweep_chance:
            (sweep_clustered if table.clustered else sweep)(self._cursor, self.now)

    def delete(self, table: Table[R], key: str) -> None:
        """Remove a record."""
        delete = (CLUSTERED if table.clustered else SCATTERED).delete
        self._cursor.execute(delete, (self._prefix, table.name, key))

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
        statement = (CLUSTERED if table.clustered else SCATTERED).scan
        bounds = [self._prefix, table.name, self.now, prefix]
        if (end := successor(prefix)) is not None:
            statement += " AND key < ?"
            bounds.append(end)
        if after is not None:
            statement += " AND key > ?"
            bounds.append(after)
        statement += " ORDER BY key LIMIT ?"
        bounds.append(-1 if limit is None else limit)
        for key, data in self._cursor.execute(statement, bounds).fetchall():
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
                self._cursor.execute(SEND, (origin, self._prefix, channel, message))
        if chance.random() < SWEEP_CHANCE * len(self.signals):
            self._cursor.execute(TRIM, (EVENTS,))


def encoded(record: Record) -> bytearray:
    """A record in its stored form."""
    data = bytearray()  # `sqlite3` takes as it is; for `bytes` it goes looking for an adapter
    _encode_into(record, data)
    return data


def decoded(table: Table[R], data: bytes) -> R:
    """A record from its stored form."""
    decoder = _decoders.get(table)
    if decoder is None:
        decoder = _decoders[table] = decoder_of(table.record)
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
