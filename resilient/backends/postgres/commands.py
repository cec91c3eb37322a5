"""What is sent to the server: calls of the functions in `sql/`, one statement each as a rule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

from psycopg.pq.abc import PGresult

from resilient.backends.postgres.schema import script
from resilient.backends.postgres.texts import Argument, Decoders, Row, decoders, encoding

__all__ = ["Call", "First", "Function", "Several", "Statement", "first", "same"]


class Statement:
    """A statement as a server is told it.

    Attributes:
        name: Under which a connection prepares it.
        text: What it says.
        is_first: Whether it may have no answer, and its function is called then.
        decoders: What makes values of the columns of its answer, once there was one.
    """

    __slots__ = ("decoders", "is_first", "name", "text")

    def __init__(self, text: str, *, is_first: bool = False) -> None:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.name = f"resilient_{digest}".encode()
        self.text = text.encode()
        self.is_first = is_first
        self.decoders: Decoders | None = None

    def learnt(self, result: PGresult) -> Decoders:
        """The decoders, which an answer shows: they are the same each time."""
        self.decoders = decoders(result)
        return self.decoders


class First(NamedTuple):
    """A statement that does what a function does, in the common case.

    Attributes:
        file: Where its text is, in the folder `sql`.
        size: How many of the call's parameters it takes.
    """

    file: str
    size: int


class Function:
    """A function of the server's, and what becomes of its answer.

    Args:
        name: Its name.
        read: Makes of its answer what the asker gets.
        look: A function that only reads, of the same parameters and columns: if it has a row, that
            is the answer, and the other function is not called. It is put into the statement's own
            plan, and costs a third of a call.
        first: A statement (a file of the folder `sql`) of the first few parameters that does the
            same in the common case, and answers one value; no row: the function is called.
        many: Whether the answer is rows; else it is one value, a tuple if that is a row.
        repeatable: Whether it may be sent again when its answer was lost.
        guards: How many locks must be held by those that its last arguments name.
    """

    def __init__(
        self,
        name: str,
        *,
        read: Callable[[Any], Any],
        look: str = "",
        first: First | None = None,
        many: bool = False,
        repeatable: bool = True,
        guards: int = 0,
    ) -> None:
        self.name = name
        self.read = read
        self.look = look
        self.first = first
        self.many = many
        self.repeatable = repeatable
        self.guards = guards

    @cached_property
    def whole(self) -> Function:
        """The same without what is tried first."""
        plain = Function(self.name, read=self.read, look=self.look, repeatable=self.repeatable)
        return self if self.first is None else plain

    @cached_property
    def guarded(self) -> Function:
        """The same, refused if a lock is not held (`lock_guard` in `sql/locks.sql`)."""
        return Function(
            self.name,
            read=self.read,
            many=self.many,
            repeatable=self.repeatable,
            guards=self.guards + 1,
        )


class Call:
    """A call of a function.

    Attributes:
        function: What is called.
        parameters: The arguments as the statement that is sent first takes them.
        formats: Their formats.
    """

    __slots__ = ("_arguments", "formats", "function", "parameters")

    def __init__(self, function: Function, *arguments: Argument) -> None:
        self.function = function
        self._arguments = arguments
        if function.first is not None:
            arguments = arguments[: function.first.size]
        encoders, self.formats = encoding(tuple(map(type, arguments)))
        self.parameters = [encode(each) for encode, each in zip(encoders, arguments)]  # noqa: B905 - in every call

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when its answer was lost."""
        return self.function.repeatable

    def statement(self, schema: str) -> Statement:
        """What is sent for it, to tables and functions in this schema."""
        function = self.function
        if function.first is not None:
            return _first_statement(schema, function.first.file)
        count = len(self._arguments) - 2 * function.guards
        return _statement(schema, function.look, function.name, count, function.guards)

    def whole(self) -> Call:
        """The same without what is tried first."""
        return Call(self.function.whole, *self._arguments)

    def guarded(self, lock: str, owner: str) -> Call:
        """The same, refused if the lock is not the owner's."""
        return Call(self.function.guarded, *self._arguments, lock, owner)


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
    return Statement(text)


@cache
def _first_statement(schema: str, file: str) -> Statement:
    lines = script(f"{file}.sql").replace("{schema}", schema).splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("--"))
    return Statement(text, is_first=True)


def first(rows: list[Row]) -> Row | None:
    """The first row; `None` if there is none."""
    return rows[0] if rows else None


def same(answer: Any) -> Any:
    """The answer itself."""
    return answer
