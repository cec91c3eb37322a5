"""Cached values on Redis, as plain commands read them.

A key that had a value when it was last seen is read by a plain `MGET`, which costs the server
a tenth of a script: if the value is gone, the script is a second round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from resilient.backends.redis.cache_records import (
    BORN,
    HEAD,
    MICRO,
    Numbers,
    Record,
    numbers_of,
    stored_of,
    tags_of,
)
from resilient.backends.redis.commands import Batch, Plain, Read
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.server import Server
from resilient.engine.cache_defaults import CacheDefaults
from resilient.engine.plan import Ask, all_of
from resilient.protocols.cache import Entry
from resilient.protocols.values import Encoded

__all__ = ["TIME", "RedisReads"]

MAX_PRESENT = 100_000
"""How many keys are remembered to have had a value."""
TIME = Plain("TIME")


class Look(NamedTuple):
    """How the value of one key is read by plain commands.

    Attributes:
        ask: Asks for the value, the numbers of its tags, and the time.
        tags: The tags that it should have.
        stored: Those as they lie beside the value, if it has just them.
    """

    ask: Ask
    tags: tuple[str, ...]
    stored: bytes


class RedisReads(CacheDefaults):
    """The part of a cache that reads what is there."""

    def __init__(self, transport: Server, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl
        self._events = keys.broadcast("cache")
        self._present: dict[str, Look | None] = {}

    async def get(self, key: str) -> Entry | None:
        """The live value."""
        record, numbers = await self._looked(key, ())
        if record is None or record.entry.ttl <= 0:
            return None
        of_value = await self._oldest_valid(record.born, record.entry.tags, numbers)
        return record.entry if of_value <= record.born else None

    async def has(self, key: str) -> bool:
        """Whether there is a live value."""
        return await self.get(key) is not None

    async def look(self, key: str, *, tags: Sequence[str] = ()) -> Encoded | None:
        """The fresh value of a key that had one when it was last seen, by plain commands."""
        if key not in self._present:
            return None
        look = self._present[key]
        if look is None or look.tags != tags:
            look = self._present[key] = self._look_at(key, tuple(tags))
        (stored, *numbers), (seconds, micros) = await look.ask
        # Times are compared as they are written: 16 digits each, until the year 2286.
        if stored is None or stored[32:48] <= seconds + micros.rjust(6, b"0"):
            self._present.pop(key, None)
            return None
        born = stored[:BORN]
        try:
            ends = HEAD + int(stored[104:HEAD])
            if stored[HEAD:ends] != look.stored:  # it has other tags than those of its call
                actual = tags_of(stored[HEAD:ends])
                self._present[key] = self._look_at(key, actual)._replace(tags=look.tags)
                return None
        except ValueError:  # others have written it
            self._present.pop(key, None)
            return None
        for number in numbers:
            if number is None or number > born:
                self._present.pop(key, None)
                return None
        return Encoded(stored[ends:])

    def _look_at(self, key: str, tags: Sequence[str]) -> Look:
        [name] = self._keys.names("cache", key)
        ask = Read(name, *map(self._keys.tag, tags))
        batch = Batch([ask, TIME.at(name)])
        return Look(Ask(self._transport, batch), tuple(tags), stored_of(tags).encode())

    async def _hits(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, Entry]:
        """Those of the keys, with their tags, that have a fresh value: by plain commands."""
        if not wanted:
            return {}
        if self._keys.clustered:  # each is judged by the clock of its own server
            looks = await all_of([self._looked(key, its) for key, its in wanted.items()])
        else:
            looks = await self._looked_together(wanted)
        hits = {}
        for key, (record, numbers) in zip(wanted, looks, strict=True):
            if record is not None and record.entry.fresh > 0:
                of_value = await self._oldest_valid(record.born, record.entry.tags, numbers)
                if of_value <= record.born:
                    hits[key] = record.entry
        return hits

    async def _looked_together(
        self, wanted: Mapping[str, Sequence[str]]
    ) -> list[tuple[Record | None, Numbers]]:
        """The same for several keys, of one server and one moment."""
        names = [self._keys.names("cache", key)[0] for key in wanted]
        tags = list(dict.fromkeys(tag for its in wanted.values() for tag in its))
        look = Read(*names, *map(self._keys.tag, tags))
        found, (seconds, micros) = await Ask(self._transport, Batch([look, TIME]))
        now, numbers = int(seconds) * MICRO + int(micros), numbers_of(tags, found[len(names) :])
        return [(Record.of(stored, now), numbers) for stored in found[: len(names)]]

    async def _looked(self, key: str, tags: Sequence[str]) -> tuple[Record | None, Numbers]:
        """What is kept of a value, by plain commands, and the numbers of tags."""
        (stored, *found), (seconds, micros) = await self._look_at(key, tags).ask
        record = Record.of(stored, int(seconds) * MICRO + int(micros))
        return record, numbers_of(tags, found)

    def _remember(self, key: str) -> None:
        if len(self._present) >= MAX_PRESENT:
            self._present.clear()
        self._present.setdefault(key, None)

    async def _oldest_valid(self, born: int, tags: Sequence[str], numbers: Numbers) -> int:
        """The earliest birth of a value with these tags that may be served, as of now."""
        if not tags:
            return 0
        unknown = [tag for tag in tags if tag not in numbers]
        if unknown:
            found = await Ask(self._transport, Read(*map(self._keys.tag, unknown)))
            numbers = {**numbers, **numbers_of(unknown, found)}
        of_tags = [numbers[tag] for tag in tags]
        # A tag that the server has lost may have been invalidated meanwhile.
        return max(born + 1 if number is None else number for number in of_tags)
