"""Locks on PostgreSQL: one row a lock, with its holders and those who wait (`sql/locks.sql`)."""

from __future__ import annotations

from collections.abc import Sequence

from resilient.backends.postgres.commands import Call, First, Function, first, same
from resilient.backends.postgres.keys import Keys
from resilient.backends.postgres.texts import Row, microseconds
from resilient.engine import chance
from resilient.engine.guard import Guard
from resilient.engine.identity import new_owner
from resilient.engine.plan import Ask, Transport
from resilient.errors import CapabilityMissing
from resilient.protocols.locks import LOCK, Grant, Held, LockMode

__all__ = ["PostgresLocks"]

QUEUE = Function("lock_acquire", read=same)
TAKE = Function("lock_acquire", read=same, first=First("lock_take", 5))
"""Takes a lock that is free by a plain statement, which costs two thirds of a function."""
TAKE_AND_SWEEP = Function("lock_acquire_and_sweep", read=same)
SWEPT = 0.004
"""How many of those that take a lock look for what has expired, by chance."""
TAKE_ALL = Function("lock_acquire_all", read=same, many=True)
RENEW = Function("lock_renew", read=bool)
LEAVE = Function("lock_release", read=bool)
FREE = Function("lock_release", read=bool, first=First("lock_free", 2))
"""Releases one that nobody waits for, in the same way."""
TRANSFER = Function("lock_transfer", read=same)
WITHDRAW = Function("lock_withdraw", read=bool)
FORCE_RELEASE = Function("lock_force_release", read=bool)
HOLDER = Function("lock_holder", read=first, many=True)
IS_HELD = Function("lock_is_held", read=bool)


class PostgresLocks:
    """Leases on keys (`resilient.protocols.locks.LockStore`)."""

    def __init__(self, transport: Transport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

    async def acquire(
        self,
        key: str,
        *,
        ttl: float,
        owner: str | None = None,
        waiter: str | None = None,
        mode: LockMode = LOCK,
        fair: bool = True,
        note: str = "",
        replicas: int = 0,
    ) -> Grant | Held:
        """Take the lock if it is free, expired, or already this owner's."""
        if replicas:
            raise CapabilityMissing(
                f"replicas={replicas}: on PostgreSQL the server's synchronous_commit and "
                "synchronous_standby_names say which replicas must have a grant"
            )
        owner = new_owner() if owner is None else owner
        function = QUEUE if waiter or mode.shared else TAKE
        call = Call(
            TAKE_AND_SWEEP if chance.random() < SWEPT else function,
            *(self._keys.name(key, mode.family), owner, microseconds(ttl, "ttl")),
            *(mode.shared, note, waiter or "", mode.limit, fair),
        )
        row = await Ask(self._transport, call)
        if type(row) is int:
            return Grant(owner, row, ttl)
        return Grant(owner, row[2], ttl) if row[0] else _held(row)

    async def acquire_all(
        self, keys: Sequence[str], *, ttl: float, owner: str, note: str = ""
    ) -> list[Grant] | Held | None:
        """Take all of these locks, or none of them."""
        names = [self._keys.name(key, LOCK.family) for key in keys]
        lives = microseconds(ttl, "ttl")
        call = Call(TAKE_ALL, names, owner, lives, note)
        rows = await Ask(self._transport, call)
        if rows and not rows[0][0]:
            return _held(rows[0])
        return [Grant(owner, row[2], ttl) for row in rows]

    async def renew(self, key: str, *, owner: str, ttl: float, mode: LockMode = LOCK) -> bool:
        """Start the owner's TTL anew; false if the owner does not hold the lock."""
        name = self._keys.name(key, mode.family)
        call = Call(RENEW, name, owner, microseconds(ttl, "ttl"))
        return bool(await Ask(self._transport, call))

    async def release(
        self,
        key: str,
        *,
        owner: str,
        fence: int = 0,
        mode: LockMode = LOCK,
        fair: bool = True,
    ) -> bool:
        """Free the lock, and hand it over or wake one waiter."""
        name = self._keys.name(key, mode.family)
        call = Call(LEAVE if mode.shared else FREE, name, owner, fence, mode.shared, fair)
        return bool(await Ask(self._transport, call))

    async def transfer(self, key: str, *, owner: str, to: str, ttl: float) -> Grant | None:
        """Make another owner the holder, under a new fence."""
        name = self._keys.name(key, LOCK.family)
        call = Call(TRANSFER, name, owner, to, microseconds(ttl, "ttl"))
        fence, left = await Ask(self._transport, call)
        return None if fence is None else Grant(to, fence, left / 1e6)

    async def withdraw(self, key: str, *, owner: str, waiter: str, mode: LockMode = LOCK) -> None:
        """Stop waiting, and hand on what may just have been granted."""
        name = self._keys.name(key, mode.family)
        await Ask(self._transport, Call(WITHDRAW, name, owner, waiter, mode.shared))

    async def force_release(self, key: str, *, mode: LockMode = LOCK) -> bool:
        """Free the lock whoever holds it; false if it was free."""
        call = Call(FORCE_RELEASE, self._keys.name(key, mode.family))
        return bool(await Ask(self._transport, call))

    async def holder(self, key: str, *, mode: LockMode = LOCK) -> Held | None:
        """Who holds the lock now; `None` if it is free."""
        call = Call(HOLDER, self._keys.name(key, mode.family))
        row = await Ask(self._transport, call)
        return None if row is None else _held(row)

    async def is_held(self, key: str, *, owner: str, mode: LockMode = LOCK) -> bool:
        """Whether `owner` holds the lock now."""
        call = Call(IS_HELD, self._keys.name(key, mode.family), owner)
        return bool(await Ask(self._transport, call))

    def guard(self, key: str, *, owner: str, mode: LockMode = LOCK) -> Guard:
        """Have a call to this server made only while `owner` holds the lock."""
        lock = self._keys.name(key, mode.family)
        return Guard(self._transport, lambda call: call.guarded(lock, owner))


def _held(row: Row) -> Held:
    _, owner, fence, left, age, note, waiters, holders = row
    return Held(owner, fence, left / 1e6, age / 1e6, note, waiters, holders)
