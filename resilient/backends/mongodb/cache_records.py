"""How values and tags lie on MongoDB (`cache_pipelines.py`), as they are read from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from resilient.backends.mongodb.commands import Document
from resilient.backends.mongodb.times import microseconds
from resilient.protocols.cache import Entry

__all__ = ["ABSENT", "Found", "are_current", "is_current", "is_live", "times_of"]


class Found(NamedTuple):
    """What lies at a key.

    Attributes:
        born: Which value it is; 0: there is none.
        entry: The value with its times, if no tag has made it a miss.
    """

    born: int
    entry: Entry | None


ABSENT = Found(0, None)


def is_live(document: Document) -> bool:
    """Whether a value that was read with its tags may be served."""
    return document.get("served", 0) > document["at"] and is_current(document)


def is_current(document: Document) -> bool:
    """Whether each tag of a value has the number that it had when the value was computed."""
    tags = document["tags"]
    return not tags or are_current(tags, document["seen"], document["found"], document["at"])


def are_current(
    tags: Sequence[str], seen: Sequence[int], found: Sequence[Document], at: int
) -> bool:
    """The same of a value with these tags, by what was found of them."""
    numbers = {each["_id"]: each["number"] for each in found if each["expires"] > at}
    return all(numbers.get(tag) == number for tag, number in zip(tags, seen, strict=True))


def times_of(ttl: float, fresh: float | None, stale: float) -> dict[str, int]:
    """For how long a value is served, and fresh, and kept, in µs."""
    kept = microseconds(ttl + stale, "ttl")
    served = round(ttl * 1e6)
    is_fresh = served if fresh is None else min(round(fresh * 1e6), served)
    return {"served": served, "fresh": is_fresh, "kept": kept}
