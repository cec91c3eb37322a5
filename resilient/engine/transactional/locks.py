"""Locks over transactions: one record a key, which outlives the release for a while."""

from __future__ import annotations

from collections.abc import Sequence
from types import CoroutineType
from typing import Any

from msgspec.structs import replace

from resilient.engine import identity
from resilient.engine.guard import Guard, NotHeld
from resilient.engine.transactional.lock_queue import Place, joined, left
from resilient.engine.transactional.lock_records import (
    FREE,
    MEMORY,
    SHARED_MEMORY,
    TABLES,
    Lock,
    Released,
    busy,
    ended,
    granted,
    handed_over,
    has_room,
    held_by,
    live,
    others,
    put,
    was_given_back,
    without_late,
    woken,
)
from resilient.engine.transactional.store import (
    Transaction,
    TransactionalStore,
    Work,
    made,
    passed_on,
)
from resilient.errors import CapabilityMissing
from resilient.protocols.locks import LOCK, Grant, Held, LockMode

__all__ = ["TransactionalLocks"]


class TransactionalLocks:
    """`LockStore` (`resilient.protocols.locks`) over any store with transactions."""

    def __init__(self, store: TransactionalStore) -> None:
        self._store = passed_on(store)

    def acquire(
        self,
        key: str,
        *,
        ttl: float,
        owner: str | None = None,
        waiter: str | None = None,
        mode: LockMode = LOCK,
        fair: bool = True,
        note: str = "",
        replicas: int = 0,
    ) -> CoroutineType[Any, Any, Grant | Held]:
        """Take the lock if it is free, expired, or already this owner's."""
        if replicas:
            raise CapabilityMissing(
                f"replicas={replicas}: this backend has no replicas to wait for"
            )
        place = Place(
            waiter or "", identity.new_owner() if owner is None else owner, ttl, mode, note
        )
        return self._store.change(lambda tx: acquire(tx, key, place, fair))

    async def acquire_all(
        self, keys: Sequence[str], *, ttl: float, owner: str, note: str = ""
    ) -> list[Grant] | Held | None:
        """Take all of these locks, or none of them."""
        place = Place("", owner, ttl, LOCK, note)
        return await self._store.change(lambda tx: acquire_all(tx, keys, place))

    async def renew(self, key: str, *, owner: str, ttl: float, mode: LockMode = LOCK) -> bool:
        """Start the owner's TTL anew."""
        return await self._store.change(lambda tx: renew(tx, key, owner, ttl, mode))

    def release(
        self,
        key: str,
        *,
        owner: str,
        fence: int = 0,
        mode: LockMode = LOCK,
        fair: bool = True,
    ) -> CoroutineType[Any, Any, bool]:
        """Free the lock, and hand it over or wake one waiter."""
        return self._store.change(lambda tx: release(tx, key, owner, fence, mode, fair))

    async def transfer(self, key: str, *, owner: str, to: str, ttl: float) -> Grant | None:
        """Make another owner the holder, under a new fence."""
        return await self._store.change(lambda tx: transfer(tx, key, owner, to, ttl))

    async def withdraw(self, key: str, *, owner: str, waiter: str, mode: LockMode = LOCK) -> None:
        """Stop waiting, and leave nothing behind."""
        await self._store.change(lambda tx: withdraw(tx, key, owner, waiter, mode))

    async def force_release(self, key: str, *, mode: LockMode = LOCK) -> bool:
        """Free the lock whoever holds it."""
        return await self._store.change(lambda tx: force_release(tx, key, mode))

    async def holder(self, key: str, *, mode: LockMode = LOCK) -> Held | None:
        """Who holds the lock now."""
        return await self._store.read(lambda tx: holder(tx, key, mode))

    async def is_held(self, key: str, *, owner: str, mode: LockMode = LOCK) -> bool:
        """Whether `owner` holds the lock now."""
        found = await self._store.read(lambda tx: live(tx, key, mode))
        return any(each.owner == owner for each in found.holders)

    def guard(self, key: str, *, owner: str, mode: LockMode = LOCK) -> Guard:
        """Have a transaction on this store fail unless `owner` holds the lock."""

        def wrap(work: Work[Any]) -> Work[Any]:
            def guarded(tx: Transaction) -> Any:
                if held_by(live(tx, key, mode), owner) is None:
                    raise NotHeld(owner)
                return work(tx)

            return guarded

        return Guard(self._store, wrap)


# --- operations


def acquire(tx: Transaction, key: str, place: Place, fair: bool) -> Grant | Held:
    """Grant the lock, or register the waiter and tell who holds it."""
    table, ttl = TABLES[place.mode.family], place.ttl
    lock = tx.get(table, key) or FREE
    if not (lock.holders or lock.queue):  # as it mostly is: `live`, `taken` and `put` in one
        lock = granted(tx, lock, place, ttl)
        tx.put(table, key, lock, ttl=ttl + MEMORY)
        return made(Grant, (place.owner, lock.fence, ttl))
    lock = without_late(tx, lock)
    mine = held_by(lock, place.owner)
    if mine is not None:
        kept = replace(mine, until=tx.now + place.ttl)
        put(tx, key, place.mode, replace(lock, holders=(*others(lock, place.owner), kept)))
        return Grant(place.owner, mine.fence, place.ttl)
    if fair and lock.queue:
        # What became free without a release is theirs who have waited longer.
        lock = handed_over(tx, lock, before=place.address)
    first = not (fair and lock.queue) or lock.queue[0].address == place.address
    if first and has_room(lock, place.mode):
        return taken(tx, key, replace(lock, queue=left(lock.queue, place.address)), place)
    if place.address:
        lock = replace(lock, queue=joined(lock.queue, place, tx.now))
    put(tx, key, place.mode, lock)
    return busy(tx, lock)


def taken(tx: Transaction, key: str, lock: Lock, place: Place) -> Grant:
    """Grant a lock that has room."""
    lock = granted(tx, lock, place, place.ttl)
    put(tx, key, place.mode, lock)
    return Grant(place.owner, lock.fence, place.ttl)


def acquire_all(tx: Transaction, keys: Sequence[str], place: Place) -> list[Grant] | Held:
    """Grant all of the locks, or tell who holds one that cannot be had."""
    for key in keys:
        lock = live(tx, key, LOCK)
        if held_by(lock, place.owner) is not None:
            continue
        if lock.queue and not lock.holders:
            # It is theirs who have waited longer, if any of them is still there.
            lock = handed_over(tx, lock)
            put(tx, key, LOCK, lock)
        if lock.holders:
            return busy(tx, lock)
    grants = [acquire(tx, key, place, fair=True) for key in keys]
    return [grant for grant in grants if isinstance(grant, Grant)]


def renew(tx: Transaction, key: str, owner: str, ttl: float, mode: LockMode) -> bool:
    """Start the TTL anew, if the owner holds the lock."""
    lock = live(tx, key, mode)
    mine = held_by(lock, owner)
    if mine is None:
        return False
    kept = replace(mine, until=tx.now + ttl)
    put(tx, key, mode, replace(lock, holders=(*others(lock, owner), kept)))
    return True


def release(tx: Transaction, key: str, owner: str, fence: int, mode: LockMode, fair: bool) -> bool:
    """Free the lock if the owner holds it; true as well if that has been done."""
    table = TABLES[mode.family]
    lock = tx.get(table, key) or FREE
    if len(lock.holders) == 1 and not (lock.queue or mode.shared):
        mine = lock.holders[0]
        if mine.owner == owner and mine.until > tx.now:  # as it mostly is: all of `freed` in one
            free = Lock(lock.fence, (), lock.released, (), lock.lost)
            tx.put(table, key, free, ttl=MEMORY)
            return True
    lock = without_late(tx, lock)
    if held_by(lock, owner) is None:
        if mode.shared:
            return any(each.owner == owner for each in lock.released)
        return was_given_back(lock, fence)
    freed(tx, key, lock, owner, mode, fair)
    return True


def freed(
    tx: Transaction, key: str, lock: Lock, owner: str, mode: LockMode, fair: bool = True
) -> None:
    """End an owner's hold, and let the next one have it."""
    released: tuple[Released, ...] = lock.released
    if mode.shared:
        recent = [each for each in released if each.when > tx.now - SHARED_MEMORY]
        released = (*recent, Released(owner, tx.now))
    lock = Lock(lock.fence, others(lock, owner), released, lock.queue, lock.lost)
    if lock.queue:
        if fair:
            lock = handed_over(tx, lock)
        else:
            woken(tx, lock)
    put(tx, key, mode, lock)


def transfer(tx: Transaction, key: str, owner: str, to: str, ttl: float) -> Grant | None:
    """Make another owner the holder."""
    lock = live(tx, key, LOCK)
    theirs = held_by(lock, to)
    if theirs is not None:  # the reply to the first request may have been lost
        return Grant(to, theirs.fence, theirs.until - tx.now)
    mine = held_by(lock, owner)
    if mine is None:
        return None
    place = Place("", to, ttl, LOCK, mine.note)
    lock = granted(tx, ended(lock, [mine]), place, ttl)
    put(tx, key, LOCK, lock)
    return Grant(to, lock.fence, ttl)


def withdraw(tx: Transaction, key: str, owner: str, waiter: str, mode: LockMode) -> None:
    """Forget a waiter, and hand on what it was granted."""
    lock = live(tx, key, mode)
    queue = left(lock.queue, waiter)
    if held_by(lock, owner) is not None:
        freed(tx, key, replace(lock, queue=queue), owner, mode)
    elif len(queue) != len(lock.queue):
        # It may have stood before others who could hold the lock together with those who do, or
        # have been woken for a lock that is free.
        put(tx, key, mode, handed_over(tx, replace(lock, queue=queue)))


def force_release(tx: Transaction, key: str, mode: LockMode) -> bool:
    """Free the lock whoever holds it."""
    lock = live(tx, key, mode)
    if not lock.holders:
        return False
    lock = replace(ended(lock, lock.holders), released=())
    put(tx, key, mode, handed_over(tx, lock))
    return True


def holder(tx: Transaction, key: str, mode: LockMode) -> Held | None:
    """Who holds the lock, if anybody."""
    lock = live(tx, key, mode)
    return busy(tx, lock) if lock.holders else None
