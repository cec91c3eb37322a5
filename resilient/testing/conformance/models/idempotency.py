"""The reference model of idempotent calls.

Transcribes `IdempotencyStore` (`resilient/protocols/idempotency.py`). That a key used again with
another payload is an error at any stage is the IETF draft's rule ("The Idempotency-Key HTTP Header
Field", section 2.4 and 2.7); the lease and its takeover are this library's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .answers import EITHER

__all__ = ["Claimed", "Completed", "IdempotencyModel", "InProgress", "Mismatch", "Unknown"]


class Claimed(NamedTuple):
    """The call is the caller's to make."""

    fence: int
    attempt: int
    takeover: bool


class InProgress(NamedTuple):
    """The call is being made by somebody else."""

    owner: str
    ttl: float
    attempt: int


class Completed(NamedTuple):
    """The call has been made."""

    outcome: str
    result: bytes
    ttl: float
    attempt: int


class Unknown(NamedTuple):
    """Its owner died while it made the call."""

    attempt: int


class Mismatch(NamedTuple):
    """The key belongs to a call with another payload."""

    fingerprint: str


@dataclass
class _Record:
    owner: str
    fence: int
    attempt: int
    takeover: bool
    fingerprint: str
    lease: float
    expires: float
    state: str = "claimed"
    """`claimed`, `abandoned` or `completed`."""
    outcome: str = ""
    result: bytes = b""


class IdempotencyModel:
    """All records of one backend."""

    def __init__(self) -> None:
        self.now = 0.0
        self._records: dict[str, _Record] = {}
        self._fences = 0

    def claim(
        self,
        key: str,
        *,
        owner: str,
        lease: float,
        ttl: float,
        fingerprint: str,
        takeover: bool = True,
    ) -> Claimed | InProgress | Completed | Mismatch | Unknown:
        """Claim the call if nobody has, or if the owner's lease has run out.

        A fingerprint that differs from the record's is a mismatch at any stage; an empty one
        matches all. The same owner asking again keeps its fence and attempt; its lease starts anew.
        """
        record = self._record(key)
        if record is not None and not self._matches(record, fingerprint):
            return Mismatch(record.fingerprint)
        if record is not None and record.state == "completed":
            return self._completed(record)
        if record is not None and record.state == "claimed":
            if record.owner == owner and record.lease > self.now:
                record.lease = self.now + lease
                record.expires = max(record.expires, record.lease)
                return Claimed(record.fence, record.attempt, record.takeover)
            if record.lease > self.now:
                return InProgress(record.owner, record.lease - self.now, record.attempt)
            if not takeover:
                return Unknown(record.attempt)
        return self._take(key, record, owner, lease, ttl, fingerprint)

    def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the claim is no longer the owner's.

        Whether one that has run out, and that nobody has taken over, can be renewed is left open.
        """
        record = self._record(key)
        if record is None or record.state != "claimed" or record.owner != owner:
            return False
        if record.lease <= self.now:
            return EITHER
        record.lease = self.now + lease
        record.expires = max(record.expires, record.lease)
        return True

    def complete(self, key: str, *, owner: str, result: bytes, ttl: float, outcome: str) -> bool:
        """Store the outcome; false, and no change, for a stale owner.

        Refused once the claim is taken over, not before. Asked again by the owner that completed
        it, it answers true.
        """
        record = self._record(key)
        if record is None or record.owner != owner or record.state == "abandoned":
            return False
        if record.state == "claimed":
            record.state, record.outcome, record.result = "completed", outcome, result
            record.expires = self.now + ttl
        return True

    def abandon(self, key: str, *, owner: str) -> bool:
        """Give the claim up so that the next caller claims it at once; the record stays.

        False for a stale owner. What it answers when asked again is left open.
        """
        record = self._record(key)
        if record is None or record.owner != owner or record.state == "completed":
            return False
        if record.state == "abandoned" or record.lease <= self.now:
            return EITHER
        record.state = "abandoned"
        return True

    def expire(self, key: str, *, owner: str) -> bool:
        """End the lease of an owner that is known to be dead, as if it had run out."""
        record = self._record(key)
        if record is None or record.owner != owner or record.state != "claimed":
            return False
        record.lease = min(record.lease, self.now)
        return True

    def get(self, key: str) -> InProgress | Completed | Unknown | None:
        """The record now; `None` if there is none, or its claim was given up."""
        record = self._record(key)
        if record is None or record.state == "abandoned":
            return None
        if record.state == "completed":
            return self._completed(record)
        if record.lease <= self.now:
            return Unknown(record.attempt)
        return InProgress(record.owner, record.lease - self.now, record.attempt)

    def delete(self, key: str) -> bool:
        """Forget the key; false if there was no record."""
        existed = self._record(key) is not None
        self._records.pop(key, None)
        return existed

    def expired(self, key: str) -> str | None:
        """Whose claim has run out without being taken over: some answers to them are open."""
        record = self._record(key)
        ran_out = record is not None and record.state == "claimed" and record.lease <= self.now
        return record.owner if record is not None and ran_out else None

    def fingerprint(self, key: str) -> str | None:
        """The fingerprint of the record; `None` if there is none."""
        record = self._record(key)
        return None if record is None else record.fingerprint

    def _take(
        self,
        key: str,
        old: _Record | None,
        owner: str,
        lease: float,
        ttl: float,
        fingerprint: str,
    ) -> Claimed:
        self._fences += 1
        record = self._records[key] = _Record(
            owner=owner,
            fence=self._fences,
            attempt=1 if old is None else old.attempt + 1,
            takeover=old is not None and old.state == "claimed",
            fingerprint=fingerprint if old is None else old.fingerprint,
            lease=self.now + lease,
            expires=self.now + max(ttl, lease),
        )
        return Claimed(record.fence, record.attempt, record.takeover)

    def _record(self, key: str) -> _Record | None:
        record = self._records.get(key)
        if record is not None and record.expires <= self.now:
            del self._records[key]
            return None
        return record

    def _matches(self, record: _Record, fingerprint: str) -> bool:
        return "" in (fingerprint, record.fingerprint) or fingerprint == record.fingerprint

    def _completed(self, record: _Record) -> Completed:
        left = record.expires - self.now
        return Completed(record.outcome, record.result, left, record.attempt)
