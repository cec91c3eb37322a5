"""Cached values over transactions: entries, leases of those who compute, and tags."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat
from typing import Protocol

from resilient.engine.plan import Plan
from resilient.engine.transactional.cached_values import Life, Step, copy, entry, invalidate, keys
from resilient.engine.transactional.computations import (
    abandon,
    clear,
    delete,
    expire,
    fetch,
    fill,
    put,
    renew,
    stop_computations,
)
from resilient.engine.transactional.store import Transaction, TransactionalStore
from resilient.protocols.cache import Busy, Entry, Filling, Leased
from resilient.protocols.values import Encoded

__all__ = ["TransactionalCache"]


class Scan(Protocol):
    """One step of a scan."""

    def __call__(self, tx: Transaction, after: str | None) -> Step:
        """Go on after this key."""
        ...


class TransactionalCache:
    """`CacheStore` (`resilient.protocols.cache`) over any store with transactions.

    Args:
        store: Where the values are kept.
        max_ttl: Seconds for which values and tags without a TTL of their own are kept.
    """

    def __init__(self, store: TransactionalStore, max_ttl: Callable[[], float]) -> None:
        self._store = store
        self._max_ttl = max_ttl

    async def get(self, key: str) -> Entry | None:
        """The live value."""
        return await self._store.read(lambda tx: entry(tx, key))

    async def has(self, key: str) -> bool:
        """Whether there is a live value."""
        return await self.get(key) is not None

    async def look(self, key: str, *, tags: Sequence[str] = ()) -> Encoded | None:
        """The fresh value: in the way of no writer."""
        found = await self._store.read(lambda tx: copy(tx, key))
        return found.value if found is not None and found.fresh > 0 else None

    async def fetch(
        self,
        key: str,
        *,
        owner: str,
        lease: float,
        tags: Sequence[str] = (),
        waiter: str | None = None,
    ) -> Entry | Leased | Busy:
        """The live value, or the right to compute it, or who is computing it."""
        # A hit only reads: in the way of no writer.
        hit = await self._store.read(lambda tx: copy(tx, key))
        if hit is not None and hit.fresh > 0:
            return hit
        keep = self._max_ttl()
        return await self._store.change(lambda tx: fetch(tx, key, owner, lease, tags, waiter, keep))

    async def fetch_many(
        self,
        keys: Sequence[str],
        *,
        owner: str,
        lease: float,
        tags: Sequence[Sequence[str]] = (),
        waiter: str | None = None,
    ) -> list[Entry | Leased | Busy]:
        """The same for several keys."""
        found = await self._store.read(lambda tx: [copy(tx, key) for key in keys])
        answers = dict(zip(keys, found, strict=True))
        hits = {key: hit for key, hit in answers.items() if hit is not None and hit.fresh > 0}
        keep, of_keys = self._max_ttl(), dict(zip(keys, tags or repeat(()), strict=False))

        def fetch_rest(tx: Transaction) -> dict[str, Entry | Leased | Busy]:
            rest = [(key, its) for key, its in of_keys.items() if key not in hits]
            return {key: fetch(tx, key, owner, lease, its, waiter, keep) for key, its in rest}

        others = {} if len(hits) == len(of_keys) else await self._store.change(fetch_rest)
        return [hits[key] if key in hits else others[key] for key in keys]

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew."""
        return await self._store.change(lambda tx: renew(tx, key, owner, lease))

    async def fill(
        self,
        key: str,
        value: Encoded,
        *,
        owner: str,
        ttl: float,
        fresh: float | None = None,
        stale: float = 0.0,
        tags: Sequence[str] = (),
    ) -> bool:
        """Store the computed value, end the lease and wake all waiters."""
        keep, life = self._max_ttl(), Life.of(ttl, fresh, stale)
        return await self._store.change(lambda tx: fill(tx, key, value, owner, life, tags, keep))

    async def fill_many(self, values: Sequence[Filling], *, owner: str) -> list[bool]:
        """The same for several values."""
        keep = self._max_ttl()

        def fill_all(tx: Transaction) -> list[bool]:
            return [
                fill(tx, each.key, each.value, owner, Life.of(*each[2:5]), each.tags, keep)
                for each in values
            ]

        return await self._store.change(fill_all)

    async def abandon(self, key: str, *, owner: str) -> bool:
        """End the lease without a value and wake all waiters."""
        return await self._store.change(lambda tx: abandon(tx, key, owner))

    async def set(
        self,
        key: str,
        value: Encoded,
        *,
        ttl: float | None = None,
        fresh: float | None = None,
        stale: float = 0.0,
        tags: Sequence[str] = (),
    ) -> None:
        """Store a value whoever computes."""
        keep = self._max_ttl()
        life = Life.of(keep if ttl is None else ttl, fresh, stale)
        await self._store.change(lambda tx: put(tx, key, value, life, tags, keep))

    async def delete(self, key: str) -> bool:
        """Remove the value and take the lease of a computation in flight."""
        return await self._store.change(lambda tx: delete(tx, key))

    async def expire(self, key: str) -> bool:
        """Serve the value no more, but keep its stale copy."""
        return await self._store.change(lambda tx: expire(tx, key))

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Make every entry that has one of these tags a miss."""
        keep = self._max_ttl()
        await self._store.change(lambda tx: invalidate(tx, tags, keep))

    async def keys(self, pattern: str = "*") -> list[str]:
        """The keys of live values that match a glob."""
        matches = re.compile(fnmatch.translate(pattern)).match
        return [key for key in await self._stepwise(self._store.read, keys) if matches(key)]

    async def clear(self) -> int:
        """Remove every entry, and take the lease of every computation in flight."""
        removed = await self._stepwise(self._store.change, clear)
        await self._stepwise(self._store.change, stop_computations)
        return len(removed)

    async def _stepwise(
        self, run: Callable[[Callable[[Transaction], Step]], Plan[Step]], scan: Scan
    ) -> list[str]:
        found: list[str] = []
        step = await run(partial(scan, after=None))
        while step.last is not None:
            found += step.keys
            step = await run(partial(scan, after=step.last))
        return found + step.keys
