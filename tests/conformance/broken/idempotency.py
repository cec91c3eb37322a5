"""Idempotency records that are broken on purpose."""

from __future__ import annotations

from typing import Any

from resilient.protocols.idempotency import Claimed, Completed, InProgress, Mismatch, Unknown
from tests.conformance.broken.base import NEVER, Broken

Claim = Claimed | InProgress | Completed | Mismatch | Unknown


class Idempotency(Broken):
    capability = "idempotency"


class CompleteWithoutOwnerCheck(Idempotency):
    """A late owner overwrites the outcome of the one that took over."""

    async def complete(self, key: str, *, owner: str, **options: Any) -> bool:
        record = await self.store.get(key)
        owner = record.owner if isinstance(record, InProgress) else owner
        return bool(await self.store.complete(key, owner=owner, **options))


class FingerprintIsIgnored(Idempotency):
    """Any payload gets the stored result."""

    async def claim(self, key: str, *, fingerprint: str = "", **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, **options)
        return answer


class FingerprintIsIgnoredLater(Idempotency):
    """A claim that has run out is taken over by another payload."""

    async def claim(self, key: str, *, fingerprint: str = "", **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, fingerprint=fingerprint, **options)
        if isinstance(answer, Mismatch) and not isinstance(
            await self.store.get(key), InProgress | Completed
        ):
            answer = await self.store.claim(key, **options)
        return answer


class TakeoverIsNotTold(Idempotency):
    """A takeover looks like a first claim."""

    async def claim(self, key: str, **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, **options)
        return answer._replace(takeover=False) if isinstance(answer, Claimed) else answer


class ClaimsNeverRunOut(Idempotency):
    """The lease is ignored."""

    async def claim(self, key: str, *, lease: float, **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, lease=lease * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER) if isinstance(answer, InProgress) else answer


class AbandonedIsForgotten(Idempotency):
    """A call that was given up loses its attempts and its fingerprint."""

    async def abandon(self, key: str, *, owner: str) -> bool:
        return bool(await self.store.abandon(key, owner=owner) and await self.store.delete(key))


class ClaimIsNotRepeatable(Idempotency):
    """An owner that asks again is told that the call is in progress."""

    async def claim(self, key: str, *, owner: str, **options: Any) -> Claim:
        record = await self.store.get(key)
        if isinstance(record, InProgress) and record.owner == owner:
            return record
        answer: Claim = await self.store.claim(key, owner=owner, **options)
        return answer


class FirstOutcomeIsOverwritten(Idempotency):
    """A completion that is sent again by somebody else replaces the first."""

    async def complete(self, key: str, *, owner: str, **options: Any) -> bool:
        if isinstance(await self.store.get(key), Completed):
            return True
        return bool(await self.store.complete(key, owner=owner, **options))


class UnknownIsTakenOver(Idempotency):
    """Who asked to be told of a dead owner makes the call again."""

    async def claim(self, key: str, *, takeover: bool = True, **options: Any) -> Claim:
        answer: Claim = await self.store.claim(key, **options)
        return answer


class TheDeadAreForgotten(Idempotency):
    """The end of a dead owner's lease looks as if it had given the call up."""

    async def expire(self, key: str, *, owner: str) -> bool:
        return bool(await self.store.abandon(key, owner=owner))
