"""The memory backend: this process only, for tests, for development, and for a single process.

A dict whose entries expire. Its operations never suspend, so it serves sync and async callers; its
one lock is held for the microsecond of an operation and never across anything of the caller's.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from resilient.engine import clock
from resilient.engine.backend import Traits
from resilient.engine.forks import forget_in_child
from resilient.engine.transactional import (
    Record,
    Table,
    Transaction,
    TransactionalBackend,
)
from resilient.errors import ConfigurationError
from resilient.protocols.signals import Hub

__all__ = ["MemoryBackend", "from_url"]

T = TypeVar("T")
R = TypeVar("R", bound=Record)

Entry = tuple[Any, float]
"""A record, and when it expires."""

COLLECT_EVERY = 64
"""New entries after which twice as many old ones are looked at, and dropped if they expired."""


class MemoryBackend(TransactionalBackend):
    """Keeps everything in this process. Each object is a store of its own.

    A forked child goes on with a copy of its own.

    Args:
        prefix: Accepted like everywhere else. There is nobody to be kept apart from.
    """

    traits = Traits(
        shared_by="threads and tasks of one process",
        survives="nothing",
        waking="a condition",
    )

    def __init__(self, *, prefix: str = "") -> None:
        self.prefix = prefix
        signals = MemorySignals()
        super().__init__("memory://", MemoryStore(signals), source=signals, serial=True)


def from_url(url: str, *, prefix: str = "") -> MemoryBackend:
    """A fresh, empty store for `memory://`.

    Raises:
        ConfigurationError: The URL says more than `memory://`.
    """
    if url not in ("memory://", "memory:"):
        raise ConfigurationError(f"{url!r}: the memory backend has no options; write 'memory://'")
    return MemoryBackend(prefix=prefix)


class MemorySignals:
    """Signals that arrive at once: who sends them calls who hears them."""

    def __init__(self) -> None:
        self.hub: Hub | None = None

    @property
    def is_listening(self) -> bool:
        """Whether anybody has listened yet; from then on it never misses anything."""
        return self.hub is not None

    def start(self, hub: Hub) -> None:
        """Hand signals to this hub from now on."""
        self.hub = hub

    def address(self, waiter: str) -> str:
        """The waiter's id is its address."""
        return waiter

    def stop(self) -> None:
        """There is nothing to stop."""


class MemoryStore:
    """The dict. It is its own transaction: one runs at a time."""

    def __init__(self, signals: MemorySignals) -> None:
        self.now = 0.0
        self._signals = signals
        self._tables: defaultdict[Table[Any], dict[str, Entry]] = defaultdict(dict)
        self._sorted: dict[Table[Any], list[str]] = {}
        self._undo: list[tuple[dict[str, Entry], str, Entry | None]] = []
        self._outbox: list[tuple[str | None, str]] = []
        self._last_tick = 0
        self._clock: clock.Clock | None = None
        self._offset = 0.0
        self._new_entries = 0
        self._unseen: list[str] = []
        self._unseen_in: dict[str, Entry] = {}
        self._later: list[dict[str, Entry]] = []
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        # A thread of the parent's may have held the lock in the moment of the fork, and left
        # an operation half done. Reentrant: the garbage collector may close a suspended generator
        # inside an operation, and the generator release a lease.
        self._lock = threading.RLock()
        self._roll_back()

    # --- the store

    async def change(self, work: Callable[[Transaction], T]) -> T:
        """Run a function that nothing else comes between."""
        # `with` takes twice as long. A thread is interrupted (Ctrl-C) after calls, also after this
        # one: so it stands inside.
        try:
            self._lock.acquire()
            try:
                if clock.current is not self._clock:
                    self._follow(clock.current)
                self.now = clock.now() + self._offset
                answer = work(self)
                self._undo.clear()
                if not self._outbox:
                    return answer
                outbox, self._outbox = self._outbox, []
            except BaseException:
                self._roll_back()
                raise
        finally:
            try:  # noqa: SIM105 - to enter a `with` is a call, after which it may be interrupted
                self._lock.release()
            except RuntimeError:  # it was interrupted while it waited
                pass
        self._send(outbox)
        return answer

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """The same: there is nothing that a mere reader saves."""
        with self._lock:
            if clock.current is not self._clock:
                self._follow(clock.current)
            self.now = clock.now() + self._offset
            return work(self)

    def _roll_back(self) -> None:
        while self._undo:
            records, key, before = self._undo.pop()
            if before is None:
                records.pop(key, None)
            else:
                records[key] = before
        self._outbox.clear()

    def _send(self, outbox: list[tuple[str | None, str]]) -> None:
        hub = self._signals.hub
        if hub is None:  # nobody has ever waited or listened
            return
        for channel, message in outbox:
            if channel is None:
                hub.wake(message)
            else:
                hub.deliver(channel, message)

    def _follow(self, current: clock.Clock) -> None:
        # Another clock was put in the system's place: go on from here, by that one.
        self._clock = current
        self._offset = max(self.now, clock.wall()) - clock.now()

    # --- the transaction

    def tick(self) -> int:
        """A number larger than all before it."""
        tick = int(self.now * 1e6)
        if tick <= self._last_tick:
            tick = self._last_tick + 1
        self._last_tick = tick
        return tick

    def get(self, table: Table[R], key: str) -> R | None:
        """The live record of a key."""
        entry = self._tables[table].get(key)
        if entry is None or entry[1] <= self.now:
            return None
        record: R = entry[0]  # a table holds its own records only
        return record

    def put(self, table: Table[R], key: str, record: R, *, ttl: float) -> None:
        """Store a record."""
        records = self._tables[table]
        before = records.get(key)
        self._undo.append((records, key, before))
        records[key] = (record, self.now + ttl)
        if before is None:
            if self._sorted and (names := self._sorted.get(table)) is not None:
                _insert(names, key)
            self._new_entries += 1
            if self._new_entries >= COLLECT_EVERY:
                self._collect()

    def delete(self, table: Table[R], key: str) -> None:
        """Remove a record."""
        records = self._tables[table]
        before = records.pop(key, None)
        if before is not None:
            self._undo.append((records, key, before))

    def scan(
        self,
        table: Table[R],
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[tuple[str, R]]:
        """The live records of a range of keys, by key."""
        keys = self._sorted.get(table)
        # It may still name what was deleted since: up to as many as there are.
        if keys is None or len(keys) > 2 * len(self._tables[table]) + COLLECT_EVERY:
            keys = self._sorted[table] = sorted(self._tables[table])
        start = bisect_left(keys, prefix)
        if after is not None:
            start = max(start, bisect_right(keys, after))
        found = 0
        for index in range(start, len(keys)):
            key = keys[index]
            if found == limit or not key.startswith(prefix):
                return
            record = self.get(table, key)
            if record is not None:
                found += 1
                yield key, record

    def wake(self, address: str, gift: str = "") -> None:
        """Wake a waiter once the lock is free again."""
        self._outbox.append((None, f"{address}={gift}"))

    def is_there(self, address: str) -> bool:
        """Whether it still waits in this process."""
        hub = self._signals.hub
        return hub is not None and hub.is_waiting(address)

    def publish(self, channel: str, message: str) -> None:
        """Deliver a message once the lock is free again."""
        self._outbox.append((channel, message))

    # --- expiry

    def _collect(self) -> None:
        """Look at some entries and drop those that expired, so that none stays for ever."""
        self._new_entries = 0
        for _ in range(2 * COLLECT_EVERY):
            if not self._unseen:
                if not self._later:
                    self._later = list(self._tables.values())
                self._unseen_in = self._later.pop()
                self._unseen = list(self._unseen_in)
                continue
            key = self._unseen.pop()
            entry = self._unseen_in.get(key)
            if entry is not None and entry[1] <= self.now:
                del self._unseen_in[key]


def _insert(names: list[str], key: str) -> None:
    """Put a key where it belongs, unless it is there still from before it was deleted."""
    place = bisect_left(names, key)
    if place == len(names) or names[place] != key:
        names.insert(place, key)
