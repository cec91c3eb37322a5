"""Locks that are broken on purpose."""

from __future__ import annotations

from typing import Any

from resilient.backends.memory import MemoryBackend
from resilient.protocols.locks import Grant, Held
from tests.conformance.broken.base import EXAMPLES, NEVER, Broken


class Locks(Broken):
    capability = "locks"


class ReleaseWithoutOwnerCheck(Locks):
    """Anybody may release."""

    async def release(self, key: str, *, owner: str) -> bool:
        held = await self.store.holder(key)
        return bool(await self.store.release(key, owner=held.owner if held else owner))


class RenewWithoutOwnerCheck(Locks):
    """Anybody may renew."""

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        held = await self.store.holder(key)
        return bool(await self.store.renew(key, owner=held.owner if held else owner, ttl=ttl))


class RenewalTakesTheLock(Locks):
    """A renewal of a free lock acquires it: a renewal that outlives its release."""

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        return isinstance(await self.store.acquire(key, ttl=ttl, owner=owner), Grant)


class RenewalDoesNothing(Locks):
    """A renewal is confirmed, and the TTL stays."""

    async def renew(self, key: str, *, owner: str, ttl: float) -> bool:
        return bool(await self.store.is_held(key, owner=owner))


class FenceStandsStill(Locks):
    """Every grant has the same fence."""

    async def acquire(self, key: str, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key, **options)
        return answer._replace(fence=1_700_000_000_000_000)


class FenceCountsFromOne(Locks):
    """Fences begin at 1 in every store, and so again after a loss of data."""

    noticed_by = (EXAMPLES,)

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.fences: list[int] = []

    async def acquire(self, key: str, **options: Any) -> Any:
        return self.small(await self.store.acquire(key, **options))

    async def holder(self, key: str) -> Any:
        held = await self.store.holder(key)
        return None if held is None else self.small(held)

    def small(self, answer: Any) -> Any:
        if answer.fence not in self.fences:
            self.fences.append(answer.fence)
        return answer._replace(fence=self.fences.index(answer.fence) + 1)


class LockNeverExpires(Locks):
    """The TTL is ignored."""

    async def acquire(self, key: str, *, ttl: float, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key, ttl=ttl * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER)


class AcquireIsNotRepeatable(Locks):
    """An owner that asks again is refused."""

    async def acquire(self, key: str, *, owner: str | None = None, **options: Any) -> Grant | Held:
        held: Held | None = await self.store.holder(key)
        if held is not None and held.owner == owner:
            return held
        answer: Grant | Held = await self.store.acquire(key, owner=owner, **options)
        return answer


class ReleaseIsNotRepeatable(Locks):
    """A release that is sent again is denied."""

    async def release(self, key: str, *, owner: str) -> bool:
        if not await self.store.is_held(key, owner=owner):
            return False
        return bool(await self.store.release(key, owner=owner))


class WithdrawLeavesTheGrant(Locks):
    """Who stops waiting keeps what it was granted meanwhile."""

    async def withdraw(self, key: str, *, owner: str, waiter: str) -> None:
        await self.store.withdraw(key, owner="", waiter=waiter)


class NobodyIsWoken(Locks):
    """Waiters are not registered."""

    noticed_by = (EXAMPLES,)

    async def acquire(self, key: str, *, waiter: str | None = None, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key, **options)
        return answer


class KeysMeet(Locks):
    """Keys are cleaned of what the store does not like."""

    noticed_by = (EXAMPLES,)

    async def acquire(self, key: str, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key.strip(), **options)
        return answer

    async def holder(self, key: str) -> Held | None:
        held: Held | None = await self.store.holder(key.strip())
        return held


class PrefixIsIgnored(Locks):
    """Every backend has the same locks."""

    noticed_by = (EXAMPLES,)
    shared = MemoryBackend().locks

    def __init__(self, store: Any) -> None:
        super().__init__(self.shared)
