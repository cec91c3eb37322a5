"""Cached values over transactions: entries, leases of those who compute, and tags.

All times that decide whether a value may be served (the birth of an entry, the last invalidation of
a tag) are drawn with `Transaction.tick`: no two are equal, so none is ambiguous.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from resilient.engine.plan import Plan
from resilient.engine.transactional.store import Record, Table, Transaction, TransactionalStore
from resilient.engine.transactional.waiters import Queue, joined, wake_all
from resilient.protocols.cache import Busy, Entry, Leased
from resilient.protocols.values import Encoded

__all__ = ["TransactionalCache"]

CHANNEL = "cache"
STEP = 500
"""How many records one transaction of a scan looks at."""
MEMORY = 60.0
"""Seconds for which an abandoned lease is remembered, so that it can be abandoned again."""


class Value(Record, frozen=True, array_like=True):
    """A stored value.

    Attributes:
        data: The value.
        expires: When it may no longer be served, by the store's clock.
        born: The time of the lease under which it was computed.
        tags: Its tags.
        owner: Who computed it; `""` if it was set by hand.
        stale: Seconds before it expires from when on it is no longer served.
        lag: Seconds before that from when on it is no longer fresh.
    """

    data: bytes
    expires: float
    born: int
    tags: tuple[str, ...] = ()
    owner: str = ""
    stale: float = 0.0
    lag: float = 0.0


class Computation(Record, frozen=True, array_like=True):
    """The lease of whoever computes a value.

    Attributes:
        owner: The holder's token.
        fence: When the lease was given; the birth of the value.
        until: When it runs out; 0 once it was abandoned.
        queue: Who waits for the value.
    """

    owner: str
    fence: int
    until: float
    queue: Queue = ()


class Tag(Record, frozen=True, array_like=True):
    """When a tag was last invalidated, or first seen; and when this record expires."""

    invalidated: int
    expires: float


class Step(NamedTuple):
    """Some keys of a scan, and the one after which to go on: `None` at the end."""

    keys: list[str]
    last: str | None


class Scan(Protocol):
    """One step of a scan."""

    def __call__(self, tx: Transaction, after: str | None) -> Step:
        """Go on after this key."""
        ...


VALUES = Table("cache", Value)
COMPUTATIONS = Table("computation", Computation)
TAGS = Table("tag", Tag)


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


class Life(NamedTuple):
    """How long a value is kept, and of that how long it is neither served nor fresh."""

    kept: float
    stale: float
    lag: float

    @classmethod
    def of(cls, ttl: float, fresh: float | None, stale: float) -> Life:
        """From the times of `CacheStore.fill`."""
        return cls(ttl + stale, stale, 0.0 if fresh is None else max(ttl - fresh, 0.0))


def copy(tx: Transaction, key: str) -> Entry | None:
    """What is kept of a key, however old, if no tag has made it a miss."""
    value = tx.get(VALUES, key)
    if value is None or not is_current(tx, value.tags, value.born):
        return None
    kept = value.expires - tx.now
    ttl = kept - value.stale
    return Entry(Encoded(value.data), ttl, ttl - value.lag, kept)


def entry(tx: Transaction, key: str) -> Entry | None:
    """The value of a key, if it may be served."""
    found = copy(tx, key)
    return found if found is not None and found.ttl > 0 else None


def is_current(tx: Transaction, tags: Iterable[str], born: int) -> bool:
    """Whether each of the tags exists, and none was invalidated after `born`."""
    for name in tags:
        tag = tx.get(TAGS, name)
        if tag is None or tag.invalidated > born:
            return False
    return True


def outdated(tx: Transaction, tags: Sequence[str], born: int) -> bool:
    """Whether one of the tags was invalidated since."""
    found = (tx.get(TAGS, name) for name in tags)
    return any(tag is not None and tag.invalidated > born for tag in found)


def fetch(
    tx: Transaction,
    key: str,
    owner: str,
    lease: float,
    tags: Sequence[str],
    waiter: str | None,
    keep: float,
) -> Entry | Leased | Busy:
    """The value, or a lease, or a place among those who wait."""
    stale = copy(tx, key)
    if stale is not None and stale.fresh > 0:
        return stale
    now = tx.now
    running = tx.get(COMPUTATIONS, key)
    queue: Queue = () if running is None else running.queue
    if running is not None and running.until > now and not outdated(tx, tags, running.fence):
        if running.owner != owner:
            if waiter is not None and (longer := joined(queue, waiter, now)) is not queue:
                tx.put(COMPUTATIONS, key, replace(running, queue=longer), ttl=running.until - now)
            return Busy(running.owner, running.until - now, stale)
        fence = running.fence
    else:
        for name in tags:
            if tx.get(TAGS, name) is None:
                tx.put(TAGS, name, Tag(tx.tick(), now + keep), ttl=keep)
        fence = tx.tick()  # after its tags: the value is newer than they are
        if stale is None:
            # A value that a tag has made a miss stays one.
            tx.delete(VALUES, key)
        elif (value := tx.get(VALUES, key)) is not None and value.owner:
            # Whoever computed it has nothing here now.
            tx.put(VALUES, key, replace(value, owner=""), ttl=value.expires - now)
    tx.put(COMPUTATIONS, key, Computation(owner, fence, now + lease, queue), ttl=lease)
    return Leased(fence, stale)


def renew(tx: Transaction, key: str, owner: str, lease: float) -> bool:
    """Start the lease anew, if the owner holds it."""
    running = held(tx, key, owner)
    if running is None:
        return False
    tx.put(COMPUTATIONS, key, replace(running, until=tx.now + lease), ttl=lease)
    return True


def held(tx: Transaction, key: str, owner: str) -> Computation | None:
    """The lease, if the owner holds it."""
    running = tx.get(COMPUTATIONS, key)
    if running is None or running.owner != owner or running.until <= tx.now:
        return None
    return running


def fill(
    tx: Transaction,
    key: str,
    data: bytes,
    owner: str,
    life: Life,
    tags: Sequence[str],
    keep: float,
) -> bool:
    """Store what was computed, unless it is stale already."""
    running = held(tx, key, owner)
    if running is None:
        value = tx.get(VALUES, key)
        return value is not None and value.owner == owner
    keep_tags(tx, tags, running.fence, life.kept, keep)
    current = is_current(tx, tags, running.fence)
    if current:
        store(tx, key, data, running.fence, tags, owner, life)
    end(tx, key)
    return current


def keep_tags(tx: Transaction, tags: Sequence[str], born: int, ttl: float, keep: float) -> None:
    """Have the tags outlive an entry. One that nobody invalidated yet begins with the entry."""
    lifetime = max(ttl, keep)
    for name in tags:
        tag = tx.get(TAGS, name)
        if tag is None:
            tx.put(TAGS, name, Tag(born, tx.now + lifetime), ttl=lifetime)
        elif tag.expires < tx.now + ttl:
            tx.put(TAGS, name, Tag(tag.invalidated, tx.now + lifetime), ttl=lifetime)


def end(tx: Transaction, key: str) -> None:
    """End whatever lease there is, and wake all who wait."""
    running = tx.get(COMPUTATIONS, key)
    if running is not None:
        wake_all(tx, running.queue)
        tx.delete(COMPUTATIONS, key)


def abandon(tx: Transaction, key: str, owner: str) -> bool:
    """End the owner's lease without a value."""
    running = tx.get(COMPUTATIONS, key)
    if running is None or running.owner != owner:
        return False
    if running.until > 0:
        wake_all(tx, running.queue)
        tx.put(COMPUTATIONS, key, Computation(owner, running.fence, 0.0), ttl=MEMORY)
    return True


def store(
    tx: Transaction,
    key: str,
    data: bytes,
    born: int,
    tags: Sequence[str],
    owner: str,
    life: Life,
) -> None:
    """Write a value."""
    value = Value(data, tx.now + life.kept, born, tuple(tags), owner, life.stale, life.lag)
    tx.put(VALUES, key, value, ttl=life.kept)


def expire(tx: Transaction, key: str) -> bool:
    """Serve a value no more, but keep it."""
    existed = entry(tx, key) is not None
    value = tx.get(VALUES, key)
    if value is not None:
        left = value.expires - tx.now
        stale = max(value.stale, left)
        # What has not been fresh for a while stays as old as it is.
        lag = max(value.stale + value.lag - stale, 0.0)
        tx.put(VALUES, key, replace(value, stale=stale, lag=lag, owner=""), ttl=left)
    end(tx, key)
    tx.publish(CHANNEL, key)
    return existed


def put(
    tx: Transaction, key: str, data: bytes, life: Life, tags: Sequence[str], keep: float
) -> None:
    """Store a value by hand; what replaces a value removes it, and that is announced."""
    if tx.get(VALUES, key) is not None:
        tx.publish(CHANNEL, key)
    born = tx.tick()
    keep_tags(tx, tags, born, life.kept, keep)
    store(tx, key, data, born, tags, "", life)
    end(tx, key)


def delete(tx: Transaction, key: str) -> bool:
    """Remove a value, and have a computation in flight come to nothing."""
    existed = entry(tx, key) is not None
    tx.delete(VALUES, key)
    end(tx, key)
    tx.publish(CHANNEL, key)
    return existed


def invalidate(tx: Transaction, tags: Sequence[str], keep: float) -> None:
    """Make everything older than now that has one of the tags a miss."""
    for name in tags:
        tag = tx.get(TAGS, name)
        expires = max(tx.now + keep, 0.0 if tag is None else tag.expires)
        tx.put(TAGS, name, Tag(tx.tick(), expires), ttl=expires - tx.now)
        tx.publish(CHANNEL, f"#{name}")


def keys(tx: Transaction, after: str | None) -> Step:
    """The next live keys."""
    records = list(tx.scan(VALUES, after=after, limit=STEP))
    live = [
        key
        for key, value in records
        if value.expires - value.stale > tx.now and is_current(tx, value.tags, value.born)
    ]
    return Step(live, records[-1][0] if len(records) == STEP else None)


def clear(tx: Transaction, after: str | None) -> Step:
    """Remove the next entries."""
    step = keys(tx, after)
    for key, _ in list(tx.scan(VALUES, after=after, limit=STEP)):
        tx.delete(VALUES, key)
        tx.publish(CHANNEL, key)
    return step


def stop_computations(tx: Transaction, after: str | None) -> Step:
    """End the next leases."""
    running = [key for key, _ in tx.scan(COMPUTATIONS, after=after, limit=STEP)]
    for key in running:
        end(tx, key)
    return Step(running, running[-1] if len(running) == STEP else None)
