"""A backend of your own, in full: a dict, and all five capabilities over it.

`TransactionalBackend` knows what locks, circuits, a cache, idempotent calls and jobs do. It wants a
store with transactions over records that expire, and that is all there is to write. Run this file
to see it work; `tests/conformance/test_custom_backend.py` runs the conformance suite over it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import resilient
from resilient.engine import clock
from resilient.engine.transactional import Record, Table, Transaction, TransactionalBackend
from resilient.protocols.signals import Hub

T = TypeVar("T")
R = TypeVar("R", bound=Record)

Entries = dict[tuple[str, str], tuple[Any, float]]
"""By table and key: a record, and when its time is over."""


class DictSignals:
    """Where waiters and listeners hear of changes: all of them are in this process."""

    def __init__(self) -> None:
        self._hub: Hub | None = None

    @property
    def is_listening(self) -> bool:
        """Whether anybody has asked to hear."""
        return self._hub is not None

    def start(self, hub: Hub) -> None:
        """Hand everything to this hub from now on."""
        self._hub = hub

    def address(self, waiter: str) -> str:
        """What a store is told, so that it can wake this waiter."""
        return waiter

    def stop(self) -> None:
        """There is no thread to end and no connection to close."""

    def knows(self, address: str) -> bool:
        """Whether a waiter is still there."""
        return self._hub is not None and self._hub.is_waiting(address)

    def send(self, signals: list[tuple[str, str | None]]) -> None:
        """Wake waiters, by address, and deliver messages, by channel."""
        if self._hub is None:
            return
        for target, message in signals:
            if message is None:
                self._hub.wake(target)
            else:
                self._hub.deliver(target, message)


class DictStore:
    """The store: a lock, a dict, and the last number that was drawn."""

    def __init__(self, signals: DictSignals) -> None:
        self._signals = signals
        self._lock = threading.RLock()
        self._entries: Entries = {}
        self._last_tick = 0
        self._began = clock.wall() - clock.now()

    async def change(self, work: Callable[[Transaction], T]) -> T:
        """Run a function on a copy, and keep the copy if the function comes to its end."""
        with self._lock:
            transaction = DictTransaction(
                self._signals, dict(self._entries), self._now(), self._last_tick
            )
            answer = work(transaction)
            self._entries = transaction.live()
            self._last_tick = transaction.last_tick
        self._signals.send(transaction.signals)  # after the fact, and outside of the lock
        return answer

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a function that only reads. What is in the dict is replaced, never changed."""
        return work(DictTransaction(self._signals, self._entries, self._now(), self._last_tick))

    def _now(self) -> float:
        """Seconds since the epoch, but for the steps that the wall clock makes."""
        return self._began + clock.now()


class DictTransaction:
    """One look at the entries: a record and its end for each table and key."""

    def __init__(self, hub: DictSignals, entries: Entries, now: float, last_tick: int) -> None:
        self._hub = hub
        self.now = now  # stands still inside a transaction
        self.last_tick = last_tick
        self.signals: list[tuple[str, str | None]] = []
        self._entries = entries

    def tick(self) -> int:
        """Larger than all before it, and from the clock: so it grows even if the dict is lost."""
        self.last_tick = max(self.last_tick + 1, int(self.now * 1e6))
        return self.last_tick

    def get(self, table: Table[R], key: str) -> R | None:
        """The record of a key, unless its time is over."""
        record, expires = self._entries.get((table.name, key), (None, 0.0))
        return record if expires > self.now else None

    def put(self, table: Table[R], key: str, record: R, *, ttl: float) -> None:
        """Store a record, which is immutable, for so many seconds."""
        self._entries[table.name, key] = (record, self.now + ttl)

    def delete(self, table: Table[R], key: str) -> None:
        """Remove a record."""
        self._entries.pop((table.name, key), None)

    def scan(
        self,
        table: Table[R],
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[tuple[str, R]]:
        """The live records whose keys begin with `prefix` and come after `after`, by key."""
        keys = sorted(key for name, key in self._entries if name == table.name)
        wanted = [k for k in keys if k.startswith(prefix) and (after is None or k > after)]
        live = [(k, record) for k in wanted if (record := self.get(table, k)) is not None]
        yield from live[:limit]

    def wake(self, address: str, gift: str = "") -> None:
        """Have a waiter woken, and given something."""
        self.signals.append((f"{address}={gift}", None))

    def is_there(self, address: str) -> bool:
        """Whether a waiter is still there: all of them are in this process."""
        return self._hub.knows(address)

    def publish(self, channel: str, message: str) -> None:
        """Have a message sent."""
        self.signals.append((channel, message))

    def live(self) -> Entries:
        """The entries whose time is not over: so nothing stays for ever."""
        return {name: entry for name, entry in self._entries.items() if entry[1] > self.now}


def dict_backend() -> resilient.Backend:
    """The whole backend."""
    signals = DictSignals()
    return TransactionalBackend("dict", DictStore(signals), source=signals)


def main() -> None:
    """Use it like any other."""
    backend = dict_backend()
    with resilient.using(backend):

        @resilient.distributed_lock("report:{day}", ttl=30)
        def report(day: str) -> str:
            lease = resilient.current_lease()
            return f"{day}, written under fence {lease.fence}"

        print(report("monday"))
        print(report("tuesday"))
    backend.sync.cache.set("greeting", "hello", ttl=60)
    print(backend.sync.cache.get("greeting"))


if __name__ == "__main__":
    main()
