"""Locks that are broken on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient.backends.memory import MemoryBackend
from resilient.protocols.locks import LOCK, READ, WRITE, Grant, Held, LockMode
from tests.conformance.broken.base import EXAMPLES, MODEL, NEVER, Broken


class Locks(Broken):
    capability = "locks"


def mode_of(options: dict[str, Any]) -> dict[str, Any]:
    """The mode among the options of an operation."""
    return {name: value for name, value in options.items() if name == "mode"}


class ReleaseWithoutOwnerCheck(Locks):
    """Anybody may release."""

    async def release(self, key: str, *, owner: str, **options: Any) -> bool:
        held = await self.store.holder(key, **mode_of(options))
        return bool(await self.store.release(key, owner=held.owner if held else owner, **options))


class RenewWithoutOwnerCheck(Locks):
    """Anybody may renew."""

    async def renew(self, key: str, *, owner: str, ttl: float, **options: Any) -> bool:
        held = await self.store.holder(key, **mode_of(options))
        return bool(
            await self.store.renew(key, owner=held.owner if held else owner, ttl=ttl, **options)
        )


class RenewalTakesTheLock(Locks):
    """A renewal of a free lock acquires it: a renewal that outlives its release."""

    async def renew(self, key: str, *, owner: str, ttl: float, **options: Any) -> bool:
        return isinstance(await self.store.acquire(key, ttl=ttl, owner=owner, **options), Grant)


class RenewalDoesNothing(Locks):
    """A renewal is confirmed, and the TTL stays."""

    async def renew(self, key: str, *, owner: str, ttl: float, **options: Any) -> bool:
        return bool(await self.store.is_held(key, owner=owner, **options))


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

    async def holder(self, key: str, **options: Any) -> Any:
        held = await self.store.holder(key, **options)
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
        held: Held | None = await self.store.holder(key, **mode_of(options))
        if held is not None and held.owner == owner:
            return held
        answer: Grant | Held = await self.store.acquire(key, owner=owner, **options)
        return answer


class ReleaseIsNotRepeatable(Locks):
    """A release that is sent again is denied."""

    async def release(self, key: str, *, owner: str, **options: Any) -> bool:
        if not await self.store.is_held(key, owner=owner, **mode_of(options)):
            return False
        return bool(await self.store.release(key, owner=owner, **options))


class OneReleaseIsRemembered(Locks):
    """A release that is sent again is denied once somebody else has released."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.last: dict[str, str] = {}

    async def release(self, key: str, *, owner: str, mode: LockMode = LOCK, **options: Any) -> bool:
        if mode.shared or await self.store.is_held(key, owner=owner, mode=mode):
            self.last[key] = owner
            return bool(await self.store.release(key, owner=owner, mode=mode, **options))
        return self.last.get(key) == owner


class EveryReleaseIsConfirmed(Locks):
    """Whoever does not hold the lock any more is taken for one who has released it."""

    async def release(self, key: str, **options: Any) -> bool:
        await self.store.release(key, **options)
        return True


class WithdrawLeavesTheGrant(Locks):
    """Who stops waiting keeps what it was granted meanwhile."""

    async def withdraw(self, key: str, *, owner: str, waiter: str, **options: Any) -> None:
        await self.store.withdraw(key, owner="", waiter=waiter, **options)


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

    async def holder(self, key: str, **options: Any) -> Held | None:
        held: Held | None = await self.store.holder(key.strip(), **options)
        return held


class PrefixIsIgnored(Locks):
    """Every backend has the same locks."""

    noticed_by = (EXAMPLES,)
    shared = MemoryBackend().locks

    def __init__(self, store: Any) -> None:
        super().__init__(self.shared)


class OneTooMany(Locks):
    """A semaphore has one permit more than it says."""

    async def acquire(self, key: str, *, mode: LockMode = LOCK, **options: Any) -> Grant | Held:
        if mode.limit > 1:
            mode = mode._replace(limit=mode.limit + 1)
        answer: Grant | Held = await self.store.acquire(key, mode=mode, **options)
        return answer


class WritersShare(Locks):
    """A writer holds the lock beside readers."""

    async def acquire(self, key: str, *, mode: LockMode = LOCK, **options: Any) -> Grant | Held:
        if mode == WRITE:
            mode = READ
        answer: Grant | Held = await self.store.acquire(key, mode=mode, **options)
        return answer


class NothingIsHandedOver(Locks):
    """A release only wakes, and a newcomer may be faster."""

    noticed_by = (EXAMPLES,)

    async def release(self, key: str, *, owner: str, fair: bool = True, **options: Any) -> bool:
        return bool(await self.store.release(key, owner=owner, fair=False, **options))


class NewcomersBarge(Locks):
    """Whoever asks first has what is free, whatever the queue."""

    noticed_by = (EXAMPLES,)

    async def acquire(self, key: str, *, fair: bool = True, **options: Any) -> Grant | Held:
        answer: Grant | Held = await self.store.acquire(key, fair=False, **options)
        return answer


class TransferKeepsTheFence(Locks):
    """Who hands a lock on can still write under its fence."""

    noticed_by = (MODEL,)

    async def transfer(self, key: str, *, owner: str, to: str, ttl: float) -> Grant | None:
        before = await self.store.holder(key)
        answer: Grant | None = await self.store.transfer(key, owner=owner, to=to, ttl=ttl)
        return answer and answer._replace(fence=before.fence)


class SomeOfAll(Locks):
    """Of several locks, those that are free are taken."""

    noticed_by = (MODEL,)

    async def acquire_all(self, keys: Sequence[str], **options: Any) -> Any:
        for key in keys:
            await self.store.acquire(key, **options)
        return await self.store.acquire_all(keys, **options)
