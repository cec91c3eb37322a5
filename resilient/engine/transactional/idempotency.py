"""Idempotent calls over transactions: one record a key, claimed and then completed."""

from __future__ import annotations

from functools import partial
from types import CoroutineType
from typing import Any

from msgspec.structs import replace

from resilient.engine.transactional.store import (
    Record,
    Table,
    Transaction,
    TransactionalStore,
    Work,
    made,
    passed_on,
)
from resilient.engine.transactional.waiters import Queue, joined, wake_all
from resilient.protocols.idempotency import Claimed, Completed, InProgress, Mismatch, Unknown
from resilient.protocols.values import Encoded

__all__ = ["TransactionalIdempotency"]

CLAIMED, ABANDONED, COMPLETED = "claimed", "abandoned", "completed"


class Call(Record, frozen=True, array_like=True):
    """The state of an idempotent call; times are the store's, in seconds.

    Attributes:
        state: Claimed, abandoned or completed.
        owner: Who claimed it last; the owner that completed or abandoned it, then.
        fence: The fence of that claim.
        attempt: How many claims there were.
        until: When the claim runs out.
        expires: When the record does.
        takeover: Whether that claim took over from an owner whose lease had run out.
        fingerprint: Of the payload; `""` if none was given.
        outcome: Of a completed call.
        result: Of a completed call.
        queue: Who waits for the call to end.
    """

    state: str
    owner: str
    fence: int
    attempt: int
    until: float
    expires: float
    takeover: bool = False
    fingerprint: str = ""
    outcome: str = ""
    result: bytes = b""
    queue: Queue = ()


CALLS = Table("idempotency", Call)

Answer = Claimed | InProgress | Completed | Mismatch | Unknown


class TransactionalIdempotency:
    """`IdempotencyStore` (`resilient.protocols.idempotency`) over any store with transactions.

    Args:
        store: Where the calls are kept.
        reads_first: Whether a claim looks for an outcome to be replayed before it is made: a
            replay is then in the way of no writer.
    """

    def __init__(self, store: TransactionalStore, *, reads_first: bool = True) -> None:
        self._store = passed_on(store)
        self._reads_first = reads_first

    def claim(
        self,
        key: str,
        *,
        owner: str,
        lease: float,
        ttl: float,
        fingerprint: str = "",
        waiter: str | None = None,
        takeover: bool = True,
    ) -> CoroutineType[Any, Any, Answer]:
        """Claim the call if nobody has, or if the owner's lease has run out."""

        def work(tx: Transaction) -> Answer:
            return claim(tx, key, owner, lease, ttl, fingerprint, waiter, takeover)

        if self._reads_first:
            look = partial(replay, key=key, fingerprint=fingerprint)
            return self._read_or_changed(look, work)  # type: ignore[return-value]  # see `passed_on`
        return self._store.change(work)

    async def _read_or_changed(self, look: Work[Answer | None], work: Work[Answer]) -> Answer:
        answer = await self._store.read(look)
        return await self._store.change(work) if answer is None else answer

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew."""
        return await self._store.change(lambda tx: renew(tx, key, owner, lease))

    def complete(
        self, key: str, *, owner: str, result: Encoded, ttl: float, outcome: str = "value"
    ) -> CoroutineType[Any, Any, bool]:
        """Store the outcome and wake all waiters."""
        return self._store.change(lambda tx: complete(tx, key, owner, result, ttl, outcome))

    async def abandon(self, key: str, *, owner: str) -> bool:
        """Give the claim up, and wake all waiters."""
        return await self._store.change(lambda tx: abandon(tx, key, owner))

    async def expire(self, key: str, *, owner: str) -> bool:
        """End a dead owner's lease, and wake all waiters."""
        return await self._store.change(lambda tx: expire(tx, key, owner))

    async def get(self, key: str) -> InProgress | Completed | Unknown | None:
        """The record now."""
        return await self._store.read(lambda tx: get(tx, key))

    async def delete(self, key: str) -> bool:
        """Forget the key and wake all waiters."""
        return await self._store.change(lambda tx: delete(tx, key))


def replay(tx: Transaction, key: str, fingerprint: str) -> Completed | Mismatch | None:
    """The answer to a claim that nothing changes any more."""
    call = tx.get(CALLS, key)
    return None if call is None else settled(tx, call, fingerprint)


def settled(tx: Transaction, call: Call, fingerprint: str) -> Completed | Mismatch | None:
    """The same for a call that was claimed before."""
    if fingerprint and call.fingerprint and fingerprint != call.fingerprint:
        return Mismatch(call.fingerprint)
    return completed(tx, call) if call.state == COMPLETED else None


def claim(
    tx: Transaction,
    key: str,
    owner: str,
    lease: float,
    ttl: float,
    fingerprint: str,
    waiter: str | None,
    takeover: bool,
) -> Answer:
    """Claim the call, or register the waiter and tell what has become of it."""
    now = tx.now
    call = tx.get(CALLS, key)
    if call is None:
        fence, life = tx.tick(), ttl if ttl > lease else lease
        first = Call(CLAIMED, owner, fence, 1, now + lease, now + life, False, fingerprint)
        tx.put(CALLS, key, first, ttl=life)
        return made(Claimed, (fence, 1, False))
    if (answer := settled(tx, call, fingerprint)) is not None:
        return answer
    if call.state == CLAIMED:
        if call.owner == owner:
            renewed(tx, key, call, lease, max(call.expires, now + ttl))
            return Claimed(call.fence, call.attempt, call.takeover)
        if call.until > now:
            if waiter is not None:
                wait_for(tx, key, call, waiter)
            return in_progress(tx, call)
        if not takeover:
            return Unknown(call.attempt)
    claimed = Call(
        CLAIMED,
        owner,
        tx.tick(),
        attempt=call.attempt + 1,
        until=now + lease,
        expires=now + max(lease, ttl),
        takeover=call.state == CLAIMED,
        fingerprint=fingerprint or call.fingerprint,
        queue=call.queue,
    )
    put(tx, key, claimed)
    return Claimed(claimed.fence, claimed.attempt, claimed.takeover)


def wait_for(tx: Transaction, key: str, call: Call, waiter: str) -> None:
    """Register a waiter."""
    queue = joined(call.queue, waiter, tx.now)
    if queue is not call.queue:
        put(tx, key, replace(call, queue=queue))


def renew(tx: Transaction, key: str, owner: str, lease: float) -> bool:
    """Start the lease anew, if nobody else has claimed the call."""
    call = tx.get(CALLS, key)
    if call is None or call.state != CLAIMED or call.owner != owner:
        return False
    renewed(tx, key, call, lease, call.expires)
    return True


def renewed(tx: Transaction, key: str, call: Call, lease: float, expires: float) -> None:
    """Store the claim with a new lease, which the record outlives."""
    until = tx.now + lease
    put(tx, key, replace(call, until=until, expires=max(expires, until)))


def complete(
    tx: Transaction, key: str, owner: str, result: bytes, ttl: float, outcome: str
) -> bool:
    """Store the outcome, if nobody else has claimed the call."""
    call = tx.get(CALLS, key)
    if call is None or call.owner != owner or call.state == ABANDONED:
        return False
    if call.state == COMPLETED:
        return True
    if call.queue:
        wake_all(tx, call.queue)
    expires = tx.now + ttl
    done = replace(
        call, state=COMPLETED, outcome=outcome, result=result, until=0.0, expires=expires, queue=()
    )
    tx.put(CALLS, key, done, ttl=ttl)
    return True


def abandon(tx: Transaction, key: str, owner: str) -> bool:
    """Let the next caller claim the call at once."""
    call = tx.get(CALLS, key)
    if call is None or call.owner != owner or call.state == COMPLETED:
        return False
    if call.state == CLAIMED:
        wake_all(tx, call.queue)
        put(tx, key, replace(call, state=ABANDONED, until=0.0, queue=()))
    return True


def expire(tx: Transaction, key: str, owner: str) -> bool:
    """Let the lease of a claim run out now."""
    call = tx.get(CALLS, key)
    if call is None or call.owner != owner or call.state != CLAIMED:
        return False
    if call.until > tx.now:
        wake_all(tx, call.queue)
        put(tx, key, replace(call, until=tx.now, queue=()))
    return True


def get(tx: Transaction, key: str) -> InProgress | Completed | Unknown | None:
    """The record, where it binds a caller."""
    call = tx.get(CALLS, key)
    if call is None or call.state == ABANDONED:
        return None
    if call.state == COMPLETED:
        return completed(tx, call)
    return in_progress(tx, call) if call.until > tx.now else Unknown(call.attempt)


def delete(tx: Transaction, key: str) -> bool:
    """Forget the key."""
    call = tx.get(CALLS, key)
    if call is None:
        return False
    wake_all(tx, call.queue)
    tx.delete(CALLS, key)
    return True


def put(tx: Transaction, key: str, call: Call) -> None:
    """Store the record until its time is over."""
    tx.put(CALLS, key, call, ttl=call.expires - tx.now)


def in_progress(tx: Transaction, call: Call) -> InProgress:
    """A claimed call as others see it."""
    return InProgress(call.owner, call.until - tx.now, call.attempt)


def completed(tx: Transaction, call: Call) -> Completed:
    """A completed call as everybody sees it."""
    return Completed(call.outcome, Encoded(call.result), call.expires - tx.now, call.attempt)
