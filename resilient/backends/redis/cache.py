"""Cached values on Redis.

A value is one string that expires, with its times and tags in front (`lua/cache/record.lua`);
beside it lies the lease of whoever computes it, and those who wait. Tags are numbers of their own
under other slots, so a script cannot read them: they are asked in the same pipeline, and compared
here.

A key that had a value when it was last seen is read by a plain `MGET`, which costs the server
a tenth of a script: if the value is gone, the script is a second round trip. Any other key is asked
for by the script at once, so that a miss comes with the lease in one.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from resilient.backends.redis.commands import Batch, Command, Plain, Script, milliseconds, text
from resilient.backends.redis.keys import Keys
from resilient.engine.cache_batches import CacheBatches
from resilient.engine.plan import Ask, Plan, Transport, all_of
from resilient.protocols.cache import Busy, Entry, Leased
from resilient.protocols.values import Encoded

__all__ = ["RedisCache"]

RECORD = ("cache/record",)
FETCH = Script("cache/fetch", shared=RECORD)
RENEW = Script("cache/renew")
FILL = Script("cache/fill", shared=RECORD)
ABANDON = Script("cache/abandon")
SET = Script("cache/set", shared=RECORD)
DELETE = Script("cache/delete", shared=RECORD)
EXPIRE = Script("cache/expire", shared=RECORD)
TAG_ENSURE = Script("cache/tag_ensure")
TAG_KEEP = Script("cache/tag_keep")
TAG_BUMP = Script("cache/tag_bump")

TAG_LIVES = 86_400_000
"""Milliseconds for which a tag lives at least: longer than a value is computed. A tag lives as long
as the values that have it, and one that is lost makes them misses."""
SCAN_STEP = 1000

MAX_PRESENT = 100_000
"""How many keys are remembered to have had a value."""
HEAD = 113
"""Bytes of a record before its tags."""
TIME = Plain("TIME")
MICRO = 1_000_000

Numbers = dict[str, int | None]
"""The numbers of tags; `None`: the server has no such tag."""


class Record(NamedTuple):
    """What is kept of a value (`lua/cache/record.lua`).

    Attributes:
        entry: The value and its times.
        born: When it was, in µs.
        tags: Its tags, as JSON; nothing for none.
    """

    entry: Entry
    born: int
    tags: bytes

    @classmethod
    def of(cls, stored: bytes | None, now: int) -> Record | None:
        """Read a record at a time of the server's, in µs; `None` for what is none."""
        if stored is None or len(stored) < HEAD:
            return None
        ends = HEAD + int(stored[104:HEAD])
        ttl, fresh = int(stored[16:32]) - now, int(stored[32:48]) - now
        kept = int(stored[48:64]) - now
        entry = Entry(Encoded(stored[ends:]), ttl / MICRO, fresh / MICRO, kept / MICRO)
        return cls(entry, int(stored[:16]), stored[HEAD:ends])


class RedisCache(CacheBatches):
    """Values, tags and leases (`resilient.protocols.cache.CacheStore`)."""

    def __init__(self, transport: Transport, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl
        self._channel = keys.broadcast("cache")
        self._present: dict[str, None] = {}

    # --- reading

    async def get(self, key: str) -> Entry | None:
        """The live value."""
        record, numbers = await self._looked(key, ())
        if record is None or record.entry.ttl <= 0:
            return None
        of_value = await self._oldest_valid(record.born, record.tags, numbers)
        return record.entry if of_value <= record.born else None

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
        of_value = of_lease = 0  # the earliest births that are not outdated
        if key in self._present:
            record, numbers = await self._looked(key, tags)
            if record is not None:
                of_value = await self._oldest_valid(record.born, record.tags, numbers)
                if of_value <= record.born and record.entry.fresh > 0:
                    return record.entry
            of_lease = _newest(numbers)
            self._present.pop(key, None)
        names, lives = self._names(key), milliseconds(lease, "lease")
        its_numbers = Plain("MGET", *map(self._keys.tag, tags)) if tags else None
        while True:
            ask = FETCH(names, owner, lives, waiter or "", of_value, of_lease)
            (outcome, stored, now, *rest), *found = await Ask(
                self._transport, Batch([ask, its_numbers] if its_numbers else [ask])
            )
            numbers = _numbers(tags, found[0]) if found else {}
            record = Record.of(stored, int(now))
            if record is not None:
                of_value = await self._oldest_valid(record.born, record.tags, numbers)
            valid = record.entry if record is not None and of_value <= record.born else None
            if outcome == b"hit":
                if valid is not None:
                    self._remember(key)
                    return valid
                of_lease = _newest(numbers)
                continue
            fence, *busy = rest
            of_lease = _newest(numbers)
            if of_lease > int(fence):
                continue  # what is computed under it would be a miss
            if busy:
                owner_there, left = busy
                return Busy(text(owner_there), left / 1000, valid)
            # Another's lease, a moment newer, may have been the beginning of a tag.
            of_lease = _newest(await self._begin(numbers, fence, TAG_LIVES))
            if of_lease <= int(fence):
                return Leased(int(fence), valid)

    async def fetch_many(
        self,
        keys: Sequence[str],
        *,
        owner: str,
        lease: float,
        tags: Sequence[Sequence[str]] = (),
        waiter: str | None = None,
    ) -> list[Entry | Leased | Busy]:
        """The same for several keys, in one trip if those that had a value have it still."""
        wanted = dict(zip(keys, tags or repeat(()), strict=False))

        def fetch(key: str) -> Plan[Entry | Leased | Busy]:
            return self.fetch(key, owner=owner, lease=lease, tags=wanted[key], waiter=waiter)

        seen = {key: its for key, its in wanted.items() if key in self._present}
        unseen = [key for key in wanted if key not in seen]
        plans: list[Plan[Any]] = [self._hits(seen), *map(fetch, unseen)]
        hits, *fetched = await all_of(plans) if unseen else [await plans[0]]
        gone = [key for key in seen if key not in hits]
        for key in gone:
            self._present.pop(key, None)
        again = await all_of([fetch(key) for key in gone]) if gone else []
        found = {**hits, **dict(zip(unseen + gone, fetched + again, strict=True))}
        return [found[key] for key in keys]

    async def _hits(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, Entry]:
        """Those of the keys, with their tags, that have a fresh value: by plain commands."""
        if not wanted:
            return {}
        names = [self._keys.names("cache", key)[0] for key in wanted]
        tags = list(dict.fromkeys(tag for its in wanted.values() for tag in its))
        look = Plain("MGET", *names, *map(self._keys.tag, tags))
        found, (seconds, micros) = await Ask(self._transport, Batch([look, TIME]))
        now, numbers = int(seconds) * MICRO + int(micros), _numbers(tags, found[len(names) :])
        hits = {}
        for key, stored in zip(wanted, found, strict=False):
            record = Record.of(stored, now)
            if record is not None and record.entry.fresh > 0:
                of_value = await self._oldest_valid(record.born, record.tags, numbers)
                if of_value <= record.born:
                    hits[key] = record.entry
        return hits

    async def _looked(self, key: str, tags: Sequence[str]) -> tuple[Record | None, Numbers]:
        """What is kept of a value, by plain commands, and the numbers of tags."""
        [name] = self._keys.names("cache", key)
        look = Plain("MGET", name, *map(self._keys.tag, tags))
        (stored, *found), (seconds, micros) = await Ask(self._transport, Batch([look, TIME]))
        record = Record.of(stored, int(seconds) * MICRO + int(micros))
        return record, _numbers(tags, found)

    def _remember(self, key: str) -> None:
        if len(self._present) >= MAX_PRESENT:
            self._present.clear()
        self._present[key] = None

    async def _oldest_valid(self, born: int, stored_tags: bytes, numbers: Numbers) -> int:
        """The earliest birth of a value with these tags that may be served, as of now."""
        if not stored_tags:
            return 0
        tags: list[str] = json.loads(stored_tags)
        unknown = [tag for tag in tags if tag not in numbers]
        if unknown:
            found = await Ask(self._transport, Plain("MGET", *map(self._keys.tag, unknown)))
            numbers = {**numbers, **_numbers(unknown, found)}
        of_tags = [numbers[tag] for tag in tags]
        # A tag that the server has lost may have been invalidated meanwhile.
        return max(born + 1 if number is None else number for number in of_tags)

    # --- computing

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the owner does not hold it."""
        _, held, _ = self._names(key)
        call = RENEW([held], owner, milliseconds(lease, "lease"))
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
        lives, *times = _times(ttl, fresh, stale)
        fill = FILL(self._names(key), owner, value, _stored(tags), lives, *times)
        keep = [TAG_KEEP([self._keys.tag(tag)], lives) for tag in tags]
        *found, born = await Ask(self._transport, Batch([*keep, fill]))
        if born is None:
            return False
        numbers = _numbers(tags, found)
        numbers |= await self._begin(numbers, born, max(lives, TAG_LIVES))
        self._remember(key)
        return all(number is not None and number <= int(born) for number in numbers.values())

    async def _begin(self, numbers: Numbers, born: bytes, lives: int) -> Numbers:
        """Let the tags that the server does not have begin with a value; their numbers now.

        What else has such a tag is older, and so becomes a miss.
        """
        missing = [tag for tag, number in numbers.items() if number is None]
        if not missing:
            return {}
        names = [self._keys.tag(tag) for tag in missing]
        begin: list[Command] = [Plain("SET", name, born, "NX", "PX", lives) for name in names]
        *_, found = await Ask(self._transport, Batch([*begin, Plain("MGET", *names)]))
        return _numbers(missing, found)

    async def abandon(self, key: str, *, owner: str) -> bool:
        """End the lease without a value and wake all waiters."""
        _, held, waiters = self._names(key)
        return bool(await Ask(self._transport, ABANDON([held, waiters], owner)))

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
        lives, *times = _times(self._max_ttl() if ttl is None else ttl, fresh, stale)
        ensure = [TAG_ENSURE([self._keys.tag(tag)], max(2 * lives, TAG_LIVES)) for tag in tags]
        store = SET(self._names(key), value, _stored(tags), key, self._channel, lives, *times)
        await Ask(self._transport, Batch([*ensure, store]))

    async def delete(self, key: str) -> bool:
        """Remove the value and take the lease of a computation in flight."""
        return await self._was_valid(await Ask(self._transport, self._deletion(key)))

    async def expire(self, key: str) -> bool:
        """Serve the value no more, but keep its stale copy."""
        call = EXPIRE(self._names(key), key, self._channel)
        return await self._was_valid(await Ask(self._transport, call))

    async def _was_valid(self, was: tuple[bytes, bytes] | None) -> bool:
        """Whether a value of this birth and these tags was no miss."""
        if was is None:
            return False
        born, tags = was
        return await self._oldest_valid(int(born), tags, {}) <= int(born)

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Make every entry that has one of these tags a miss."""
        bumps = [TAG_BUMP([self._keys.tag(t)], TAG_LIVES, t, self._channel) for t in tags]
        if bumps:
            await Ask(self._transport, Batch(bumps))

    async def keys(self, pattern: str = "*") -> list[str]:
        """The keys that match a glob; those that a tag has made a miss may be among them."""
        # The server's glob sees escaped names: it narrows by what the pattern begins with only.
        beginning = re.split(r"[*?\[%{}]", pattern, maxsplit=1)[0]
        matches = re.compile(fnmatch.translate(pattern)).match
        found: dict[str, None] = {}  # a scan may show a key twice
        cursor = 0
        while True:
            cursor, names = await self._scan(cursor, self._keys.pattern("cache", beginning))
            for name in names:
                key = self._keys.key_of("cache", name)
                if key is not None and matches(key):
                    found[key] = None
            if cursor == 0:
                return list(found)

    async def clear(self) -> int:
        """Remove every entry under the backend's prefix, in small steps."""
        removed = cursor = 0
        while True:
            cursor, names = await self._scan(cursor, self._keys.pattern("cache"))
            keys = [self._keys.key_of("cache", name) for name in names]
            deletions = [self._deletion(key) for key in keys if key is not None]
            if deletions:
                answers = await Ask(self._transport, Batch(deletions))
                removed += sum(answer is not None for answer in answers)
            if cursor == 0:
                return removed

    # --- inside

    async def _scan(self, cursor: int, pattern: str) -> tuple[int, list[str]]:
        step = Plain("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_STEP)
        cursor, names = await Ask(self._transport, step)
        return int(cursor), [name.decode(errors="surrogateescape") for name in names]

    def _deletion(self, key: str) -> Command:
        return DELETE(self._names(key), key, self._channel)

    def _names(self, key: str) -> list[str]:
        return self._keys.names("cache", key, "lease", "waiters")


def _numbers(tags: Sequence[str], found: Sequence[bytes | None]) -> Numbers:
    pairs = zip(tags, found, strict=True)
    return {tag: None if number is None else int(number) for tag, number in pairs}


def _newest(numbers: Numbers) -> int:
    """When one of the tags was last invalidated."""
    return max((number for number in numbers.values() if number is not None), default=0)


def _times(ttl: float, fresh: float | None, stale: float) -> tuple[int, int, int]:
    """For how long a value is kept, and of that not served, and not fresh, in ms."""
    kept = milliseconds(ttl + stale, "ttl")
    unserved = min(round(stale * 1000), kept)
    lag = 0 if fresh is None else max(round((ttl - fresh) * 1000), 0)
    return kept, unserved, lag


def _stored(tags: Iterable[str]) -> str:
    """Tags as they lie beside their value; nothing for none."""
    listed = list(tags)
    return json.dumps(listed) if listed else ""
