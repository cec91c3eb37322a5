"""Locks on Redis.

A lock is a hash (owner, fence, time of the grant) that expires. Beside it lies its memory, which
outlives it (the last fence, and which holds were lost), and the queue of those who wait, with what
they want. Where several may hold it, their holds are a sorted set by their ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from time import monotonic
from typing import Any

from resilient.backends.redis.commands import (
    Handing,
    Plain,
    Script,
    Waiting,
    milliseconds,
    slot_of,
    text,
)
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.server import Server
from resilient.engine.guard import Guard
from resilient.engine.identity import new_owner
from resilient.engine.plan import Ask
from resilient.engine.signals import CROWDED
from resilient.errors import BackendError
from resilient.protocols.locks import LOCK, Grant, Held, LockMode

__all__ = ["RedisLocks"]

_NAMES = (
    "acquire",
    "acquire_all",
    "force_release",
    "holder",
    "is_held",
    "release",
    "renew",
    "transfer",
)
SCRIPTS = {name: Script(f"locks/{name}", shared=("locks/hold",)) for name in (*_NAMES, "withdraw")}

NAMES = 256
"""Locks whose keys' names are kept: who takes one gives it back, and takes it again."""
REPLICAS_WAIT = 1000
"""Milliseconds for which replicas are waited for."""


class RedisLocks:
    """Leases on keys (`resilient.protocols.locks.LockStore`)."""

    def __init__(self, transport: Server, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys
        # By the key's type, too: of an enumeration's member the name is another one than of the
        # text to which it is equal.
        self._names: Callable[[str, LockMode], Sequence[str]] = lru_cache(NAMES, typed=True)(
            partial(_names, keys)
        )
        self._crowded_until = -math.inf

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
        owner = new_owner() if owner is None else owner
        names = self._names(key, mode)
        call = SCRIPTS["acquire"](
            names,
            *(owner, milliseconds(ttl, "ttl"), self._transport.address(waiter, names[0])),
            *(int(mode.shared), mode.limit, int(fair), note),
        )
        answer = await Ask(self._transport, call)
        if answer[0] and replicas:
            # Only now, since nobody waits for the replicas of a lock that is held. And the grant
            # once more, because WAIT speaks of what its own connection wrote last.
            wait = Plain("WAIT", replicas, REPLICAS_WAIT)
            answer, having = await Ask(self._transport, Waiting([call, wait]))
            if answer[0] and having < replicas:
                await self.release(key, owner=owner, mode=mode)
                raise BackendError(
                    f"the lock {key!r} was given back: {having} of {replicas} replicas had it in "
                    "time",
                    transient=False,
                )
        if not answer[0]:
            self._crowded_until = monotonic() + CROWDED
            return _held(answer[1:])
        return Grant(owner, int(answer[1]), ttl)

    async def acquire_all(
        self, keys: Sequence[str], *, ttl: float, owner: str, note: str = ""
    ) -> list[Grant] | Held | None:
        """Take all of these locks, or none of them."""
        if self._keys.clustered and len({slot_of(self._names(key, LOCK)[0]) for key in keys}) > 1:
            return None
        names = [name for key in keys for name in self._names(key, LOCK)]
        call = SCRIPTS["acquire_all"](names, owner, milliseconds(ttl, "ttl"), note)
        had, *rest = await Ask(self._transport, call)
        return [Grant(owner, int(fence), ttl) for fence in rest] if had else _held(rest)

    async def renew(self, key: str, *, owner: str, ttl: float, mode: LockMode = LOCK) -> bool:
        """Start the owner's TTL anew; false if the owner does not hold the lock."""
        call = SCRIPTS["renew"](self._names(key, mode), owner, milliseconds(ttl, "ttl"))
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
        names = self._names(key, mode)
        call = SCRIPTS["release"](names, owner, int(fair), 0 if mode.shared else fence)
        if monotonic() >= self._crowded_until:  # else it is worth the little that it costs
            return bool(await Ask(self._transport, call))
        return bool(await Ask(self._transport, Handing(call)))

    async def transfer(self, key: str, *, owner: str, to: str, ttl: float) -> Grant | None:
        """Make another owner the holder, under a new fence."""
        names = self._names(key, LOCK)
        call = SCRIPTS["transfer"](names, owner, to, milliseconds(ttl, "ttl"))
        answer = await Ask(self._transport, call)
        return None if answer is None else Grant(to, int(answer[0]), int(answer[1]) / 1000)

    async def withdraw(self, key: str, *, owner: str, waiter: str, mode: LockMode = LOCK) -> None:
        """Stop waiting, and hand on what may just have been granted."""
        names = self._names(key, mode)
        address = self._transport.address(waiter, names[0])
        await Ask(self._transport, SCRIPTS["withdraw"](names, owner, address))

    async def force_release(self, key: str, *, mode: LockMode = LOCK) -> bool:
        """Free the lock whoever holds it; false if it was free."""
        return bool(await Ask(self._transport, SCRIPTS["force_release"](self._names(key, mode))))

    async def holder(self, key: str, *, mode: LockMode = LOCK) -> Held | None:
        """Who holds the lock now; `None` if it is free."""
        answer = await Ask(self._transport, SCRIPTS["holder"](self._names(key, mode)))
        return None if answer is None else _held(answer)

    async def is_held(self, key: str, *, owner: str, mode: LockMode = LOCK) -> bool:
        """Whether `owner` holds the lock now."""
        call = SCRIPTS["is_held"](self._names(key, mode), owner)
        return bool(await Ask(self._transport, call))

    def guard(self, key: str, *, owner: str, mode: LockMode = LOCK) -> Guard:
        """Have a script on this server run only while `owner` holds the lock, alone.

        On a cluster one in the lock's own slot: no script sees two.
        """
        lock, in_slot = self._names(key, mode)[0], self._keys.clustered
        return Guard(self._transport, lambda command: command.guarded(lock, owner, in_slot=in_slot))


def _names(keys: Keys, key: str, mode: LockMode) -> Sequence[str]:
    if mode.family == "lock":
        return keys.names("lock", key, "memory", "waiters")
    return keys.names(mode.family, key, "memory", "waiters", "shares", "grants")


def _held(fields: list[Any]) -> Held:
    owner, fence, ttl, age, note, waiters, holders = fields
    return Held(
        text(owner), int(fence), ttl / 1000, age / 1_000_000, text(note), int(waiters), int(holders)
    )
