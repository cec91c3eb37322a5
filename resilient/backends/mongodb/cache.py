"""Cached values on MongoDB: one document a key, and one a tag (`cache_pipelines.py`).

A hit is one `aggregate`, which reads a value together with its tags and is in the way of no writer;
a miss is that, and one `findAndModify` for the lease.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from bson.int64 import Int64

from resilient.backends.mongodb import cache_pipelines as become
from resilient.backends.mongodb.cache_records import (
    ABSENT,
    Found,
    are_current,
    is_current,
    is_live,
    times_of,
)
from resilient.backends.mongodb.commands import Change, Document, Look, Pipeline, Update, compiled
from resilient.backends.mongodb.expressions import NOW, put
from resilient.backends.mongodb.keys import Keys, collection
from resilient.backends.mongodb.times import microseconds
from resilient.backends.mongodb.waking import escaped
from resilient.engine.cache_defaults import CacheDefaults
from resilient.engine.plan import Ask, Plan, Transport, all_of
from resilient.errors import BackendError
from resilient.protocols.cache import Busy, Entry, Leased
from resilient.protocols.values import Encoded

__all__ = ["MongoCache"]

log = logging.getLogger("resilient")

CACHE, TAGS = "cache", "tags"
STEP = 200
"""How many documents one command of a scan looks at."""
LARGEST = (16 << 20) - (64 << 10)
"""Bytes of a value, beside which a document of 16 MB has room for its tags and for who waits.
https://www.mongodb.com/docs/manual/reference/limits/"""
ATTEMPTS = 50
"""How often a value is read again that others have changed meanwhile: each time, one of them has
computed it."""

WITH_TAGS = {
    "$lookup": {
        "from": collection(TAGS),
        "localField": "tags",
        "foreignField": "_id",
        "as": "found",
    }
}
READ = compiled(WITH_TAGS, put(at=NOW))
LISTED = compiled(
    {"$sort": {"_id": 1}},
    {"$limit": STEP},
    {"$project": dict.fromkeys(("tags", "seen", "served", "kept"), 1)},
    WITH_TAGS,
    put(at=NOW),
)
AT_ONCE = compiled(put(at=NOW))


class MongoCache(CacheDefaults):
    """Values, tags and leases (`resilient.protocols.cache.CacheStore`)."""

    def __init__(self, transport: Transport[Any], keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl
        self._channel = keys.broadcast("cache")

    # --- reading

    async def get(self, key: str) -> Entry | None:
        """The live value."""
        found, _ = await self._read([key], ())
        entry = found.get(key, ABSENT).entry
        return entry if entry is not None and entry.ttl > 0 else None

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
        found, numbers = await self._read([key], tags)
        return await self._settled(key, owner, lease, tags, waiter, found, numbers)

    async def fetch_many(
        self,
        keys: Sequence[str],
        *,
        owner: str,
        lease: float,
        tags: Sequence[Sequence[str]] = (),
        waiter: str | None = None,
    ) -> list[Entry | Leased | Busy]:
        """The same for several keys: those that are there are read by one command."""
        if not keys:
            return []
        wanted = dict(zip(keys, tags or repeat(()), strict=False))
        found, numbers = await self._read(keys, [tag for its in wanted.values() for tag in its])

        def settled(key: str) -> Plan[Entry | Leased | Busy]:
            return self._settled(key, owner, lease, wanted[key], waiter, found, numbers)

        return await all_of([settled(key) for key in keys])

    async def _settled(
        self,
        key: str,
        owner: str,
        lease: float,
        tags: Sequence[str],
        waiter: str | None,
        found: Mapping[str, Found],
        numbers: Mapping[str, int],
    ) -> Entry | Leased | Busy:
        for _ in range(ATTEMPTS):
            seen = found.get(key, ABSENT)
            if seen.entry is not None and seen.entry.fresh > 0:
                return seen.entry
            its_numbers = await self._begun(tags, numbers)
            arguments = {
                "born": seen.born,
                "valid": seen.entry is not None,
                "owner": owner,
                "lease": microseconds(lease, "lease"),
                "tags": self._names(tags),
                "numbers": its_numbers,
                "waiter": waiter or "",
            }
            answer = await self._change(key, become.FETCH, arguments, upsert=True)
            assert answer is not None
            if answer["turn"] != "changed":
                stale = self._entry(answer) if seen.entry is not None else None
                if answer["turn"] == "busy":
                    left = (answer["until"] - answer["at"]) / 1e6
                    return Busy(answer["owner"], left, stale)
                return Leased(int(answer["fence"]), stale)
            found, numbers = await self._read([key], tags)
        raise BackendError(
            f"the value of {key!r} changed {ATTEMPTS} times while it was read", transient=True
        )

    async def _read(
        self, keys: Sequence[str], tags: Sequence[str]
    ) -> tuple[dict[str, Found], dict[str, int]]:
        """What lies at the keys, and the numbers of those of the tags that are there."""
        stages: list[Any] = [WITH_TAGS]
        if tags:
            wanted = {"$match": {"_id": {"$in": self._names(tags)}}}
            stages.append({"$unionWith": {"coll": collection(TAGS), "pipeline": [wanted]}})
        names = self._names(keys)
        match = {"_id": names[0] if len(names) == 1 else {"$in": names}}
        look = Look(CACHE, match, compiled(*stages, put(at=NOW)), read=_same)
        found, numbers = {}, {}
        for document in await Ask(self._transport, look):
            key = self._key(document["_id"])
            if "number" in document:
                if document["expires"] > document["at"]:
                    numbers[key] = int(document["number"])
            elif document.get("value") is not None and document["kept"] > document["at"]:
                entry = self._entry(document) if is_current(document) else None
                found[key] = Found(int(document["born"]), entry)
        return found, numbers

    def _entry(self, document: Document) -> Entry | None:
        if document["value"] is None:
            return None
        ttl, fresh, kept = (
            (document[name] - document["at"]) / 1e6 for name in ("served", "fresh", "kept")
        )
        tags = tuple(map(self._key, document["tags"]))
        return Entry(Encoded(document["value"]), ttl, fresh, kept, tags)

    # --- tags

    async def _begun(self, tags: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
        """The numbers of the tags; those that are not there begin now."""
        missing = [tag for tag in dict.fromkeys(tags) if tag not in numbers]
        begun = await all_of([self._begin(tag, self._keep()) for tag in missing])
        known = {**numbers, **dict(zip(missing, begun, strict=True))}
        return [Int64(known[tag]) for tag in tags]

    async def _begin(self, tag: str, keep: int) -> int:
        begin = Change(
            TAGS,
            self._keys.name(tag),
            become.BEGIN_TAG,
            {"keep": keep},
            read=_number,
            upsert=True,
            fields=("number",),
        )
        number: int = await Ask(self._transport, begin)
        return number

    async def _lasting(self, tags: Sequence[str], kept: int) -> list[int]:
        """The numbers of the tags, which all outlive a value that is kept for so long."""
        if not tags:
            return []
        look = Look(TAGS, {"_id": {"$in": self._names(tags)}}, AT_ONCE, read=_same)
        found = {each["_id"]: each for each in await Ask(self._transport, look)}
        numbers, keep = {}, max(self._keep(), 2 * kept)
        for tag in dict.fromkeys(tags):
            there = found.get(self._keys.name(tag))
            if there is not None and there["expires"] > there["at"] + kept:
                numbers[tag] = int(there["number"])
            else:
                numbers[tag] = await self._begin(tag, keep)
        return [Int64(numbers[tag]) for tag in tags]

    async def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Make every entry that has one of these tags a miss."""
        if not tags:
            return
        arguments = {**self._announced(), "keep": self._keep()}
        names = list(dict.fromkeys(self._names(tags)))
        await Ask(self._transport, Update(TAGS, names, become.INVALIDATE, arguments, upsert=True))

    # --- computing

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the owner does not hold it."""
        arguments = {"owner": owner, "lease": microseconds(lease, "lease")}
        return await self._did(key, become.RENEW, arguments)

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

        A value that a document has no room for is not stored, which is said in the log.
        """
        if len(value) > LARGEST:
            log.warning("%r is not cached: MongoDB stores %d bytes at most", key, LARGEST)
            await self.abandon(key, owner=owner)
            return False
        times = times_of(ttl, fresh, stale)
        arguments = {
            **times,
            "value": value,
            "owner": owner,
            "tags": self._names(tags),
            "numbers": await self._lasting(tags, times["kept"]),
        }
        answer = await self._change(key, become.FILL, arguments, fields=("turn",))
        return answer is not None and answer["turn"] in ("filled", "again")

    async def abandon(self, key: str, *, owner: str) -> bool:
        """End the lease without a value and wake all waiters."""
        return await self._did(key, become.ABANDON, {"owner": owner})

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
        times = times_of(self._max_ttl() if ttl is None else ttl, fresh, stale)
        arguments = {
            **times,
            **self._message(key),
            "value": value,
            "tags": self._names(tags),
            "numbers": await self._lasting(tags, times["kept"]),
        }
        await self._change(key, become.SET, arguments, upsert=True, fields=("_id",))

    async def delete(self, key: str) -> bool:
        """Remove the value and take the lease of a computation in flight."""
        return await self._removed(key, become.DELETE)

    async def expire(self, key: str) -> bool:
        """Serve the value no more, but keep its stale copy."""
        return await self._removed(key, become.EXPIRE)

    async def _removed(self, key: str, pipeline: Pipeline) -> bool:
        """Whether there was a live value."""
        fields = ("turn", "was_tags", "was_seen")
        was = await self._change(key, pipeline, self._message(key), upsert=True, fields=fields)
        if was is None or not was["turn"]:
            return False
        if not was["was_tags"]:
            return True
        look = Look(TAGS, {"_id": {"$in": was["was_tags"]}}, AT_ONCE, read=_same)
        tags = await Ask(self._transport, look)
        return are_current(was["was_tags"], was["was_seen"], tags, tags[0]["at"] if tags else 0)

    async def keys(self, pattern: str = "*") -> list[str]:
        """The keys of live values that match a glob."""
        matches = re.compile(fnmatch.translate(pattern)).match
        found: list[str] = []
        async for documents in self._steps():
            keys = [self._key(each["_id"]) for each in documents if is_live(each)]
            found += [key for key in keys if matches(key)]
        return found

    async def clear(self) -> int:
        """Remove every entry, and take the lease of every computation in flight."""
        removed = 0
        async for documents in self._steps():
            names = [each["_id"] for each in documents]
            await Ask(self._transport, Update(CACHE, names, become.CLEAR, self._announced()))
            removed += sum(map(is_live, documents))
        return removed

    # --- inside

    async def _steps(self) -> AsyncIterator[list[Document]]:
        after: Mapping[str, str] = {"$gte": self._keys.prefix}
        while True:
            look = Look(CACHE, {"_id": after}, LISTED, read=_same)
            found: list[Document] = await Ask(self._transport, look)
            ours = [each for each in found if each["_id"].startswith(self._keys.prefix)]
            if ours:
                yield ours
            if len(ours) < STEP:
                return
            after = {"$gt": ours[-1]["_id"]}

    async def _change(
        self,
        key: str,
        pipeline: Pipeline,
        arguments: Mapping[str, Any],
        *,
        upsert: bool = False,
        fields: Sequence[str] = (),
    ) -> Document | None:
        name = self._keys.name(key)
        change = Change(CACHE, name, pipeline, arguments, read=_same, upsert=upsert, fields=fields)
        document: Document | None = await Ask(self._transport, change)
        return document

    async def _did(self, key: str, pipeline: Pipeline, arguments: Mapping[str, Any]) -> bool:
        """Whether the operation came to pass."""
        answer = await self._change(key, pipeline, arguments, fields=("turn",))
        return answer is not None and bool(answer["turn"])

    def _message(self, key: str) -> dict[str, Any]:
        return {"channel": self._channel, "message": escaped(key)}

    def _announced(self) -> dict[str, Any]:
        return {"channel": self._channel, "skip": len(self._keys.prefix)}

    def _names(self, keys: Sequence[str]) -> list[str]:
        return [self._keys.name(key) for key in keys]

    def _key(self, name: str) -> str:
        return name[len(self._keys.prefix) :]

    def _keep(self) -> int:
        return microseconds(self._max_ttl(), "max_ttl")


def _same(answer: Any) -> Any:
    return answer


def _number(tag: Document | None) -> int:
    assert tag is not None
    return int(tag["number"])
