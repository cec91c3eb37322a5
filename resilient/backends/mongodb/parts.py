"""What is too large for a document: it lies in documents of its own, and is pointed at.

A document has room for 16 MB (https://www.mongodb.com/docs/manual/reference/limits/), and all of
it is written anew when a field of it changes. So what is large is written beside it first, where
nobody looks for it, and then the operation on the document itself, under its fence, points there.
What nothing points at any more is removed; what was missed, since a process was killed in between,
is removed by the server when its time is over.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from resilient.backends.mongodb.commands import Document, Look, Removal, Update, compiled
from resilient.backends.mongodb.expressions import NOW, added, argument, largest, put, when_gone
from resilient.backends.mongodb.keys import collection
from resilient.engine.plan import Ask, Plan, Transport, all_of
from resilient.errors import BackendError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = ["Parts", "PartsGone", "Place", "Stored", "is_beside", "read_whole"]

T = TypeVar("T")

PARTS = "parts"
READINGS = 10
"""How often a document is read whose parts are gone by then: each time, somebody has replaced or
removed the value meanwhile."""
CHUNK = 8 << 20
"""Bytes of one part: half of what a document has room for."""


class Place(TypedDict):
    """Where a value lies: what the names of its parts begin with, and how many bytes it has."""

    at: str
    size: int


Stored = bytes | Place
"""A value as it lies in a document: itself, or where it is."""

WRITE = compiled(put(value=argument("value"), gone=when_gone(added(NOW, argument("keep")))))
KEEP = compiled(put(gone=largest("$gone", when_gone(added(NOW, argument("keep"))))))
VALUE = compiled({"$project": {"value": 1}})


class PartsGone(BackendError):
    """A value is not whole any more: the document that pointed at it may point elsewhere now."""


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
        place = Place(at=secrets.token_hex(12), size=len(value))
        chunks = [value[start : start + CHUNK] for start in range(0, len(value), CHUNK)]
        for name, chunk in zip(_names(place), chunks, strict=True):
            arguments = {"value": chunk, "keep": keep}
            await Ask(self._transport, Update(PARTS, [name], WRITE, arguments, upsert=True))
        return place

    async def get(self, stored: Sequence[Stored]) -> list[bytes]:
        """The bytes of each.

        Raises:
            PartsGone: Something of one has been removed, since its document was read or too early.
        """
        trips = _trips([each for each in stored if is_beside(each)])
        found: dict[str, bytes] = {}
        for chunks in await all_of([self._read(names) for names in trips]):
            found |= chunks
        return [each if isinstance(each, bytes) else _joined(each, found) for each in stored]

    async def _read(self, names: list[str]) -> dict[str, bytes]:
        look = Look(PARTS, {"_id": {"$in": names}}, VALUE, read=_values)
        chunks: dict[str, bytes] = await Ask(self._transport, look)
        return chunks

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


async def read_whole(read: Callable[[], Plan[T]]) -> T:
    """What is read of a document and then of its parts: anew, if these were replaced in between.

    Args:
        read: Makes a plan that reads the document first.

    Raises:
        PartsGone: Again and again: they are not replaced, they are lost.
    """
    for _ in range(READINGS - 1):
        try:
            return await read()
        except PartsGone:
            continue
    return await read()


def _joined(place: Place, found: dict[str, bytes]) -> bytes:
    """The bytes of a value, of all its parts."""
    names = _names(place)
    gone = [name for name in names if name not in found]
    if gone:
        raise PartsGone(
            f"of a value of {place['size']} bytes, {len(gone)} of {len(names)} parts are missing "
            f"in {collection(PARTS)}: {gone[0]!r}",
            transient=False,
        )
    return b"".join(found[name] for name in names)


def _names(place: Place) -> list[str]:
    return [f"{place['at']}:{number}" for number in range(-(-place["size"] // CHUNK))]


def _trips(places: Iterable[Place]) -> Iterator[list[str]]:
    """The names of the parts of several values, as many at once as a reply has room for."""
    names: list[str] = []
    room = CHUNK
    for place in places:
        for number, name in enumerate(_names(place)):
            size = min(CHUNK, place["size"] - number * CHUNK) + 64
            if names and size > room:
                yield names
                names, room = [], CHUNK
            names.append(name)
            room -= size
    if names:
        yield names


def _values(found: list[Document]) -> dict[str, bytes]:
    return {each["_id"]: bytes(each["value"]) for each in found}
