"""Caches that are broken on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilient.protocols.cache import Busy, Entry, Leased
from resilient.protocols.values import Encoded
from tests.conformance.broken.base import EXAMPLES, NEVER, Broken


class Cache(Broken):
    capability = "cache"


class FillWithoutLease(Cache):
    """A value is stored whose lease was lost."""

    async def fill(self, key: str, value: Encoded, *, owner: str, **options: Any) -> bool:
        if not await self.store.fill(key, value, owner=owner, **options):
            await self.store.set(key, value, **options)
        return True


class TagsAreForgotten(Cache):
    """An invalidation of tags does nothing."""

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        return


class TagsAreNotTold(Cache):
    """A value comes with the tags that its reader asked for, not with those that it has."""

    async def fetch(
        self, key: str, *, tags: Sequence[str] = (), **options: Any
    ) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, tags=tags, **options)
        return answer._replace(tags=tuple(tags)) if isinstance(answer, Entry) else answer


class BornAlike(Cache):
    """Every value says that it was born at the same moment."""

    noticed_by = (EXAMPLES,)

    async def get(self, key: str) -> Entry | None:
        entry: Entry | None = await self.store.get(key)
        return None if entry is None else entry._replace(born=1)


class TagsMissComputations(Cache):
    """A value computed before an invalidation is stored as if it was computed after it."""

    async def fill(self, key: str, value: Encoded, *, owner: str, **options: Any) -> bool:
        if not await self.store.renew(key, owner=owner, lease=60.0):
            return bool(await self.store.fill(key, value, owner=owner, **options))
        await self.store.set(key, value, **options)
        return True


class OutdatedIsAwaited(Cache):
    """Callers wait for a computation whose value will be a miss."""

    async def fetch(
        self, key: str, *, tags: Sequence[str] = (), **options: Any
    ) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, **options)
        return answer


class ValuesNeverExpire(Cache):
    """The TTL is ignored."""

    async def set(
        self, key: str, value: Encoded, *, ttl: float | None = None, **options: Any
    ) -> None:
        ttl = None if ttl is None else ttl * NEVER
        await self.store.set(key, value, ttl=ttl, **options)


class EverybodyComputes(Cache):
    """Nobody is told to wait."""

    async def fetch(self, key: str, **options: Any) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, **options)
        return Leased(1) if isinstance(answer, Busy) else answer


class DeadLeadersLead(Cache):
    """The lease of a computation is ignored."""

    async def fetch(self, key: str, *, lease: float, **options: Any) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, lease=lease * NEVER, **options)
        return answer._replace(ttl=answer.ttl / NEVER) if isinstance(answer, Busy) else answer


class DeletionMissesComputations(Cache):
    """A deletion leaves the lease of a computation in flight."""

    async def delete(self, key: str) -> bool:
        return bool(await self.store.has(key) and await self.store.delete(key))


class BatchesLoseTheirOrder(Cache):
    """Of several values at once, those that are there come first."""

    noticed_by = (EXAMPLES,)

    async def fetch_many(self, keys: Sequence[str], **options: Any) -> list[Any]:
        answers = await self.store.fetch_many(keys, **options)
        return sorted(answers, key=lambda answer: not isinstance(answer, Entry))


class BatchesAreNotFenced(Cache):
    """Several values at once are stored whatever became of their leases."""

    noticed_by = (EXAMPLES,)

    async def fill_many(self, values: Sequence[Any], **options: Any) -> list[bool]:
        for key, value, ttl, _, _, tags in values:
            await self.store.set(key, value, ttl=ttl, tags=tags)
        return [True] * len(values)


class LooksAreBlind(Cache):
    """A look finds what is no longer fresh, or was never to be served."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.seen: dict[str, Encoded] = {}

    async def look(self, key: str, **options: Any) -> Encoded | None:
        found: Encoded | None = await self.store.look(key, **options)
        return self.seen.get(key) if found is None else self.seen.setdefault(key, found)


class EmptyIsMissing(Cache):
    """An empty value counts as none."""

    async def get(self, key: str) -> Entry | None:
        entry: Entry | None = await self.store.get(key)
        return entry if entry is not None and entry.value else None


class KeptForEver(Cache):
    """Without a TTL nothing expires."""

    async def set(
        self, key: str, value: Encoded, *, ttl: float | None = None, **options: Any
    ) -> None:
        await self.store.set(key, value, ttl=1e9 if ttl is None else ttl, **options)


class NothingGoesStale(Cache):
    """Nobody is told to compute a value anew before its TTL is over."""

    async def set(
        self, key: str, value: Encoded, *, fresh: float | None = None, **options: Any
    ) -> None:
        await self.store.set(key, value, **options)


class CopiesAreServed(Cache):
    """What is only kept to fall back on is served as if it lived."""

    async def set(
        self, key: str, value: Encoded, *, stale: float = 0.0, ttl: float = 60.0, **options: Any
    ) -> None:
        await self.store.set(key, value, ttl=ttl + stale, **options)


class ExpiringRemoves(Cache):
    """Nothing is left to fall back on of what is expired by hand."""

    async def expire(self, key: str) -> bool:
        return bool(await self.store.delete(key))


class PatternIsIgnored(Cache):
    """Every key is listed."""

    async def keys(self, pattern: str = "*") -> list[str]:
        keys: list[str] = await self.store.keys()
        return keys


class FollowersAreNotWoken(Cache):
    """Waiters are not registered."""

    noticed_by = (EXAMPLES,)

    async def fetch(
        self, key: str, *, waiter: str | None = None, **options: Any
    ) -> Entry | Leased | Busy:
        answer: Entry | Leased | Busy = await self.store.fetch(key, **options)
        return answer
