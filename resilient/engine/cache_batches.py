"""Several cached values at once, where a transport makes one trip of plans side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from resilient.engine.plan import all_of
from resilient.protocols.cache import Busy, CacheStore, Entry, Filling, Leased

__all__ = ["CacheBatches"]


class CacheBatches:
    """`fetch_many` and `fill_many` of a `CacheStore`, made of its `fetch` and `fill`."""

    async def fetch_many(
        self: CacheStore,
        keys: Sequence[str],
        *,
        owner: str,
        lease: float,
        tags: Sequence[Sequence[str]] = (),
        waiter: str | None = None,
    ) -> list[Entry | Leased | Busy]:
        """`fetch` for each of the keys."""
        return await all_of(
            [
                self.fetch(key, owner=owner, lease=lease, tags=its, waiter=waiter)
                for key, its in zip(keys, tags or repeat(()), strict=False)
            ]
        )

    async def fill_many(self: CacheStore, values: Sequence[Filling], *, owner: str) -> list[bool]:
        """`fill` for each of the values."""
        return await all_of(
            [
                self.fill(
                    each.key,
                    each.value,
                    owner=owner,
                    ttl=each.ttl,
                    fresh=each.fresh,
                    stale=each.stale,
                    tags=each.tags,
                )
                for each in values
            ]
        )
