"""What is sent to the server: calls of the functions in `sql/`, one statement each as a rule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from resilient.backends.postgres.schema import script
from resilient.backends.postgres.texts import Argument, Row, encoded, encoding

__all__ = ["Call", "First", "Several", "Statement", "first", "same"]


class Statement(NamedTuple):
    """A statement, and the name under which a connection prepares it."""

    name: bytes
    text: bytes


class First(NamedTuple):
    """A statement that does what a function does, in the common case.

    Attributes:
        file: Where its text is, in the folder `sql`.
        size: How many of the call's parameters it takes.
    """

    file: str
    size: int

    def statement(self, schema: str) -> Statement:
        """The statement, for tables in this schema."""
        return _first_statement(schema, self.file)


class Call:
    """A call of one function.

    Args:
        function: Its name.
        arguments: For its parameters.
        look: A function that only reads, of the same parameters and columns: if it has a row, that
            is the answer, and the other function is not called. It is put into the statement's own
            plan, and costs a third of a call.
        first: A statement (a file of the folder `sql`) of the first few parameters that does the
            same in the common case, and answers one value; no row: the function is called.
        read: Makes of its answer what the asker gets.
        many: Whether the answer is rows; else it is one value, a tuple if that is a row.
        repeatable: Whether it may be sent again when its answer was lost.
    """

    __slots__ = (
        "_function",
        "_guards",
        "_look",
        "first",
        "formats",
        "many",
        "parameters",
        "read",
        "repeatable",
    )

    def __init__(
        self,
        function: str,
        *arguments: Argument,
        read: Callable[[Any], Any],
        look: str = "",
        first: First | None = None,
        many: bool = False,
        repeatable: bool = True,
    ) -> None:
        self._function = function
        self._look = look
        self._guards = 0
        self.first = first
        self.many = many
        encoders, self.formats = encoding(tuple(map(type, arguments)))
        self.parameters = [encode(each) for encode, each in zip(encoders, arguments)]  # noqa: B905 - in every call
        self.read = read
        self.repeatable = repeatable

    def statement(self, schema: str) -> Statement:
        """The statement, for functions in this schema."""
        count = len(self.parameters) - 2 * self._guards
        return _statement(schema, self._look, self._function, count, self._guards)

    def guarded(self, lock: str, owner: str) -> Call:
        """The same, refused if the lock is not the owner's (`lock_guard` in `sql/locks.sql`)."""
        call: Call = Call.__new__(Call)
        call._function, call._look, call.many = self._function, "", self.many
        call._guards = self._guards + 1
        call.first = None
        call.parameters = [*self.parameters, encoded(lock), encoded(owner)]
        call.formats = None if self.formats is None else [*self.formats, 0, 0]
        call.read, call.repeatable = self.read, self.repeatable
        return call


class Several(NamedTuple):
    """Several calls in one trip, each in a transaction of its own."""

    calls: Sequence[Call]

    @property
    def repeatable(self) -> bool:
        """Whether all may be sent again."""
        return all(call.repeatable for call in self.calls)


@cache
def _statement(schema: str, look: str, function: str, count: int, guards: int) -> Statement:
    places = [f"${number}" for number in range(1, count + 1)]
    source = ""
    if guards:
        held = " AND ".join(
            f"{schema}.lock_guard(${number}, ${number + 1})"
            for number in range(count + 1, count + 2 * guards, 2)
        )
        source = f"(SELECT {held} AS held OFFSET 0) AS guard"
        # The guard comes first, because the function's first argument depends on it.
        kind = "text[]" if function in ("cache_invalidate", "cache_remove") else "text"
        places[0] = f"CASE WHEN guard.held THEN $1::{kind} END"
    call = f"{schema}.{function}({', '.join(places)})"
    text = f"SELECT answer.* FROM {source + ', LATERAL ' if source else ''}{call} AS answer"
    if look:
        # Both would be right: that the first one is asked first only saves time.
        looked = f"SELECT answer.* FROM {schema}.{look}({', '.join(places)}) AS answer"
        text = f"({looked}) UNION ALL ({text}) LIMIT 1"
    return _named(text)


@cache
def _first_statement(schema: str, file: str) -> Statement:
    lines = script(f"{file}.sql").replace("{schema}", schema).splitlines()
    return _named("\n".join(line for line in lines if not line.lstrip().startswith("--")))


def _named(text: str) -> Statement:
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Statement(f"resilient_{digest}".encode(), text.encode())


def first(rows: list[Row]) -> Row | None:
    """The first row; `None` if there is none."""
    return rows[0] if rows else None


def same(answer: Any) -> Any:
    """The answer itself."""
    return answer
