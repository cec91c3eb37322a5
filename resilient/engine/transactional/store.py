"""What a store must offer so that all five capabilities run on it: transactions over records.

A `Table` names a kind of record; a record is an immutable `Record`. The capabilities of this
package are plain functions of a `Transaction`; a `TransactionalStore` runs them, one at a time as
far as anybody can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import CoroutineType
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from resilient.engine.guard import in_force

__all__ = [
    "GuardedStore",
    "Optimistic",
    "PassedOn",
    "Record",
    "Table",
    "Transaction",
    "TransactionalStore",
    "Work",
    "made",
    "passed_on",
]

T = TypeVar("T")

made = tuple.__new__
"""Makes a named tuple, in half the time that its own constructor takes."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a table holds. Memory keeps the object, others its msgpack form: a list of its fields.

    A later version of a record only appends fields, with defaults: so it reads what an earlier one
    wrote, and an earlier one ignores what it does not know.

    Nothing in it refers back to it: so the garbage collector need not look at it, however many
    there are.
    """


R = TypeVar("R", bound=Record)


class Table(Generic[R]):
    """A kind of record, and the name under which a store keeps it.

    Args:
        name: Lower-case letters only: some stores make it the name of a table of theirs.
        record: The type of its records.
        clustered: Whether a store that can had better keep them in the order of their keys: what is
            asked for lies side by side then, and one more is written in one place. That is no good
            where keys come at random and there are many.
    """

    __slots__ = ("clustered", "name", "record")

    def __init__(self, name: str, record: type[R], *, clustered: bool = False) -> None:
        self.name = name
        self.record = record
        self.clustered = clustered

    def __repr__(self) -> str:
        return f"<Table {self.name}>"


class Transaction(Protocol):
    """One atomic look at the store. Valid only while the function that it was given to runs.

    It reads what it has written itself. Should the function raise, nothing of it remains.
    """

    @property
    def now(self) -> float:
        """The store's clock, in seconds since the epoch: the same for every process, the same all
        through the transaction, never going back, and moved by no step of the wall clock.
        """
        ...

    def tick(self) -> int:
        """A number larger than all before it: `max(previous + 1, now in µs)`.

        Fences, generations and the times of tags are drawn from it. Starting from the clock it
        grows even if the store loses its data.
        """
        ...

    def get(self, table: Table[R], key: str) -> R | None:
        """The record of a key; `None` if there is none, or its time is over."""
        ...

    def put(self, table: Table[R], key: str, record: R, *, ttl: float) -> None:
        """Store a record for `ttl` seconds from now, in the place of an earlier one."""
        ...

    def delete(self, table: Table[R], key: str) -> None:
        """Remove a record, if there is one."""
        ...

    def scan(
        self,
        table: Table[R],
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterable[tuple[str, R]]:
        """The live records whose keys begin with `prefix` and are greater than `after`, by key."""
        ...

    def wake(self, address: str, gift: str = "") -> None:
        """Wake a waiter of any process, by the address that its hub gave it, after the commit.

        What it is given reaches the hub behind its address: `address=gift`.
        """
        ...

    def is_there(self, address: str) -> bool:
        """Whether there may still be a waiter at this address; false if its process is gone."""
        ...

    def publish(self, channel: str, message: str) -> None:
        """Send a message to every process that listens to the channel, after the commit."""
        ...


Work = Callable[[Transaction], T]


class Optimistic(partial[T]):
    """A function that is run again and again, most likely finds what it found before, and writes.

    A store may run it on what it remembers, and write on the condition that this was true. If it
    was not, or does not know how: it is a function like any other.
    """

    __slots__ = ()


class TransactionalStore(Protocol):
    """Where transactions run. Both methods raise `BackendError` when that fails.

    They await `resilient.engine.plan` operations (`Ask`) or nothing at all; a store of an async
    client's may await that, and then serves async callers only. The function may be run again if
    the first try comes to nothing: it does nothing but use its transaction.
    """

    async def change(self, work: Callable[[Transaction], T]) -> T:
        """Run a function in a transaction that reads and writes, and answer what it returns."""
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a function that only reads: on one consistent state, in the way of no writer."""
        ...


class PassedOn(TransactionalStore, Protocol):
    """A store whose coroutine a capability passes on: to await it in one of its own would cost."""

    def change(self, work: Callable[[Transaction], T]) -> CoroutineType[Any, Any, T]:
        """See `TransactionalStore`."""
        ...


def passed_on(store: TransactionalStore) -> PassedOn:
    """The store itself."""
    return store  # type: ignore[return-value]  # mypy: what an `async def` answers is a coroutine


class GuardedStore:
    """The same store, for what may be written under a lock on it (`resilient.engine.guard`)."""

    def __init__(self, store: TransactionalStore) -> None:
        self._store = passed_on(store)
        self.read = store.read

    def change(self, work: Callable[[Transaction], T]) -> CoroutineType[Any, Any, T]:
        """Run a function in a transaction that reads and writes, under the guards in force."""
        for guard in in_force.get():
            if guard.server is self._store:
                work = guard.wrap(work)
        return self._store.change(work)
