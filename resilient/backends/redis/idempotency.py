"""Idempotent calls on Redis: one hash a key, claimed, then completed or abandoned."""

from __future__ import annotations

from typing import Any

from resilient.backends.redis.commands import Script, milliseconds, text
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.server import Server
from resilient.engine.plan import Ask
from resilient.protocols.idempotency import Claimed, Completed, InProgress, Mismatch, Unknown
from resilient.protocols.values import Encoded

__all__ = ["RedisIdempotency"]

CLAIM = Script("idempotency/claim")
RENEW = Script("idempotency/renew")
COMPLETE = Script("idempotency/complete")
ABANDON = Script("idempotency/abandon")
EXPIRE = Script("idempotency/expire")
GET = Script("idempotency/get")
DELETE = Script("idempotency/delete")

MEMORY_LIVES = 7 * 86_400_000
"""Milliseconds for which the fence of a forgotten record is remembered."""


class RedisIdempotency:
    """One fenced record a key (`resilient.protocols.idempotency.IdempotencyStore`)."""

    def __init__(self, transport: Server, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

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
        """Claim the call if nobody has, or if the owner's lease has run out."""
        names = self._names(key)
        call = CLAIM(
            names,
            owner,
            milliseconds(lease, "lease"),
            milliseconds(ttl, "ttl"),
            fingerprint,
            self._transport.address(waiter, names[0]),
            "1" if takeover else "",
        )
        outcome, *rest = await Ask(self._transport, call)
        if outcome == b"claimed":
            fence, attempt, taken = map(int, rest)
            return Claimed(fence, attempt, bool(taken))
        if outcome == b"mismatch":
            return Mismatch(text(rest[0]))
        return _record(outcome, rest)

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the claim is no longer the owner's."""
        call = RENEW(self._keys.names("idempotency", key), owner, milliseconds(lease, "lease"))
        return bool(await Ask(self._transport, call))

    async def complete(
        self, key: str, *, owner: str, result: Encoded, ttl: float, outcome: str = "value"
    ) -> bool:
        """Store the outcome and wake all waiters; false for a stale owner."""
        call = COMPLETE(self._names(key), owner, outcome, result, milliseconds(ttl, "ttl"))
        return bool(await Ask(self._transport, call))

    async def abandon(self, key: str, *, owner: str) -> bool:
        """Give the claim up and wake all waiters; false for a stale owner."""
        return bool(await Ask(self._transport, ABANDON(self._names(key), owner)))

    async def expire(self, key: str, *, owner: str) -> bool:
        """End a dead owner's lease and wake all waiters; false if the claim is not its."""
        return bool(await Ask(self._transport, EXPIRE(self._names(key), owner)))

    async def get(self, key: str) -> InProgress | Completed | Unknown | None:
        """The record now; `None` if there is none, or its claim was given up."""
        answer = await Ask(self._transport, GET(self._keys.names("idempotency", key)))
        return None if answer is None else _record(answer[0], answer[1:])

    async def delete(self, key: str) -> bool:
        """Forget the key and wake all waiters; false if there was no record."""
        return bool(await Ask(self._transport, DELETE(self._names(key), MEMORY_LIVES)))

    def _names(self, key: str) -> list[str]:
        return self._keys.names("idempotency", key, "waiters")


def _record(outcome: bytes, fields: list[Any]) -> InProgress | Completed | Unknown:
    if outcome == b"unknown":
        return Unknown(int(fields[0]))
    if outcome == b"busy":
        owner, left, attempt = fields
        return InProgress(text(owner), left / 1e6, int(attempt))
    kind, result, ttl, attempt = fields
    return Completed(text(kind), Encoded(result), ttl / 1000, int(attempt))
