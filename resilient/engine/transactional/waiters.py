"""Those who wait for a record to change, kept in that record: the longest waiting first."""

from __future__ import annotations

from resilient.engine.transactional.store import Record, Transaction

__all__ = ["Queue", "Waiting", "joined", "wake_all", "woken_first"]

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
        woken: It was woken and has not come back yet.
    """

    address: str
    until: float
    woken: bool = False


Queue = tuple[Waiting, ...]


def joined(queue: Queue, address: str, now: float) -> Queue:
    """The queue with this waiter in it; the same object if nothing needs to be written.

    Whoever waits already keeps its place, also after it was woken in vain.
    """
    for index, waiting in enumerate(queue):
        if waiting.address == address:
            if not waiting.woken and waiting.until > now + LIFE / 2:
                return queue
            return (*queue[:index], Waiting(address, now + LIFE), *queue[index + 1 :])
    alive = tuple([waiting for waiting in queue if waiting.until > now])
    if len(alive) >= LIMIT:
        return queue
    return (*alive, Waiting(address, now + LIFE))


def left(queue: Queue, address: str) -> Queue:
    """The queue without this waiter."""
    return tuple([waiting for waiting in queue if waiting.address != address])


def was_woken(queue: Queue, address: str) -> bool:
    """Whether this waiter was woken and has not come back since."""
    return any(waiting.woken for waiting in queue if waiting.address == address)


def woken_first(tx: Transaction, queue: Queue) -> Queue:
    """Wake the longest waiting of those who are not awake yet; the queue afterwards."""
    alive = [waiting for waiting in queue if waiting.until > tx.now]
    for index, waiting in enumerate(alive):
        if not waiting.woken:
            tx.wake(waiting.address)
            alive[index] = Waiting(waiting.address, waiting.until, woken=True)
            break
    return tuple(alive)


def wake_all(tx: Transaction, queue: Queue) -> None:
    """Wake everybody in the queue."""
    for waiting in queue:
        tx.wake(waiting.address)
