"""The reference model of locks.

Transcribes `LockStore` (`resilient/protocols/locks.py`): holders of one key until their TTLs are
over, one or several by the mode in which they hold it, a fence that grows with every grant, and a
release that may be asked again after a lost reply, when others have come and gone. That only its
owner's token frees a lock is the rule of
https://redis.io/docs/latest/develop/use/patterns/distributed-locks/; that a writer stands
alone and readers together, that of Courtois, Heymans and Parnas, "Concurrent control with readers
and writers" (1971). Nobody waits here: the queue has tests of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .answers import ANYTHING, EITHER

__all__ = ["ALONE", "Grant", "Held", "LockModel", "Mode"]


class Mode(NamedTuple):
    """How a lock is held."""

    family: str
    shared: bool
    limit: int


ALONE = Mode("lock", False, 1)

KNOWN = 15
"""How many losses later a store still knows which hold was released."""
REMEMBERED = 600.0
"""For how many seconds it does so."""


class Grant(NamedTuple):
    """The lock is the caller's."""

    owner: str
    fence: int
    ttl: float


class Held(NamedTuple):
    """The lock is somebody else's."""

    owner: str
    fence: int
    ttl: float
    age: float
    note: str
    waiters: int
    holders: int


@dataclass
class _Holder:
    owner: str
    fence: int
    granted: float
    expires: float
    shared: bool
    note: str


@dataclass
class _Lock:
    fence: int = 0
    holders: dict[str, _Holder] = field(default_factory=dict)
    grants: dict[str, int] = field(default_factory=dict)
    """The fence of each owner's latest grant."""
    again: dict[str, bool] = field(default_factory=dict)
    """What a release of a hold that was shared, and is over, answers; false if not in here."""
    released: dict[int, float] = field(default_factory=dict)
    """Of the holds that nobody shared, by their fences: when their owners ended them."""
    open: set[int] = field(default_factory=set)
    """Those of which no answer is promised, or not by their fences."""
    lost: int = 0
    """How many of them were lost."""

    def end(self, owner: str) -> None:
        """Somebody's hold is over, and was not given back."""
        self.lost += not self.holders.pop(owner).shared


class LockModel:
    """All locks of one backend."""

    def __init__(self) -> None:
        self.now = 0.0
        self._locks: dict[tuple[str, str], _Lock] = {}

    def acquire(
        self, key: str, *, ttl: float, owner: str, mode: Mode = ALONE, note: str = ""
    ) -> Grant | Held:
        """Take the lock if there is room, or it is already this owner's.

        An owner that asks again keeps its fence; its TTL starts anew.
        """
        lock = self._lock(key, mode)
        mine = lock.holders.get(owner)
        if mine is None:
            if not self._has_room(lock, mode):
                return self._held(lock)
            lock.fence += 1
            mine = _Holder(owner, lock.fence, self.now, 0.0, mode.shared, note)
            lock.holders[owner] = mine
            lock.grants[owner] = lock.fence
            if mode.shared:
                lock.open.add(lock.fence)
            if owner in lock.again:
                lock.again[owner] = EITHER
        mine.expires = self.now + ttl
        return Grant(owner, mine.fence, ttl)

    def acquire_all(self, keys: Sequence[str], *, ttl: float, owner: str) -> bool:
        """Take all of the locks or none; whether they are the caller's."""
        for key in keys:
            if set(self._lock(key, ALONE).holders) - {owner}:
                return False
        for key in keys:
            self.acquire(key, ttl=ttl, owner=owner)
        return True

    def renew(self, key: str, *, owner: str, ttl: float, mode: Mode = ALONE) -> bool:
        """Start the owner's TTL anew; false, and no change, if the owner does not hold the lock."""
        mine = self._lock(key, mode).holders.get(owner)
        if mine is None:
            return False
        mine.expires = self.now + ttl
        return True

    def release(self, key: str, *, owner: str, mode: Mode = ALONE) -> bool:
        """Free the lock; false if the owner did not hold it.

        Asked again, with the fence of the owner's latest grant, it answers true again, and false
        again of a hold that was lost. For how long true is answered is left open, where several
        may hold it: so is whether that still goes for an owner who has lost a later grant.
        """
        lock = self._lock(key, mode)
        mine = lock.holders.pop(owner, None)
        if mine is None:
            return self._again(lock, owner, mode)
        if mode.shared != mine.shared:  # not as it was granted
            lock.open.add(mine.fence)
        elif not mode.shared:
            lock.released[mine.fence] = self.now
        lock.again = {**dict.fromkeys(lock.again, EITHER), owner: EITHER}
        return True

    def latest(self, key: str, *, owner: str, mode: Mode = ALONE) -> int:
        """The fence of an owner's latest grant; 0 if there was none."""
        return self._lock(key, mode).grants.get(owner, 0)

    def _again(self, lock: _Lock, owner: str, mode: Mode) -> bool:
        fence = lock.grants.get(owner, 0)
        if mode.shared:
            return lock.again.get(owner, False)
        if fence in lock.open:
            return EITHER
        released = lock.released.get(fence)
        if released is None:
            return False
        return EITHER if lock.lost >= KNOWN or self.now - released > REMEMBERED else True

    def transfer(self, key: str, *, owner: str, to: str, ttl: float) -> Grant | None:
        """Make another owner the holder, under a new fence; `None` if `owner` does not hold it."""
        lock = self._lock(key, ALONE)
        theirs = lock.holders.get(to)
        if theirs is not None:
            return Grant(to, theirs.fence, theirs.expires - self.now)
        mine = lock.holders.get(owner)
        if mine is None:
            return None
        lock.end(owner)
        lock.fence += 1
        lock.holders[to] = _Holder(to, lock.fence, self.now, self.now + ttl, False, mine.note)
        lock.grants[to] = lock.fence
        return Grant(to, lock.fence, ttl)

    def withdraw(self, key: str, *, owner: str, mode: Mode = ALONE) -> None:
        """Release what `owner` may just have been granted."""
        lock = self._lock(key, mode)
        if (mine := lock.holders.pop(owner, None)) is not None:
            lock.open.add(mine.fence)
            lock.again[owner] = EITHER

    def force_release(self, key: str, *, mode: Mode = ALONE) -> bool:
        """Free the lock whoever holds it; false if it was free."""
        lock = self._lock(key, mode)
        if not lock.holders:
            return False
        for owner in list(lock.holders):
            lock.end(owner)
        lock.again = dict.fromkeys(lock.again, EITHER)
        return True

    def holder(self, key: str, *, mode: Mode = ALONE) -> Held | None:
        """Who holds the lock now; `None` if it is free."""
        lock = self._lock(key, mode)
        return self._held(lock) if lock.holders else None

    def is_held(self, key: str, *, owner: str, mode: Mode = ALONE) -> bool:
        """Whether `owner` holds the lock now."""
        return owner in self._lock(key, mode).holders

    def _lock(self, key: str, mode: Mode) -> _Lock:
        lock = self._locks.setdefault((mode.family, key), _Lock())
        for owner, holder in list(lock.holders.items()):
            if holder.expires <= self.now:
                lock.end(owner)
        return lock

    @staticmethod
    def _has_room(lock: _Lock, mode: Mode) -> bool:
        if not lock.holders:
            return True
        together = mode.shared and all(holder.shared for holder in lock.holders.values())
        return together and (mode.limit == 0 or len(lock.holders) < mode.limit)

    def _held(self, lock: _Lock) -> Held:
        first = min(lock.holders.values(), key=lambda holder: holder.expires)
        left, age = first.expires - self.now, self.now - first.granted
        if len(lock.holders) > 1:  # moments decide whose hold ends first, and this clock has none
            some: Any = ANYTHING
            return Held(some, lock.fence, left, some, some, 0, len(lock.holders))
        return Held(first.owner, lock.fence, left, age, first.note, 0, len(lock.holders))
