"""What a backend promises about cached values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from resilient.protocols.values import Encoded

__all__ = ["Busy", "CacheStore", "Entry", "Filling", "Leased"]


class Entry(NamedTuple):
    """A stored value.

    Attributes:
        value: What was stored.
        ttl: Seconds for which it may still be served; of a stale copy, less than nothing if that
            time is over.
        fresh: Seconds until somebody should compute it anew, at most as many; less than nothing
            if that time has come.
        kept: Seconds for which it is kept, served or not; at least as many as the TTL.
        tags: What it can be invalidated by, as it was stored; not only what the caller knows of.
        born: The fence of the lease under which it was computed, or a number that is larger than
            any before; 0 of a store that tells of no changes but by its own methods.
    """

    value: Encoded
    ttl: float
    fresh: float
    kept: float
    tags: tuple[str, ...]
    born: int = 0


class Leased(NamedTuple):
    """There is no fresh value, and the caller is the one who computes it.

    Attributes:
        fence: Grows with every lease of the key.
        stale: What there was, if it is kept still and was not invalidated.
    """

    fence: int
    stale: Entry | None = None


class Busy(NamedTuple):
    """There is no fresh value, and somebody else is computing it.

    Attributes:
        owner: The token of whoever computes.
        ttl: Seconds until that lease runs out.
        stale: What there was, if it is kept still and was not invalidated.
    """

    owner: str
    ttl: float
    stale: Entry | None = None


class Filling(NamedTuple):
    """A computed value to be stored; the fields are those of `CacheStore.fill`."""

    key: str
    value: Encoded
    ttl: float
    fresh: float | None = None
    stale: float = 0.0
    tags: Sequence[str] = ()


class CacheStore(Protocol):
    """Values with a TTL and tags, and one lease a key for whoever computes a missing value.

    Every method is one atomic operation at the server unless it says otherwise. A removal is
    announced to every process on the channel `"cache"` (`resilient.engine.signals`): the key, or
    `#` and the tag.

    A tag is a number at the server, the time in µs when it was last invalidated. An entry is
    served only while each of its tags exists and is not newer than the entry, whose own time is
    that of the lease under which it was computed: so a value computed before an invalidation is
    never served after it, and a tag that the server has lost makes a miss, never stale data.

    A value has three times. Until the first it is fresh. Then it is still served, but whoever
    fetches it gets the right to compute it anew. After its TTL it is served no more, and kept
    for a while only as a copy to fall back on, for those who fetch it and fail to compute it.
    """

    async def get(self, key: str) -> Entry | None:
        """The live value; `None` if there is none."""
        ...

    async def look(self, key: str, *, tags: Sequence[str] = ()) -> Encoded | None:
        """The fresh value, where that can be read for less than a `fetch`; `None`: fetch it.

        `tags` are those that it should have; its own decide.
        """
        ...

    async def fetch(
        self,
        key: str,
        *,
        owner: str,
        lease: float,
        tags: Sequence[str] = (),
        waiter: str | None = None,
    ) -> Entry | Leased | Busy:
        """The fresh value, or the right to compute it, or who is computing it: one round trip.

        The last two come with the stale copy, if there is one.

        Nobody waits for a computation that began before one of its tags was invalidated: the
        caller gets a lease of its own, and that computation's `fill` is refused.

        Args:
            key: The entry.
            owner: The caller's token; asking again under it gets the same lease.
            lease: Seconds after which somebody else may compute, unless renewed.
            tags: The tags that the value will have; the ones of a live value are stored with it.
            waiter: The address to wake when the computation ends, registered when busy.
        """
        ...

    async def fetch_many(
        self,
        keys: Sequence[str],
        *,
        owner: str,
        lease: float,
        tags: Sequence[Sequence[str]] = (),
        waiter: str | None = None,
    ) -> list[Entry | Leased | Busy]:
        """`fetch` for several keys: as a rule in one round trip, and not as one atomic operation.

        Args:
            keys: The entries, all different.
            owner: The caller's token, for all of them.
            lease: Seconds; likewise.
            tags: The tags of each, in the order of the keys; nothing: none has any.
            waiter: The address to wake when any of the busy computations ends.
        """
        ...

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the owner does not hold it (an invalidation takes it)."""
        ...

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
        """Store the computed value, end the lease and wake all waiters.

        False, and nothing is stored, if the lease was lost or taken by an invalidation. Asked
        again by the same owner after it stored, it answers true.

        Args:
            key: The entry.
            value: What to store.
            owner: The token under which the lease is held.
            ttl: Seconds for which it may be served; may be 0 for a copy to fall back on.
            fresh: Seconds for which nobody needs to compute it anew; `None`: as long as the TTL.
            stale: Seconds after its TTL for which it is kept as a copy to fall back on.
            tags: What it can be invalidated by.
        """
        ...

    async def fill_many(self, values: Sequence[Filling], *, owner: str) -> list[bool]:
        """`fill` for several values under one owner: one round trip, and not atomic together."""
        ...

    async def abandon(self, key: str, *, owner: str) -> bool:
        """End the lease without a value and wake all waiters, so that one of them computes."""
        ...

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
        """Store a value whoever computes; a computation in flight will not overwrite it.

        `ttl=None` means the backend's `max_ttl`; the times are those of `fill`.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove the value and take the lease of a computation in flight; false if no value."""
        ...

    async def expire(self, key: str) -> bool:
        """Serve the value no more, but keep its stale copy; false if there was no live value.

        Like `delete`, it takes the lease of a computation in flight, and is announced.
        """
        ...

    async def has(self, key: str) -> bool:
        """Whether there is a live value."""
        ...

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Make every entry that has one of these tags a miss: one number a tag, no scan."""
        ...

    async def keys(self, pattern: str = "*") -> list[str]:
        """The keys that match a glob (`*`, `?`, `[a-z]`), in no order, scanned in small steps.

        For operators: it is no snapshot, and costs time in proportion to all keys.
        """
        ...

    async def clear(self) -> int:
        """Remove every entry under the backend's prefix, in small steps; how many there were.

        For operators: to make entries a miss at once, however many they are, invalidate a tag
        that they have, as `cached.of(f).clear()` does. One number for all entries of a backend
        would be another key to read at every hit, on a cluster of another node.
        """
        ...
