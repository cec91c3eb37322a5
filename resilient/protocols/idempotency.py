"""What a backend promises about idempotent calls."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from resilient.protocols.values import Encoded

__all__ = ["Claimed", "Completed", "IdempotencyStore", "InProgress", "Mismatch", "Unknown"]


class Claimed(NamedTuple):
    """The call is the caller's to make.

    Attributes:
        fence: Grows with every claim of the key.
        attempt: 1 for the first claim; more if earlier owners died or gave up.
        takeover: Whether the previous owner's lease ran out, so that it may have done its work.
    """

    fence: int
    attempt: int
    takeover: bool


class InProgress(NamedTuple):
    """The call is being made by somebody else.

    Attributes:
        owner: The owner's token.
        ttl: Seconds until the owner's lease runs out.
        attempt: The owner's attempt.
    """

    owner: str
    ttl: float
    attempt: int


class Completed(NamedTuple):
    """The call has been made.

    Attributes:
        outcome: `"value"`, `"error"` (a replayed exception) or `"unstored"` (it took effect, but
            its result had no stored form).
        result: The value or the exception; for `"unstored"` the reason, as an encoded string.
        ttl: Seconds for which it is kept.
        attempt: The attempt that completed.
    """

    outcome: str
    result: Encoded
    ttl: float
    attempt: int


class Unknown(NamedTuple):
    """Its owner died while it made the call: whether that took effect cannot be known.

    Attributes:
        attempt: The attempt of the dead owner.
    """

    attempt: int


class Mismatch(NamedTuple):
    """The key belongs to a call with another payload.

    Attributes:
        fingerprint: The fingerprint under which the key was first claimed.
    """

    fingerprint: str


class IdempotencyStore(Protocol):
    """One fenced record a key: claimed, then completed. Every method is one atomic operation.

    Writes by an owner are refused once its claim is taken over. Times are seconds.
    """

    async def claim(
        self,
        key: str,
        *,
        owner: str,
        lease: float,
        ttl: float,
        fingerprint: str = "",
        waiter: str | None = None,
        takeover: bool = True,
    ) -> Claimed | InProgress | Completed | Mismatch | Unknown:
        """Claim the call if nobody has, or if the owner's lease has run out.

        A fingerprint that differs from the record's is a mismatch at any stage, also when the
        lease has run out; an empty one, given or stored, matches all. The same owner asking again
        keeps its fence and attempt; its lease starts anew.

        Args:
            key: The idempotency key.
            owner: The caller's token.
            lease: Seconds for which the claim lives without being renewed.
            ttl: Seconds for which the record is kept; it always outlives the lease.
            fingerprint: A digest of the payload.
            waiter: The address to wake when the call ends, registered when it is in progress.
            takeover: Whether to take over from an owner whose lease has run out. If not, the
                answer is `Unknown`, and nothing changes, until the record expires or is deleted.
        """
        ...

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the claim is no longer the owner's."""
        ...

    async def complete(
        self, key: str, *, owner: str, result: Encoded, ttl: float, outcome: str = "value"
    ) -> bool:
        """Store the outcome and wake all waiters; false, and no change, for a stale owner.

        Asked again by the owner that completed it, it answers true.
        """
        ...

    async def abandon(self, key: str, *, owner: str) -> bool:
        """Give the claim up so that the next caller claims it at once, and wake all waiters.

        The record stays (fence, attempt and fingerprint live on); false for a stale owner.
        """
        ...

    async def expire(self, key: str, *, owner: str) -> bool:
        """End the lease of an owner that is known to be dead, and wake all waiters.

        As if it had run out: the next claim is a takeover. False, and no change, where the claim is
        not that owner's.
        """
        ...

    async def get(self, key: str) -> InProgress | Completed | Unknown | None:
        """The record now; `None` if there is none, or its claim was given up."""
        ...

    async def delete(self, key: str) -> bool:
        """Forget the key and wake all waiters; false if there was no record."""
        ...
