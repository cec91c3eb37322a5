"""The reference model of cached values.

Transcribes `CacheStore` (`resilient/protocols/cache.py`). The lease on a missing value, taken by an
invalidation so that a slow computation cannot store what is out of date, is that of R. Nishtala et
al., "Scaling Memcache at Facebook", NSDI 2013, section 3.2.1. Globs are the shell's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeAlias

from .answers import EITHER

__all__ = ["Busy", "CacheModel", "Entry", "Leased"]

Keys: TypeAlias = set[str]


class Entry(NamedTuple):
    """A stored value."""

    value: bytes
    ttl: float
    fresh: float
    kept: float
    tags: tuple[str, ...]


class Leased(NamedTuple):
    """There is no fresh value, and the caller is the one who computes it."""

    fence: int
    stale: Entry | None


class Busy(NamedTuple):
    """There is no fresh value, and somebody else is computing it."""

    owner: str
    ttl: float
    stale: Entry | None


@dataclass
class _Stored:
    value: bytes
    fresh: float
    expires: float
    kept: float
    born: int
    tags: tuple[str, ...]


@dataclass
class _Lease:
    owner: str
    fence: int
    expires: float
    born: int


@dataclass
class _Slot:
    stored: _Stored | None = None
    lease: _Lease | None = None
    fence: int = 0
    filled_by: str | None = None
    abandoned_by: str | None = None


class CacheModel:
    """All entries of one backend."""

    def __init__(self, max_ttl: float) -> None:
        self.now = 0.0
        self._max_ttl = max_ttl
        self._slots: dict[str, _Slot] = {}
        self._invalidated: dict[str, int] = {}
        self._events = 0
        """The order of leases, writes and invalidations: what times in µs stand for."""

    def get(self, key: str) -> Entry | None:
        """The live value; `None` if there is none."""
        found = self.copy(key)
        return found if found is not None and found.ttl > 0 else None

    def copy(self, key: str) -> Entry | None:
        """What is kept, however old; `None` if there is nothing, or a tag has made it a miss."""
        stored = self._slot(key).stored
        if stored is None or self._is_invalid(stored):
            return None
        ttl, fresh = stored.expires - self.now, stored.fresh - self.now
        return Entry(stored.value, ttl, fresh, stored.kept - self.now, stored.tags)

    def fetch(
        self, key: str, *, owner: str, lease: float, tags: Sequence[str]
    ) -> Entry | Leased | Busy:
        """The live value, or the right to compute it, or who is computing it.

        Asking again under one token gets the same lease. A lease that one of the tags has outdated
        is nobody's: its value would be a miss.
        """
        slot = self._slot(key)
        if slot.lease is not None and self._is_outdated(tags, slot.lease.born):
            slot.lease = None
        copy = self.copy(key)
        if copy is not None and copy.fresh > 0:
            return copy
        if slot.lease is not None and slot.lease.owner != owner:
            return Busy(slot.lease.owner, slot.lease.expires - self.now, copy)
        if slot.lease is None:
            slot.fence += 1
            slot.lease = _Lease(owner, slot.fence, 0.0, self._event())
            slot.filled_by = slot.abandoned_by = None
        slot.lease.expires = self.now + lease
        return Leased(slot.lease.fence, copy)

    def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the owner does not hold it."""
        held = self._slot(key).lease
        if held is None or held.owner != owner:
            return False
        held.expires = self.now + lease
        return True

    def fill(
        self,
        key: str,
        value: bytes,
        *,
        owner: str,
        ttl: float,
        tags: Sequence[str],
        fresh: float | None = None,
        stale: float = 0.0,
    ) -> bool:
        """Store the computed value and end the lease; false, and no change, if it was lost.

        The entry's time is that of the lease: an invalidation of a tag since then makes a miss,
        whatever this answers. Asked again by the owner who stored, it answers true.
        """
        slot = self._slot(key)
        if slot.lease is None or slot.lease.owner != owner:
            return EITHER if slot.filled_by == owner else False
        born, slot.lease = slot.lease.born, None
        slot.stored = self._stored(value, ttl, fresh, stale, born, tags)
        slot.filled_by = owner
        return EITHER if self._is_invalid(slot.stored) else True

    def abandon(self, key: str, *, owner: str) -> bool:
        """End the lease without a value; what it answers when asked again is left open."""
        slot = self._slot(key)
        if slot.lease is None or slot.lease.owner != owner:
            return EITHER if slot.abandoned_by == owner else False
        slot.lease, slot.abandoned_by = None, owner
        return True

    def set(
        self,
        key: str,
        value: bytes,
        *,
        ttl: float | None,
        tags: Sequence[str],
        fresh: float | None = None,
        stale: float = 0.0,
    ) -> None:
        """Store a value whoever computes; a computation in flight will not overwrite it."""
        slot = self._slot(key)
        lives = self._max_ttl if ttl is None else ttl
        slot.stored = self._stored(value, lives, fresh, stale, self._event(), tags)
        slot.lease = None

    def delete(self, key: str) -> bool:
        """Remove the value and take the lease of a computation in flight; false if no value."""
        slot = self._slot(key)
        stored, slot.stored, slot.lease = slot.stored, None, None
        return self._was_live(stored)

    def expire(self, key: str) -> bool:
        """Serve the value no more, but keep it; take the lease of a computation in flight."""
        slot = self._slot(key)
        slot.lease = None
        was = self._was_live(slot.stored)
        if slot.stored is not None:
            slot.stored.fresh = min(slot.stored.fresh, self.now)
            slot.stored.expires = min(slot.stored.expires, self.now)
        return was

    def _was_live(self, stored: _Stored | None) -> bool:
        if stored is None or stored.expires <= self.now:
            return False
        return EITHER if self._is_invalid(stored) else True

    def _stored(
        self,
        value: bytes,
        ttl: float,
        fresh: float | None,
        stale: float,
        born: int,
        tags: Sequence[str],
    ) -> _Stored:
        expires = self.now + ttl
        until = expires if fresh is None else min(self.now + fresh, expires)
        return _Stored(value, until, expires, expires + stale, born, tuple(tags))

    def has(self, key: str) -> bool:
        """Whether there is a live value."""
        return self.get(key) is not None

    def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Make every entry that has one of these tags a miss."""
        for tag in tags:
            self._invalidated[tag] = self._event()

    def keys(self, pattern: str) -> tuple[Keys, Keys]:
        """The keys that match a glob: those that must be there, and those that may.

        An entry that a tag has made a miss is not there, but may still be stored.
        """
        slots = [(key, self._slot(key).stored) for key in self._slots]
        stored = {key for key, each in slots if each is not None}
        may = {key for key in stored if fnmatchcase(key, pattern)}
        return {key for key in may if self.has(key)}, may

    def clear(self) -> tuple[int, int]:
        """Remove every entry; at least and at most how many there were."""
        must, may = self.keys("*")
        for slot in self._slots.values():
            slot.stored = slot.lease = None
        return len(must), len(may)

    def leased(self) -> list[tuple[str, str]]:
        """The keys whose value is being computed, and by whom."""
        slots = [(key, self._slot(key)) for key in self._slots]
        return [(key, slot.lease.owner) for key, slot in slots if slot.lease is not None]

    def _slot(self, key: str) -> _Slot:
        slot = self._slots.setdefault(key, _Slot())
        if slot.stored is not None and slot.stored.kept <= self.now:
            slot.stored = None
        if slot.lease is not None and slot.lease.expires <= self.now:
            slot.lease = None
        return slot

    def _is_invalid(self, stored: _Stored) -> bool:
        return self._is_outdated(stored.tags, stored.born)

    def _is_outdated(self, tags: Sequence[str], born: int) -> bool:
        return any(self._invalidated.get(tag, 0) > born for tag in tags)

    def _event(self) -> int:
        self._events += 1
        return self._events
