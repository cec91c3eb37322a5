"""Values and tags as records: what is stored, what of it may be served, and how a tag undoes it.

All times that decide whether a value may be served (the birth of an entry, the last invalidation of
a tag) are drawn with `Transaction.tick`: no two are equal, so none is ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from resilient.engine.transactional.store import Record, Table, Transaction
from resilient.protocols.cache import Entry
from resilient.protocols.values import Encoded

__all__ = [
    "CHANNEL",
    "STEP",
    "TAGS",
    "VALUES",
    "Life",
    "Step",
    "Tag",
    "Value",
    "copy",
    "entry",
    "invalidate",
    "is_current",
    "keep_tags",
    "keys",
    "outdated",
    "store",
]

CHANNEL = "cache"
STEP = 500
"""How many records one transaction of a scan looks at."""


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


class Tag(Record, frozen=True, array_like=True):
    """When a tag was last invalidated, or first seen; and when this record expires."""

    invalidated: int
    expires: float


VALUES = Table("cache", Value)
TAGS = Table("tag", Tag)


class Life(NamedTuple):
    """How long a value is kept, and of that how long it is neither served nor fresh."""

    kept: float
    stale: float
    lag: float

    @classmethod
    def of(cls, ttl: float, fresh: float | None, stale: float) -> Life:
        """From the times of `CacheStore.fill`."""
        return cls(ttl + stale, stale, 0.0 if fresh is None else max(ttl - fresh, 0.0))


class Step(NamedTuple):
    """Some keys of a scan, and the one after which to go on: `None` at the end."""

    keys: list[str]
    last: str | None


# --- reading


def copy(tx: Transaction, key: str) -> Entry | None:
    """What is kept of a key, however old, if no tag has made it a miss."""
    value = tx.get(VALUES, key)
    if value is None or not is_current(tx, value.tags, value.born):
        return None
    kept = value.expires - tx.now
    ttl = kept - value.stale
    return Entry(Encoded(value.data), ttl, ttl - value.lag, kept, value.tags)


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


def keys(tx: Transaction, after: str | None) -> Step:
    """The next live keys."""
    records = list(tx.scan(VALUES, after=after, limit=STEP))
    live = [
        key
        for key, value in records
        if value.expires - value.stale > tx.now and is_current(tx, value.tags, value.born)
    ]
    return Step(live, records[-1][0] if len(records) == STEP else None)


# --- writing


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


def keep_tags(tx: Transaction, tags: Sequence[str], born: int, ttl: float, keep: float) -> None:
    """Have the tags outlive an entry. One that nobody invalidated yet begins with the entry."""
    lifetime = max(ttl, keep)
    for name in tags:
        tag = tx.get(TAGS, name)
        if tag is None:
            tx.put(TAGS, name, Tag(born, tx.now + lifetime), ttl=lifetime)
        elif tag.expires < tx.now + ttl:
            tx.put(TAGS, name, Tag(tag.invalidated, tx.now + lifetime), ttl=lifetime)


def invalidate(tx: Transaction, tags: Sequence[str], keep: float) -> None:
    """Make everything older than now that has one of the tags a miss."""
    for name in tags:
        tag = tx.get(TAGS, name)
        expires = max(tx.now + keep, 0.0 if tag is None else tag.expires)
        tx.put(TAGS, name, Tag(tx.tick(), expires), ttl=expires - tx.now)
        tx.publish(CHANNEL, f"#{name}")
