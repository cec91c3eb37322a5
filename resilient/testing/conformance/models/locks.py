"""The reference model of locks.

Transcribes `LockStore` (`resilient/protocols/locks.py`): one holder a key until its TTL is over, a
fence that grows with every grant, and a release that may be asked again after a lost reply. That
only its owner's token frees a lock is the rule of
https://redis.io/docs/latest/develop/use/patterns/distributed-locks/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .answers import EITHER

__all__ = ["Grant", "Held", "LockModel"]


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


@dataclass
class _Holder:
    owner: str
    fence: int
    granted: float
    expires: float


@dataclass
class _Lock:
    fence: int = 0
    holder: _Holder | None = None
    again: dict[str, bool] = field(default_factory=dict)
    """What a release by somebody who does not hold the lock answers; false if not in here."""


class LockModel:
    """All locks of one backend."""

    def __init__(self) -> None:
        self.now = 0.0
        self._locks: dict[str, _Lock] = {}

    def acquire(self, key: str, *, ttl: float, owner: str) -> Grant | Held:
        """Take the lock if it is free, expired, or already this owner's.

        An owner that asks again keeps its fence; its TTL starts anew.
        """
        lock = self._lock(key)
        if lock.holder is not None and lock.holder.owner != owner:
            return self._held(lock.holder)
        if lock.holder is None:
            lock.fence += 1
            lock.holder = _Holder(owner, lock.fence, self.now, 0.0)
            if owner in lock.again:
                lock.again[owner] = EITHER
        lock.holder.expires = self.now + ttl
        return Grant(owner, lock.holder.fence, ttl)

    def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        """Start the owner's TTL anew; false, and no change, if the owner does not hold the lock."""
        if not self.is_held(key, owner=owner):
            return False
        holder = self._lock(key).holder
        assert holder is not None
        holder.expires = self.now + ttl
        return True

    def release(self, key: str, *, owner: str) -> bool:
        """Free the lock; false if the owner did not hold it.

        Asked again it answers true again, as long as nobody else has released. Whether that still
        goes for an owner who has lost a later grant of the same lock is left open.
        """
        lock = self._lock(key)
        if not self.is_held(key, owner=owner):
            return lock.again.get(owner, False)
        lock.holder, lock.again = None, {owner: True}
        return True

    def withdraw(self, key: str, *, owner: str) -> None:
        """Release what `owner` may just have been granted."""
        if self.is_held(key, owner=owner):
            lock = self._lock(key)
            lock.holder = None
            lock.again = dict.fromkeys({*lock.again, owner}, EITHER)

    def force_release(self, key: str) -> bool:
        """Free the lock whoever holds it; false if it was free."""
        lock = self._lock(key)
        if lock.holder is None:
            return False
        lock.holder, lock.again = None, dict.fromkeys(lock.again, EITHER)
        return True

    def holder(self, key: str) -> Held | None:
        """Who holds the lock now; `None` if it is free."""
        holder = self._lock(key).holder
        return None if holder is None else self._held(holder)

    def is_held(self, key: str, *, owner: str) -> bool:
        """Whether `owner` holds the lock now."""
        holder = self._lock(key).holder
        return holder is not None and holder.owner == owner

    def _lock(self, key: str) -> _Lock:
        lock = self._locks.setdefault(key, _Lock())
        if lock.holder is not None and lock.holder.expires <= self.now:
            lock.holder = None
        return lock

    def _held(self, holder: _Holder) -> Held:
        left, age = holder.expires - self.now, self.now - holder.granted
        return Held(holder.owner, holder.fence, left, age)
