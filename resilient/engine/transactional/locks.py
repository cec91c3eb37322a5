"""Locks over transactions: one record a key, which outlives the release for a while."""

from __future__ import annotations

from collections.abc import Sequence
from types import CoroutineType
from typing import Any

from msgspec.structs import replace

from resilient.engine.guard import Guard, NotHeld
from resilient.engine.identity import new_owner
from resilient.engine.transactional.lock_queue import Place, Places, joined, left
from resilient.engine.transactional.store import (
    Record,
    Table,
    Transaction,
    TransactionalStore,
    Work,
    passed_on,
)
from resilient.errors import CapabilityMissing
from resilient.protocols.locks import HANDED_OVER, LOCK, LOSSES_KNOWN, Grant, Held, LockMode

__all__ = ["TransactionalLocks"]

MEMORY = 3600.0
"""Seconds for which a free lock is remembered, so that a release sent again is answered again."""
SHARED_MEMORY = 60.0
"""The same where several may hold it, and each of their releases is remembered."""


class Holder(Record, frozen=True, array_like=True):
    """Who holds a lock.

    Attributes:
        owner: Its token.
        fence: The fence of that grant.
        since: When it was granted.
        until: When the grant expires.
        shared: Whether others may hold it too.
        note: What it said of itself.
    """

    owner: str
    fence: int
    since: float
    until: float
    shared: bool = False
    note: str = ""


class Released(Record, frozen=True, array_like=True):
    """Who has released a lock, and when."""

    owner: str
    when: float


class Lock(Record, frozen=True, array_like=True):
    """The state of a lock.

    Attributes:
        fence: The newest one.
        holders: Who holds it, some of them perhaps no longer.
        released: Who released it last, where several may hold it.
        queue: Who waits for it, the longest waiting first.
        lost: The fences of the holds that nobody shared and that were lost; whatever is not larger
            than the first counts as lost, too.
    """

    fence: int
    holders: tuple[Holder, ...] = ()
    released: tuple[Released, ...] = ()
    queue: Places = ()
    lost: tuple[int, ...] = ()


FREE = Lock(0)
LOCKS = Table("lock", Lock, clustered=True)
TABLES = {
    "lock": LOCKS,
    "semaphore": Table("semaphore", Lock, clustered=True),
    "rwlock": Table("rwlock", Lock, clustered=True),
}


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
        place = Place(waiter or "", new_owner() if owner is None else owner, ttl, mode, note)
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
    lock = live(tx, key, place.mode)
    if not (lock.holders or lock.queue):  # as it mostly is
        return taken(tx, key, lock, place)
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
    lock = live(tx, key, mode)
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


# --- the record


def live(tx: Transaction, key: str, mode: LockMode) -> Lock:
    """The lock without those whose time is over."""
    lock = tx.get(TABLES[mode.family], key)
    if lock is None:
        return FREE
    now = tx.now
    for each in lock.holders:
        if each.until <= now:
            return ended(lock, [e for e in lock.holders if e.until <= now])
    return lock


def put(tx: Transaction, key: str, mode: LockMode, lock: Lock) -> None:
    """Store the lock, until the last holder's time is over and it may be forgotten."""
    now = last = tx.now
    for each in lock.holders:
        if each.until > last:
            last = each.until
    tx.put(TABLES[mode.family], key, lock, ttl=last - now + MEMORY)


def held_by(lock: Lock, owner: str) -> Holder | None:
    """The owner's hold."""
    for each in lock.holders:
        if each.owner == owner:
            return each
    return None


def others(lock: Lock, owner: str) -> tuple[Holder, ...]:
    """Who holds the lock beside its holder `owner`."""
    holders = lock.holders
    return () if len(holders) == 1 else tuple([each for each in holders if each.owner != owner])


def ended(lock: Lock, gone: Sequence[Holder]) -> Lock:
    """The lock without holders who have lost it."""
    lost = tuple([each.fence for each in gone if not each.shared])
    return replace(
        lock,
        holders=tuple([each for each in lock.holders if each not in gone]),
        lost=(lock.lost + lost)[-LOSSES_KNOWN:],
    )


def was_given_back(lock: Lock, fence: int) -> bool:
    """Whether a hold that nobody shared, and that is over, was ended by its owner."""
    known = bool(lock.lost) and lock.lost[0] < fence <= lock.fence
    return known and fence not in lock.lost


def has_room(lock: Lock, mode: LockMode) -> bool:
    """Whether one more may hold the lock."""
    if not lock.holders:
        return True
    if not mode.shared or not lock.holders[0].shared:
        return False
    return not mode.limit or len(lock.holders) < mode.limit


def granted(tx: Transaction, lock: Lock, place: Place, ttl: float) -> Lock:
    """The lock with one more holder, under a new fence."""
    owner, now, fence = place.owner, tx.now, tx.tick()
    if fence <= lock.fence:
        fence = lock.fence + 1
    new = Holder(owner, fence, now, now + ttl, place.mode.shared, place.note)
    released = lock.released
    for each in released:
        if each.owner == owner:  # it comes back, and must be able to lose this grant
            released = tuple([each for each in released if each.owner != owner])
            break
    lost = lock.lost or (fence - 1,)  # of what was before nothing is known
    return Lock(fence, (*lock.holders, new), released, lock.queue, lost)


def handed_over(tx: Transaction, lock: Lock, before: str = "") -> Lock:
    """The lock after it was given to those who wait, as long as there is room for the first.

    Args:
        tx: The transaction.
        lock: The lock.
        before: Stop at this waiter, who asks by itself.
    """
    while lock.queue:
        place = lock.queue[0]
        if place.address == before:
            break
        is_late = place.expires <= tx.now
        if not is_late and not has_room(lock, place.mode):
            break
        lock = replace(lock, queue=lock.queue[1:])
        if not is_late and tx.is_there(place.address):
            lock = granted(tx, lock, place, min(place.ttl, HANDED_OVER))
            tx.wake(place.address, str(lock.fence))
    return lock


def woken(tx: Transaction, lock: Lock) -> None:
    """Let the longest waiting one try: whoever is faster has the lock."""
    for place in lock.queue:
        if place.expires > tx.now and tx.is_there(place.address):
            tx.wake(place.address)
            return


def busy(tx: Transaction, lock: Lock) -> Held:
    """The lock as others see it."""
    if not lock.holders:  # others have waited longer; they are about to take it
        return Held("", lock.fence, HANDED_OVER, 0.0, "", len(lock.queue), 0)
    first = min(lock.holders, key=lambda each: each.until)
    return Held(
        first.owner,
        lock.fence,
        first.until - tx.now,
        tx.now - first.since,
        first.note,
        len(lock.queue),
        len(lock.holders),
    )
