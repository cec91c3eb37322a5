"""What a cache store can make of its `fetch` and `fill`, where it has nothing better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from resilient.engine.plan import all_of
from resilient.protocols.cache import Busy, CacheStore, Entry, Filling, Leased
from resilient.protocols.values import Encoded

__all__ = ["CacheDefaults"]


class CacheDefaults:
    """Some methods of a `CacheStore`, made of others.

    Several values are fetched or filled side by side, of which a transport makes one trip.
    """

    async def look(self, key: str, *, tags: Sequence[str] = ()) -> Encoded | None:
        """Nothing: a `fetch` costs no more."""
        return None

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
