"""Idempotent calls on PostgreSQL: one row a key (`sql/idempotency.sql`)."""

from __future__ import annotations

from resilient.backends.postgres.commands import Call, Function, first, same
from resilient.backends.postgres.keys import Keys
from resilient.backends.postgres.texts import Row, microseconds
from resilient.engine.plan import Ask, Transport
from resilient.protocols.idempotency import Claimed, Completed, InProgress, Mismatch, Unknown
from resilient.protocols.values import Encoded

__all__ = ["PostgresIdempotency"]

CLAIM = Function("call_claim", read=same, look="call_replay")
RENEW = Function("call_renew", read=bool)
COMPLETE = Function("call_complete", read=bool)
ABANDON = Function("call_abandon", read=bool)
EXPIRE = Function("call_expire", read=bool)
GET = Function("call_get", read=first, many=True)
DELETE = Function("call_delete", read=bool)


class PostgresIdempotency:
    """One fenced record a key (`resilient.protocols.idempotency.IdempotencyStore`)."""

    def __init__(self, transport: Transport, keys: Keys) -> None:
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
        call = Call(
            CLAIM,
            *(self._keys.name(key), owner, microseconds(lease, "lease")),
            *(microseconds(ttl, "ttl"), fingerprint, waiter or "", takeover),
        )
        row = await Ask(self._transport, call)
        if row[0] in ("claimed", "taken over"):
            return Claimed(row[2], row[3], row[0] == "taken over")
        return Mismatch(row[1]) if row[0] == "mismatch" else _record(row)

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the claim is no longer the owner's."""
        lives = microseconds(lease, "lease")
        call = Call(RENEW, self._keys.name(key), owner, lives)
        return bool(await Ask(self._transport, call))

    async def complete(
        self, key: str, *, owner: str, result: Encoded, ttl: float, outcome: str = "value"
    ) -> bool:
        """Store the outcome and wake all waiters; false for a stale owner."""
        lives = microseconds(ttl, "ttl")
        call = Call(COMPLETE, self._keys.name(key), owner, result, lives, outcome)
        return bool(await Ask(self._transport, call))

    async def abandon(self, key: str, *, owner: str) -> bool:
        """Give the claim up and wake all waiters; false for a stale owner."""
        call = Call(ABANDON, self._keys.name(key), owner)
        return bool(await Ask(self._transport, call))

    async def expire(self, key: str, *, owner: str) -> bool:
        """End a dead owner's lease and wake all waiters; false if the claim is not its."""
        call = Call(EXPIRE, self._keys.name(key), owner)
        return bool(await Ask(self._transport, call))

    async def get(self, key: str) -> InProgress | Completed | Unknown | None:
        """The record now; `None` if there is none, or its claim was given up."""
        call = Call(GET, self._keys.name(key))
        row = await Ask(self._transport, call)
        return None if row is None else _record(row)

    async def delete(self, key: str) -> bool:
        """Forget the key and wake all waiters; false if there was no record."""
        call = Call(DELETE, self._keys.name(key))
        return bool(await Ask(self._transport, call))


def _record(row: Row) -> InProgress | Completed | Unknown:
    answer, detail, left, attempt, result = row
    if answer == "completed":
        return Completed(detail, Encoded(result), left / 1e6, attempt)
    if answer == "busy":
        return InProgress(detail, left / 1e6, attempt)
    return Unknown(attempt)
