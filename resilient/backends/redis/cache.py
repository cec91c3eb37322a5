"""Cached values on Redis.

A value is one string that expires, with its times and tags in front (`lua/cache/record.lua`);
beside it lies the lease of whoever computes it, and those who wait. Tags are numbers of their own
under other slots, so a script cannot read them: they are asked in the same pipeline, and compared
here.

What is there is read by plain commands (`cache_reads.py`). Any other key is asked for by the script
at once, so that a miss comes with the lease in one.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from resilient.backends.redis.cache_reads import TIME, RedisReads
from resilient.backends.redis.cache_records import (
    MICRO,
    Numbers,
    Record,
    newest,
    numbers_of,
    stored_of,
    tags_of,
    times_of,
)
from resilient.backends.redis.commands import (
    Batch,
    Command,
    Everywhere,
    OfNode,
    Plain,
    Read,
    Script,
    milliseconds,
    text,
)
from resilient.engine.plan import Ask, Plan, all_of
from resilient.errors import BackendError
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


class RedisCache(RedisReads):
    """Values, tags and leases (`resilient.protocols.cache.CacheStore`)."""

    # --- computed values

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
                of_value = await self._oldest_valid(record.born, record.entry.tags, numbers)
                if of_value <= record.born and record.entry.fresh > 0:
                    return record.entry
            of_lease = newest(numbers)
            self._present.pop(key, None)
        names, lives = self._names(key), milliseconds(lease, "lease")
        address = self._transport.address(waiter, names[0])
        its_numbers = Read(*map(self._keys.tag, tags)) if tags else None
        while True:
            ask = FETCH(names, owner, lives, address, of_value, of_lease)
            (outcome, stored, now, *rest), *found = await Ask(
                self._transport, Batch([ask, its_numbers] if its_numbers else [ask])
            )
            numbers = numbers_of(tags, found[0]) if found else {}
            record = Record.of(stored, int(now))
            if record is not None:
                of_value = await self._oldest_valid(record.born, record.entry.tags, numbers)
            valid = record.entry if record is not None and of_value <= record.born else None
            if outcome == b"hit":
                if valid is not None:
                    self._remember(key)
                    return valid
                of_lease = newest(numbers)
                continue
            fence, *busy = rest
            of_lease = newest(numbers)
            if of_lease > int(fence):
                continue  # what is computed under it would be a miss
            if busy:
                owner_there, left = busy
                return Busy(text(owner_there), left / 1000, valid)
            # Another's lease, a moment newer, may have been the beginning of a tag.
            of_lease = newest(await self._begin(numbers, fence, TAG_LIVES))
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
        lives, *times = times_of(ttl, fresh, stale)
        fill = FILL(self._names(key), owner, value, stored_of(tags), lives, *times)
        keep = [TAG_KEEP([self._keys.tag(tag)], lives) for tag in tags]
        *found, born = await Ask(self._transport, Batch([*keep, fill]))
        if born is None:
            return False
        numbers = numbers_of(tags, found)
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
        begin: list[Command] = [
            Plain("SET", name, born, "NX", "PX", lives, key=name) for name in names
        ]
        *_, found = await Ask(self._transport, Batch([*begin, Read(*names)]))
        return numbers_of(missing, found)

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
        lives, *times = times_of(self._max_ttl() if ttl is None else ttl, fresh, stale)
        ensure = [TAG_ENSURE([self._keys.tag(tag)], max(2 * lives, TAG_LIVES)) for tag in tags]
        latest = 0
        if ensure and self._keys.clustered:  # where each tag has the time of its own server
            latest, ensure = max(map(int, await Ask(self._transport, Batch(ensure)))), []
        stored = stored_of(tags)
        names, channel = self._names(key), self._channel(key)
        store = SET(names, value, stored, key, channel, lives, *times, latest)
        await Ask(self._transport, Batch([*ensure, store]))

    async def delete(self, key: str) -> bool:
        """Remove the value and take the lease of a computation in flight."""
        return await self._was_valid(await Ask(self._transport, self._deletion(key)))

    async def expire(self, key: str) -> bool:
        """Serve the value no more, but keep its stale copy."""
        call = EXPIRE(self._names(key), key, self._channel(key))
        return await self._was_valid(await Ask(self._transport, call))

    async def _was_valid(self, was: tuple[bytes, bytes] | None) -> bool:
        """Whether a value of this birth and these tags was no miss."""
        if was is None:
            return False
        born, tags = was
        return await self._oldest_valid(int(born), tags_of(tags), {}) <= int(born)

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Make every entry that has one of these tags a miss."""
        if not tags:
            return
        times, failure = await self._known_times() if self._keys.clustered else ([], None)
        await self._bump(tags, max(times, default=0))
        if failure is not None:
            # One of a cluster is away. Nobody knows its clock, so this may not reach what it has;
            # what the others have is invalidated, and the caller told that it may not be all.
            raise failure

    async def _bump(self, tags: Sequence[str], latest: int) -> None:
        """Raise the numbers of tags, to this time at least."""
        names = {tag: self._keys.tag(tag) for tag in tags}
        bumps = [
            TAG_BUMP([name], TAG_LIVES, tag, self._transport.broadcast(self._events, name), latest)
            for tag, name in names.items()
        ]
        await Ask(self._transport, Batch(bumps))

    async def keys(self, pattern: str = "*") -> list[str]:
        """The keys that match a glob; those that a tag has made a miss may be among them."""
        # The server's glob sees escaped names: it narrows by what the pattern begins with only.
        beginning = re.split(r"[*?\[%{}]", pattern, maxsplit=1)[0]
        matches = re.compile(fnmatch.translate(pattern)).match
        found: dict[str, None] = {}  # a scan may show a key twice
        for node in range(len(await self._times())):
            cursor = None
            while cursor != 0:
                pattern_there = self._keys.pattern("cache", beginning)
                cursor, names = await self._scan(node, cursor or 0, pattern_there)
                for name in names:
                    key = self._keys.key_of("cache", name)
                    if key is not None and matches(key):
                        found[key] = None
        return list(found)

    async def clear(self) -> int:
        """Remove every entry under the backend's prefix, in small steps."""
        removed = 0
        for node in range(len(await self._times())):
            cursor = None
            while cursor != 0:
                cursor, names = await self._scan(node, cursor or 0, self._keys.pattern("cache"))
                keys = [self._keys.key_of("cache", name) for name in names]
                deletions = [self._deletion(key) for key in keys if key is not None]
                if deletions:
                    answers = await Ask(self._transport, Batch(deletions))
                    removed += sum(answer is not None for answer in answers)
        return removed

    # --- inside

    async def _times(self) -> list[int]:
        """The time of each primary, in µs."""
        times, failure = await self._known_times()
        if failure is not None:
            raise failure
        return times

    async def _known_times(self) -> tuple[list[int], BackendError | None]:
        """The same of those that answer, and why another does not."""
        try:
            answers = await Ask(self._transport, Everywhere(TIME))
        except BackendError as error:
            return [], error
        failures = [answer for answer in answers if isinstance(answer, BackendError)]
        times = [answer for answer in answers if not isinstance(answer, BackendError)]
        failure = failures[0] if failures else None
        return [int(seconds) * MICRO + int(micros) for seconds, micros in times], failure

    async def _scan(self, node: int, cursor: int, pattern: str) -> tuple[int, list[str]]:
        step = OfNode(node, "SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_STEP)
        cursor, names = await Ask(self._transport, step)
        return int(cursor), [name.decode(errors="surrogateescape") for name in names]

    def _deletion(self, key: str) -> Command:
        return DELETE(self._names(key), key, self._channel(key))

    def _channel(self, key: str) -> str:
        return self._transport.broadcast(self._events, self._keys.names("cache", key)[0])

    def _names(self, key: str) -> list[str]:
        return self._keys.names("cache", key, "lease", "waiters")
