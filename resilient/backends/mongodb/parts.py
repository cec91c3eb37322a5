"""What is too large for a document: it lies in documents of its own, and is pointed at.

A document has room for 16 MB (https://www.mongodb.com/docs/manual/reference/limits/), and all of
it is written anew when a field of it changes. So what is large is written beside it first, where
nobody looks for it, and then the operation on the document itself, under its fence, points there.
What nothing points at any more is removed; what was missed, since a process was killed in between,
is removed by the server when its time is over.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from resilient.backends.mongodb.commands import Document, Look, Removal, Update, compiled
from resilient.backends.mongodb.expressions import NOW, added, argument, largest, put, when_gone
from resilient.engine.plan import Ask, Transport, all_of

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = ["Parts", "Place", "Stored", "is_beside"]

PARTS = "parts"
CHUNK = 8 << 20
"""Bytes of one part: half of what a document has room for."""


class Place(TypedDict):
    """Where a value lies: what the names of its parts begin with, and how many there are."""

    at: str
    count: int


Stored = bytes | Place
"""A value as it lies in a document: itself, or where it is."""

WRITE = compiled(put(value=argument("value"), gone=when_gone(added(NOW, argument("keep")))))
KEEP = compiled(put(gone=largest("$gone", when_gone(added(NOW, argument("keep"))))))
VALUE = compiled({"$project": {"value": 1}})


class Parts:
    """Values beside the documents that point at them.

    Args:
        transport: How the server is reached.
    """

    def __init__(self, transport: Transport[Any]) -> None:
        self._transport = transport

    async def put(self, value: bytes, limit: int, keep: int) -> Stored:
        """The value as it is to be stored: beside the document, if it is longer than the limit.

        Args:
            value: The bytes.
            limit: How many of them have room in the document.
            keep: Microseconds for which what lies beside it is kept at least.
        """
        if len(value) <= limit:
            return value
        place = Place(at=secrets.token_hex(12), count=-(-len(value) // CHUNK))
        chunks = [value[start : start + CHUNK] for start in range(0, len(value), CHUNK)]
        for name, chunk in zip(_names(place), chunks, strict=True):
            arguments = {"value": chunk, "keep": keep}
            await Ask(self._transport, Update(PARTS, [name], WRITE, arguments, upsert=True))
        return place

    async def get(self, stored: Sequence[Stored]) -> list[bytes]:
        """The bytes of each."""
        names = [name for each in stored if is_beside(each) for name in _names(each)]
        chunks = await all_of([self._chunk(name) for name in names])
        found = dict(zip(names, chunks, strict=True))
        return [
            each if isinstance(each, bytes) else b"".join(found[name] for name in _names(each))
            for each in stored
        ]

    async def _chunk(self, name: str) -> bytes:
        look = Look(PARTS, {"_id": name}, VALUE, read=_value)
        chunk: bytes = await Ask(self._transport, look)
        return chunk

    async def keep(self, places: Iterable[Place], keep: int) -> None:
        """Keep these for so many microseconds from now at least."""
        names = [name for place in places for name in _names(place)]
        if names:
            await Ask(self._transport, Update(PARTS, names, KEEP, {"keep": keep}))

    async def remove(self, places: Iterable[Place]) -> None:
        """Remove what nothing points at any more."""
        names = [name for place in places for name in _names(place)]
        if names:
            await Ask(self._transport, Removal(PARTS, names))


def is_beside(stored: Stored) -> TypeIs[Place]:
    """Whether a value lies beside its document."""
    return isinstance(stored, dict)


def _names(place: Place) -> list[str]:
    return [f"{place['at']}:{number}" for number in range(place["count"])]


def _value(found: list[Document]) -> bytes:
    return bytes(found[0]["value"]) if found else b""
