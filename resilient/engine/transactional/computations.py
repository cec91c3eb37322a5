"""Who computes a missing value: a lease a key, which whatever changes the entry takes away."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from resilient.engine.transactional.cached_values import (
    CHANNEL,
    STEP,
    TAGS,
    VALUES,
    Life,
    Step,
    Tag,
    copy,
    entry,
    is_current,
    keep_tags,
    keys,
    outdated,
    store,
)
from resilient.engine.transactional.store import Record, Table, Transaction
from resilient.engine.transactional.waiters import Queue, joined, wake_all
from resilient.protocols.cache import Busy, Entry, Leased

__all__ = [
    "COMPUTATIONS",
    "Computation",
    "abandon",
    "clear",
    "delete",
    "expire",
    "fetch",
    "fill",
    "put",
    "renew",
    "stop_computations",
]

MEMORY = 60.0
"""Seconds for which an abandoned lease is remembered, so that it can be abandoned again."""


class Computation(Record, frozen=True, array_like=True):
    """The lease of whoever computes a value.

    Attributes:
        owner: The holder's token.
        fence: When the lease was given; the birth of the value.
        until: When it runs out; 0 once it was abandoned.
        queue: Who waits for the value.
    """

    owner: str
    fence: int
    until: float
    queue: Queue = ()


COMPUTATIONS = Table("computation", Computation)


def fetch(
    tx: Transaction,
    key: str,
    owner: str,
    lease: float,
    tags: Sequence[str],
    waiter: str | None,
    keep: float,
) -> Entry | Leased | Busy:
    """The value, or a lease, or a place among those who wait."""
    stale = copy(tx, key)
    if stale is not None and stale.fresh > 0:
        return stale
    now = tx.now
    running = tx.get(COMPUTATIONS, key)
    queue: Queue = () if running is None else running.queue
    if running is not None and running.until > now and not outdated(tx, tags, running.fence):
        if running.owner != owner:
            if waiter is not None and (longer := joined(queue, waiter, now)) is not queue:
                tx.put(COMPUTATIONS, key, replace(running, queue=longer), ttl=running.until - now)
            return Busy(running.owner, running.until - now, stale)
        fence = running.fence
    else:
        for name in tags:
            if tx.get(TAGS, name) is None:
                tx.put(TAGS, name, Tag(tx.tick(), now + keep), ttl=keep)
        fence = tx.tick()  # after its tags: the value is newer than they are
        if stale is None:
            # A value that a tag has made a miss stays one.
            tx.delete(VALUES, key)
        elif (value := tx.get(VALUES, key)) is not None and value.owner:
            # Whoever computed it has nothing here now.
            tx.put(VALUES, key, replace(value, owner=""), ttl=value.expires - now)
    tx.put(COMPUTATIONS, key, Computation(owner, fence, now + lease, queue), ttl=lease)
    return Leased(fence, stale)


def renew(tx: Transaction, key: str, owner: str, lease: float) -> bool:
    """Start the lease anew, if the owner holds it."""
    running = held(tx, key, owner)
    if running is None:
        return False
    tx.put(COMPUTATIONS, key, replace(running, until=tx.now + lease), ttl=lease)
    return True


def held(tx: Transaction, key: str, owner: str) -> Computation | None:
    """The lease, if the owner holds it."""
    running = tx.get(COMPUTATIONS, key)
    if running is None or running.owner != owner or running.until <= tx.now:
        return None
    return running


def fill(
    tx: Transaction,
    key: str,
    data: bytes,
    owner: str,
    life: Life,
    tags: Sequence[str],
    keep: float,
) -> bool:
    """Store what was computed, unless it is stale already."""
    running = held(tx, key, owner)
    if running is None:
        value = tx.get(VALUES, key)
        return value is not None and value.owner == owner
    keep_tags(tx, tags, running.fence, life.kept, keep)
    current = is_current(tx, tags, running.fence)
    if current:
        store(tx, key, data, running.fence, tags, owner, life)
    end(tx, key)
    return current


def end(tx: Transaction, key: str) -> None:
    """End whatever lease there is, and wake all who wait."""
    running = tx.get(COMPUTATIONS, key)
    if running is not None:
        wake_all(tx, running.queue)
        tx.delete(COMPUTATIONS, key)


def abandon(tx: Transaction, key: str, owner: str) -> bool:
    """End the owner's lease without a value."""
    running = tx.get(COMPUTATIONS, key)
    if running is None or running.owner != owner:
        return False
    if running.until > 0:
        wake_all(tx, running.queue)
        tx.put(COMPUTATIONS, key, Computation(owner, running.fence, 0.0), ttl=MEMORY)
    return True


# --- by hand


def expire(tx: Transaction, key: str) -> bool:
    """Serve a value no more, but keep it."""
    existed = entry(tx, key) is not None
    value = tx.get(VALUES, key)
    if value is not None:
        left = value.expires - tx.now
        stale = max(value.stale, left)
        # What has not been fresh for a while stays as old as it is.
        lag = max(value.stale + value.lag - stale, 0.0)
        tx.put(VALUES, key, replace(value, stale=stale, lag=lag, owner=""), ttl=left)
    end(tx, key)
    tx.publish(CHANNEL, key)
    return existed


def put(
    tx: Transaction, key: str, data: bytes, life: Life, tags: Sequence[str], keep: float
) -> None:
    """Store a value by hand; what replaces a value removes it, and that is announced."""
    if tx.get(VALUES, key) is not None:
        tx.publish(CHANNEL, key)
    born = tx.tick()
    keep_tags(tx, tags, born, life.kept, keep)
    store(tx, key, data, born, tags, "", life)
    end(tx, key)


def delete(tx: Transaction, key: str) -> bool:
    """Remove a value, and have a computation in flight come to nothing."""
    existed = entry(tx, key) is not None
    tx.delete(VALUES, key)
    end(tx, key)
    tx.publish(CHANNEL, key)
    return existed


def clear(tx: Transaction, after: str | None) -> Step:
    """Remove the next entries."""
    step = keys(tx, after)
    for key, _ in list(tx.scan(VALUES, after=after, limit=STEP)):
        tx.delete(VALUES, key)
        tx.publish(CHANNEL, key)
    return step


def stop_computations(tx: Transaction, after: str | None) -> Step:
    """End the next leases."""
    running = [key for key, _ in tx.scan(COMPUTATIONS, after=after, limit=STEP)]
    for key in running:
        end(tx, key)
    return Step(running, running[-1] if len(running) == STEP else None)
