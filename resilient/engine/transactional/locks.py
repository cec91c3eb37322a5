"""Locks over transactions: one record a key, which outlives the release for a while."""

from __future__ import annotations

from typing import Any

from resilient.engine.guard import Guard, NotHeld
from resilient.engine.identity import new_owner
from resilient.engine.transactional.store import (
    Record,
    Table,
    Transaction,
    TransactionalStore,
    Work,
)
from resilient.engine.transactional.waiters import Queue, joined, left, was_woken, woken_first
from resilient.protocols.locks import Grant, Held

__all__ = ["TransactionalLocks"]

MEMORY = 3600.0
"""Seconds for which a free lock is remembered, so that a release sent again is answered again."""


class Lock(Record, frozen=True, array_like=True):
    """The state of a lock.

    Attributes:
        owner: Its holder; `""` when it was released.
        fence: The fence of that grant.
        since: When it was granted.
        until: When the grant expires; 0 when it was released.
        released: Who released it last.
        queue: Who waits for it.
    """

    owner: str
    fence: int
    since: float
    until: float
    released: str = ""
    queue: Queue = ()


LOCKS = Table("lock", Lock)


class TransactionalLocks:
    """`LockStore` (`resilient.protocols.locks`) over any store with transactions."""

    def __init__(self, store: TransactionalStore) -> None:
        self._store = store

    async def acquire(
        self, key: str, *, ttl: float, owner: str | None = None, waiter: str | None = None
    ) -> Grant | Held:
        """Take the lock if it is free, expired, or already this owner's."""
        if owner is None:
            owner = new_owner()
        return await self._store.change(lambda tx: acquire(tx, key, ttl, owner, waiter))

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        """Start the owner's TTL anew."""
        return await self._store.change(lambda tx: renew(tx, key, owner, ttl))

    async def release(self, key: str, *, owner: str) -> bool:
        """Free the lock and wake one waiter."""
        return await self._store.change(lambda tx: release(tx, key, owner))

    async def withdraw(self, key: str, *, owner: str, waiter: str) -> None:
        """Stop waiting, and leave nothing behind."""
        await self._store.change(lambda tx: withdraw(tx, key, owner, waiter))

    async def force_release(self, key: str) -> bool:
        """Free the lock whoever holds it."""
        return await self._store.change(lambda tx: force_release(tx, key))

    async def holder(self, key: str) -> Held | None:
        """Who holds the lock now."""
        return await self._store.read(lambda tx: holder(tx, key))

    async def is_held(self, key: str, *, owner: str) -> bool:
        """Whether `owner` holds the lock now."""
        held = await self.holder(key)
        return held is not None and held.owner == owner

    def guard(self, key: str, *, owner: str) -> Guard:
        """Have a transaction on this store fail unless `owner` holds the lock."""

        def wrap(work: Work[Any]) -> Work[Any]:
            def guarded(tx: Transaction) -> Any:
                held = holder(tx, key)
                if held is None or held.owner != owner:
                    raise NotHeld(owner)
                return work(tx)

            return guarded

        return Guard(self._store, wrap)


def acquire(tx: Transaction, key: str, ttl: float, owner: str, waiter: str | None) -> Grant | Held:
    """Grant the lock, or register the waiter and tell who holds it."""
    now = tx.now
    lock = tx.get(LOCKS, key)
    if lock is None:
        granted = Lock(owner, tx.tick(), now, now + ttl)
    elif lock.until <= now:
        queue = left(lock.queue, waiter) if waiter is not None else lock.queue
        # An owner that comes back after a release must be able to lose this grant.
        released = "" if lock.released == owner else lock.released
        granted = Lock(owner, tx.tick(), now, now + ttl, released, queue)
    elif lock.owner == owner:
        granted = Lock(owner, lock.fence, lock.since, now + ttl, lock.released, lock.queue)
    else:
        if waiter is not None:
            wait_for(tx, key, lock, waiter)
        return Held(lock.owner, lock.fence, lock.until - now, now - lock.since)
    tx.put(LOCKS, key, granted, ttl=ttl + MEMORY)
    return Grant(owner, granted.fence, ttl)


def wait_for(tx: Transaction, key: str, lock: Lock, waiter: str) -> None:
    """Register a waiter."""
    queue = joined(lock.queue, waiter, tx.now)
    if queue is not lock.queue:
        waited = Lock(lock.owner, lock.fence, lock.since, lock.until, lock.released, queue)
        tx.put(LOCKS, key, waited, ttl=lock.until - tx.now + MEMORY)


def renew(tx: Transaction, key: str, owner: str, ttl: float) -> bool:
    """Start the TTL anew, if the owner holds the lock."""
    lock = tx.get(LOCKS, key)
    if lock is None or lock.owner != owner or lock.until <= tx.now:
        return False
    renewed = Lock(owner, lock.fence, lock.since, tx.now + ttl, lock.released, lock.queue)
    tx.put(LOCKS, key, renewed, ttl=ttl + MEMORY)
    return True


def release(tx: Transaction, key: str, owner: str) -> bool:
    """Free the lock if the owner holds it; true as well if it was this owner who freed it last."""
    lock = tx.get(LOCKS, key)
    if lock is None:
        return False
    if lock.owner != owner or lock.until <= tx.now:
        return lock.released == owner
    free(tx, key, lock, released=owner)
    return True


def free(tx: Transaction, key: str, lock: Lock, *, released: str) -> None:
    """Free a lock, and wake whoever has waited longest."""
    queue = woken_first(tx, lock.queue) if lock.queue else ()
    tx.put(LOCKS, key, Lock("", lock.fence, lock.since, 0.0, released, queue), ttl=MEMORY)


def withdraw(tx: Transaction, key: str, owner: str, waiter: str) -> None:
    """Forget a waiter, what it was granted, and that it was woken."""
    lock = tx.get(LOCKS, key)
    if lock is None:
        return
    woken = was_woken(lock.queue, waiter)
    rest = left(lock.queue, waiter)
    remaining = Lock(lock.owner, lock.fence, lock.since, lock.until, lock.released, rest)
    if lock.owner == owner and lock.until > tx.now:
        free(tx, key, remaining, released=owner)
    elif woken and lock.until <= tx.now:
        free(tx, key, remaining, released=lock.released)
    elif len(rest) != len(lock.queue):
        tx.put(LOCKS, key, remaining, ttl=max(0.0, lock.until - tx.now) + MEMORY)


def force_release(tx: Transaction, key: str) -> bool:
    """Free the lock whoever holds it."""
    lock = tx.get(LOCKS, key)
    if lock is None or lock.until <= tx.now:
        return False
    free(tx, key, lock, released="")
    return True


def holder(tx: Transaction, key: str) -> Held | None:
    """Who holds the lock, if anybody."""
    lock = tx.get(LOCKS, key)
    if lock is None or lock.until <= tx.now:
        return None
    return Held(lock.owner, lock.fence, lock.until - tx.now, tx.now - lock.since)
