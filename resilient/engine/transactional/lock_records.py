"""What is kept of a lock: who holds it, who waits for it, and what is done to the record."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from resilient.engine.transactional.lock_queue import Place, Places
from resilient.engine.transactional.store import Record, Table, Transaction
from resilient.protocols.locks import HANDED_OVER, LOSSES_KNOWN, Held, LockMode

__all__ = [
    "FREE",
    "LOCKS",
    "MEMORY",
    "SHARED_MEMORY",
    "TABLES",
    "Holder",
    "Lock",
    "Released",
    "busy",
    "ended",
    "granted",
    "handed_over",
    "has_room",
    "held_by",
    "live",
    "others",
    "put",
    "was_given_back",
    "without_late",
    "woken",
]

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


def live(tx: Transaction, key: str, mode: LockMode) -> Lock:
    """The lock without those whose time is over."""
    return without_late(tx, tx.get(TABLES[mode.family], key) or FREE)


def without_late(tx: Transaction, lock: Lock) -> Lock:
    """The same of a lock as it is stored."""
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
