"""Those who wait for a record to change, kept in that record: the longest waiting first."""

from __future__ import annotations

from resilient.engine.transactional.store import Record, Transaction

__all__ = ["Queue", "Waiting", "joined", "wake_all"]

LIFE = 10.0
"""Seconds for which a registration lasts. Waiters look again every second, and so renew it; one
that was killed is forgotten."""
LIMIT = 500
"""How many may wait for one record. Whoever comes later still looks again every second."""


class Waiting(Record, frozen=True, array_like=True):
    """One waiter.

    Attributes:
        address: Where to wake it.
        until: When to forget it, by the store's clock.
    """

    address: str
    until: float


Queue = tuple[Waiting, ...]


def joined(queue: Queue, address: str, now: float) -> Queue:
    """The queue with this waiter in it; the same object if nothing needs to be written.

    Whoever waits already keeps its place.
    """
    for index, waiting in enumerate(queue):
        if waiting.address == address:
            if waiting.until > now + LIFE / 2:
                return queue
            return (*queue[:index], Waiting(address, now + LIFE), *queue[index + 1 :])
    alive = tuple([waiting for waiting in queue if waiting.until > now])
    if len(alive) >= LIMIT:
        return queue
    return (*alive, Waiting(address, now + LIFE))


def wake_all(tx: Transaction, queue: Queue) -> None:
    """Wake everybody in the queue."""
    for waiting in queue:
        tx.wake(waiting.address)
