"""Those who wait for a lock, with everything that is needed to hand it over to them."""

from __future__ import annotations

from msgspec.structs import replace

from resilient.engine.transactional.store import Record
from resilient.protocols.locks import LockMode

__all__ = ["Place", "Places", "joined", "left"]

LIFE = 10.0
"""Seconds for which a registration lasts. Waiters look again every second, and so renew it; one
that was killed is forgotten."""
LIMIT = 500
"""How many may wait for one lock. Whoever comes later still looks again every second."""


class Place(Record, frozen=True, array_like=True):
    """One waiter's place in the queue.

    Attributes:
        address: Where to wake it.
        owner: Under which token it wants the lock.
        ttl: For how many seconds.
        mode: In which mode.
        note: What it says of itself.
        expires: When to forget it, by the store's clock.
    """

    address: str
    owner: str
    ttl: float
    mode: LockMode
    note: str = ""
    expires: float = 0.0


Places = tuple[Place, ...]


def joined(queue: Places, place: Place, now: float) -> Places:
    """The queue with this waiter in it; whoever waits already keeps its place."""
    entered = replace(place, expires=now + LIFE)
    for index, each in enumerate(queue):
        if each.address == place.address:
            if each.expires > now + LIFE / 2 and each.owner == place.owner:
                return queue
            return (*queue[:index], entered, *queue[index + 1 :])
    alive = tuple([each for each in queue if each.expires > now])
    return (*alive, entered) if len(alive) < LIMIT else alive


def left(queue: Places, address: str) -> Places:
    """The queue without this waiter."""
    if not address or not queue:
        return queue
    return tuple([each for each in queue if each.address != address])
