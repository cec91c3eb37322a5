"""Locks on Redis.

A lock is a hash (owner, fence, time of the grant) that expires. Beside it lies its memory, which
outlives it: the last fence, who released it last, and who was woken last; and the queue of those
who wait for it.
"""

from __future__ import annotations

from typing import Any

from resilient.backends.redis.commands import Script, milliseconds, text
from resilient.backends.redis.keys import Keys
from resilient.engine.guard import Guard
from resilient.engine.identity import new_owner
from resilient.engine.plan import Ask, Transport
from resilient.protocols.locks import Grant, Held

__all__ = ["RedisLocks"]

ACQUIRE = Script("locks/acquire")
RENEW = Script("locks/renew")
RELEASE = Script("locks/release")
WITHDRAW = Script("locks/withdraw")
FORCE_RELEASE = Script("locks/force_release")
HOLDER = Script("locks/holder")

MEMORY_LIVES = 7 * 86_400_000
"""Milliseconds for which a lock's fence and last releaser are remembered after its last use."""


class RedisLocks:
    """Leases on keys (`resilient.protocols.locks.LockStore`)."""

    def __init__(self, transport: Transport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

    async def acquire(
        self, key: str, *, ttl: float, owner: str | None = None, waiter: str | None = None
    ) -> Grant | Held:
        """Take the lock if it is free, expired, or already this owner's."""
        owner = new_owner() if owner is None else owner
        lives = milliseconds(ttl, "ttl")
        answer = await Ask(
            self._transport, ACQUIRE(self._names(key), owner, lives, waiter or "", MEMORY_LIVES)
        )
        if answer[0]:
            return Grant(owner, int(answer[1]), ttl)
        return _held(answer[1:])

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        """Start the owner's TTL anew; false if the owner does not hold the lock."""
        names = self._keys.names("lock", key)
        answer = await Ask(self._transport, RENEW(names, owner, milliseconds(ttl, "ttl")))
        return bool(answer)

    async def release(self, key: str, *, owner: str) -> bool:
        """Free the lock and wake one waiter; false if the owner did not hold it."""
        return bool(await Ask(self._transport, RELEASE(self._names(key), owner, MEMORY_LIVES)))

    async def withdraw(self, key: str, *, owner: str, waiter: str) -> None:
        """Stop waiting, and undo what may just have been granted."""
        await Ask(self._transport, WITHDRAW(self._names(key), owner, waiter, MEMORY_LIVES))

    async def force_release(self, key: str) -> bool:
        """Free the lock whoever holds it; false if it was free."""
        return bool(await Ask(self._transport, FORCE_RELEASE(self._names(key), MEMORY_LIVES)))

    async def holder(self, key: str) -> Held | None:
        """Who holds the lock now; `None` if it is free."""
        answer = await Ask(self._transport, HOLDER(self._keys.names("lock", key)))
        return None if answer is None else _held(answer)

    async def is_held(self, key: str, *, owner: str) -> bool:
        """Whether `owner` holds the lock now."""
        held = await self.holder(key)
        return held is not None and held.owner == owner

    def guard(self, key: str, *, owner: str) -> Guard:
        """Have a script on this server run only while `owner` holds the lock."""
        (lock,) = self._keys.names("lock", key)
        return Guard(self._transport, lambda command: command.guarded(lock, owner))

    def _names(self, key: str) -> list[str]:
        return self._keys.names("lock", key, "memory", "waiters")


def _held(fields: list[Any]) -> Held:
    owner, fence, ttl, age = fields
    return Held(text(owner), int(fence), ttl / 1000, age / 1_000_000)
