"""How values and tags lie on Redis (`lua/cache/record.lua`), read and written from here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from resilient.backends.redis.commands import milliseconds
from resilient.protocols.cache import Entry
from resilient.protocols.values import Encoded

__all__ = [
    "BORN",
    "HEAD",
    "MICRO",
    "Numbers",
    "Record",
    "newest",
    "numbers_of",
    "stored_of",
    "tags_of",
    "times_of",
]

BORN = 16
"""Bytes of a birth, which a record begins with, and which is all that a tag is."""
HEAD = 113
"""Bytes of a record before its tags."""
MICRO = 1_000_000

Numbers = dict[str, int | None]
"""The numbers of tags; `None`: the server has no such tag."""


class Record(NamedTuple):
    """What is kept of a value (`lua/cache/record.lua`).

    Attributes:
        entry: The value, its times and its tags.
        born: When it was, in µs.
    """

    entry: Entry
    born: int

    @classmethod
    def of(cls, stored: bytes | None, now: int) -> Record | None:
        """Read a record at a time of the server's, in µs; `None` for what is none."""
        if stored is None or len(stored) < HEAD:
            return None
        try:
            ends = HEAD + int(stored[104:HEAD])
            ttl, fresh = int(stored[16:32]) - now, int(stored[32:48]) - now
            kept = int(stored[48:64]) - now
            value, tags = Encoded(stored[ends:]), tags_of(stored[HEAD:ends])
            born = int(stored[:BORN])
        except ValueError:  # others have written it
            return None
        return cls(Entry(value, ttl / MICRO, fresh / MICRO, kept / MICRO, tags, born), born)


def numbers_of(tags: Sequence[str], found: Sequence[bytes | None]) -> Numbers:
    """What the server answered, by tag."""
    pairs = zip(tags, found, strict=True)
    return {tag: None if number is None else int(number) for tag, number in pairs}


def newest(numbers: Numbers) -> int:
    """When one of the tags was last invalidated."""
    return max((number for number in numbers.values() if number is not None), default=0)


def times_of(ttl: float, fresh: float | None, stale: float) -> tuple[int, int, int]:
    """For how long a value is kept, and of that not served, and not fresh, in ms."""
    kept = milliseconds(ttl + stale, "ttl")
    unserved = min(round(stale * 1000), kept)
    lag = 0 if fresh is None else max(round((ttl - fresh) * 1000), 0)
    return kept, unserved, lag


def stored_of(tags: Iterable[str]) -> str:
    """Tags as they lie beside their value; nothing for none."""
    listed = list(tags)
    return json.dumps(listed) if listed else ""


def tags_of(stored: bytes) -> tuple[str, ...]:
    """The tags that lie beside a value; `ValueError` for what are none."""
    tags: object = json.loads(stored) if stored else []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"{stored!r} are no tags")
    return tuple(tags)
