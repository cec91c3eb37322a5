"""Cached values on PostgreSQL: rows that a crash of the server empties (`sql/cache.sql`)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import AsyncIterator, Callable, Sequence

from resilient.backends.postgres.commands import Call, Function, first, same
from resilient.backends.postgres.keys import Keys
from resilient.backends.postgres.texts import Row, microseconds
from resilient.engine.cache_defaults import CacheDefaults
from resilient.engine.plan import Ask, Transport
from resilient.protocols.cache import Busy, Entry, Leased
from resilient.protocols.values import Encoded

__all__ = ["PostgresCache"]

GET = Function("cache_get", read=first, many=True)
LOOK = Function("cache_look", read=first, many=True)
LOOK_TAGGED = Function("cache_look", read=first, many=True)
FETCH = Function("cache_fetch", read=same, look="cache_hit")
RENEW = Function("cache_renew", read=same)
FILL = Function("cache_fill", read=same)
ABANDON = Function("cache_abandon", read=same)
SET = Function("cache_set", read=same)
DELETE = Function("cache_delete", read=same)
EXPIRE = Function("cache_expire", read=same)
INVALIDATE = Function("cache_invalidate", read=same)
REMOVE = Function("cache_remove", read=same)
ENTRIES = Function("cache_step", read=same, many=True)
COMPUTATIONS = Function("computation_step", read=same, many=True)
STEP = 200
"""How many rows one statement of a scan looks at; each that is removed is a lock of its own."""
MAX_PRESENT = 100_000
"""How many keys are remembered to have had a value."""


class PostgresCache(CacheDefaults):
    """Values, tags and leases (`resilient.protocols.cache.CacheStore`)."""

    def __init__(self, transport: Transport, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl
        self._channel = keys.broadcast("cache")
        self._present: dict[str, tuple[str, ...]] = {}

    # --- reading

    async def get(self, key: str) -> Entry | None:
        """The live value."""
        call = Call(GET, self._keys.name(key))
        row = await Ask(self._transport, call)
        return None if row is None else self._entry(*row)

    async def has(self, key: str) -> bool:
        """Whether there is a live value."""
        return await self.get(key) is not None

    async def look(self, key: str, *, tags: Sequence[str] = ()) -> Encoded | None:
        """The fresh value of a key that had one when it was last seen."""
        if key not in self._present:
            return None
        tags = self._present[key]  # those that it had
        name = self._keys.name
        if len(tags) == 1:
            call = Call(LOOK_TAGGED, name(key), name(tags[0]))
        else:
            call = Call(LOOK, name(key))
        row = await Ask(self._transport, call)
        if row is None:
            self._present.pop(key, None)
            return None
        return Encoded(row[0])

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
        call = Call(
            FETCH,
            *(self._keys.name(key), owner, microseconds(lease, "lease"), self._names(tags)),
            *(waiter or "", self._keep()),
        )
        answer, *copy, holder, number = await Ask(self._transport, call)
        found = None if copy[0] is None else self._entry(*copy)
        if answer == "leased":
            return Leased(number, found)
        if answer == "busy":
            return Busy(holder, number / 1e6, found)
        assert found is not None
        self._seen(key, found.tags)
        return found

    # --- computing

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the owner does not hold it."""
        lives = microseconds(lease, "lease")
        call = Call(RENEW, self._keys.name(key), owner, lives)
        return bool(await Ask(self._transport, call))

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
        call = Call(
            FILL,
            *(self._keys.name(key), value, owner, *_times(ttl, fresh, stale)),
            *(self._names(tags), self._keep()),
        )
        return bool(await Ask(self._transport, call))

    async def abandon(self, key: str, *, owner: str) -> bool:
        """End the lease without a value and wake all waiters."""
        call = Call(ABANDON, self._keys.name(key), owner)
        return bool(await Ask(self._transport, call))

    # --- by hand

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
        times = _times(self._max_ttl() if ttl is None else ttl, fresh, stale)
        call = Call(
            SET,
            *(self._keys.name(key), value, *times, self._names(tags), self._keep()),
            *(self._channel, key),
        )
        await Ask(self._transport, call)

    async def delete(self, key: str) -> bool:
        """Remove the value and take the lease of a computation in flight."""
        call = Call(DELETE, self._keys.name(key), self._channel, key)
        return bool(await Ask(self._transport, call))

    async def expire(self, key: str) -> bool:
        """Serve the value no more, but keep its stale copy."""
        call = Call(EXPIRE, self._keys.name(key), self._channel, key)
        return bool(await Ask(self._transport, call))

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Make every entry that has one of these tags a miss."""
        names, keep = self._names(tags), self._keep()
        call = Call(INVALIDATE, names, list(tags), keep, self._channel)
        await Ask(self._transport, call)

    async def keys(self, pattern: str = "*") -> list[str]:
        """The keys of live values that match a glob."""
        matches = re.compile(fnmatch.translate(pattern)).match
        found = []
        async for rows in self._steps(ENTRIES):
            keys = [self._key(name) for name, is_live in rows if is_live]
            found += [key for key in keys if matches(key)]
        return found

    async def clear(self) -> int:
        """Remove every entry, and take the lease of every computation in flight."""
        removed = 0
        async for rows in self._steps(ENTRIES):
            names = [name for name, _ in rows]
            await self._remove(names, [self._key(name) for name in names])
            removed += sum(is_live for _, is_live in rows)
        async for rows in self._steps(COMPUTATIONS):
            await self._remove([name for (name,) in rows], [])
        return removed

    # --- inside

    def _seen(self, key: str, tags: tuple[str, ...]) -> None:
        """Have the key looked at from now on: a miss comes with the lease in one statement."""
        if len(self._present) >= MAX_PRESENT:
            self._present.clear()
        self._present[key] = tags

    async def _remove(self, names: list[str], announced: list[str]) -> None:
        call = Call(REMOVE, names, announced, self._channel)
        await Ask(self._transport, call)

    async def _steps(self, function: Function) -> AsyncIterator[list[Row]]:
        after: str | None = None
        while True:
            call = Call(function, self._keys.prefix, after, STEP)
            rows: list[Row] = await Ask(self._transport, call)
            if rows:
                yield rows
            if len(rows) < STEP:
                return
            after = rows[-1][0]

    def _entry(self, value: bytes, ttl: int, fresh: int, kept: int, names: list[str]) -> Entry:
        tags = tuple(map(self._key, names))
        return Entry(Encoded(value), ttl / 1e6, fresh / 1e6, kept / 1e6, tags)

    def _names(self, tags: Sequence[str]) -> list[str]:
        return [self._keys.name(tag) for tag in tags]

    def _key(self, name: str) -> str:
        return name[len(self._keys.prefix) :]

    def _keep(self) -> int:
        return microseconds(self._max_ttl(), "max_ttl")


def _times(ttl: float, fresh: float | None, stale: float) -> tuple[int, int, int]:
    """For how long a value is served, and fresh, and for how much longer it is kept, in µs."""
    microseconds(ttl + stale, "ttl")
    served = round(ttl * 1e6)
    return served, served if fresh is None else min(round(fresh * 1e6), served), round(stale * 1e6)
