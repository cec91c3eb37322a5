"""Values on their way to the server and back.

Parameters go as text, bytes as they are; answers come in the binary format
(https://www.postgresql.org/docs/current/protocol-overview.html#PROTOCOL-FORMAT-CODES). PostgreSQL
has no NUL in a text: it is percent-escaped, in every text alike.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

from psycopg.pq.abc import PGresult

from resilient.errors import ConfigurationError

__all__ = [
    "Argument",
    "Decoders",
    "Row",
    "decoders",
    "encoded",
    "encoding",
    "escaped",
    "microseconds",
    "row",
    "rows",
    "unescaped",
]

Argument = str | bytes | int | float | Sequence[str] | None
Row = tuple[Any, ...]
Encoder = Callable[[Any], bytes | None]
Decoders = list[Callable[[bytes], Any]]

_BOOL, _BYTEA, _INT8, _INT4, _TEXT, _FLOAT8, _VOID = 16, 17, 20, 23, 25, 701, 2278
_BYTEA_ARRAY, _TEXT_ARRAY = 1001, 1009
_long = struct.Struct(">q").unpack
_float = struct.Struct(">d").unpack
_array_head = struct.Struct(">iiI")
_dimension = struct.Struct(">ii")
_length = struct.Struct(">i")
_field = struct.Struct(">Ii")


@lru_cache(maxsize=256)
def microseconds(seconds: float, option: str) -> int:
    """Seconds as the server takes them; at least one microsecond. Most calls ask for the same."""
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(f"{option}={seconds!r}: seconds must be positive and finite")
    return max(1, round(seconds * 1e6))


def escaped(text: str) -> str:
    """The text without NULs."""
    if "%" not in text and "\0" not in text:
        return text
    return text.replace("%", "%25").replace("\0", "%00")


def unescaped(text: str) -> str:
    """The text that was escaped."""
    return text.replace("%00", "\0").replace("%25", "%") if "%" in text else text


def encoded(argument: Argument) -> bytes | None:
    """A parameter; bytes go in the binary format, anything else in the text format."""
    if isinstance(argument, str):
        return _utf8(escaped(str(argument)))  # plain, if it is of an enumeration
    if argument is None or isinstance(argument, bytes):
        return argument
    if argument is True or argument is False:
        return b"t" if argument else b"f"
    if isinstance(argument, int):
        return b"%d" % argument
    if isinstance(argument, float):
        return repr(argument).encode()
    quoted = [escaped(each).replace("\\", "\\\\").replace('"', '\\"') for each in argument]
    return _utf8("{" + ",".join(f'"{each}"' for each in quoted) + "}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{error.object!r} is no text that UTF-8 can encode") from error


def _text_argument(text: str) -> bytes:
    if "%" not in text and "\0" not in text and text.isascii():  # almost every one, in one call
        return text.encode()
    return _utf8(escaped(text))


# For just these types; without a Python function where that can be.
_ENCODERS: dict[type, Encoder] = {
    str: _text_argument,
    int: b"%d".__mod__,
    bytes: bytes,
    bool: {True: b"t", False: b"f"}.get,
    type(None): {None: None}.get,
}


@cache
def encoding(types: tuple[type, ...]) -> tuple[list[Encoder], list[int] | None]:
    """What encodes arguments of these types, and their formats; `None`: all go as text."""
    formats = [1 if issubclass(each, bytes) else 0 for each in types]
    return [_ENCODERS.get(each, encoded) for each in types], formats if any(formats) else None


def decoders(result: PGresult) -> Decoders:
    """What makes values of the columns of an answer."""
    return [_DECODERS.get(result.ftype(column), _row) for column in range(result.nfields)]


def rows(result: PGresult, decoders: Decoders) -> list[Row]:
    """The rows of an answer in the binary format."""
    return [row(result, number, decoders) for number in range(result.ntuples)]


def row(result: PGresult, number: int, decoders: Decoders) -> Row:
    """One of them."""
    value = result.get_value
    return tuple(
        [
            None if (data := value(number, column)) is None else decode(data)
            for column, decode in enumerate(decoders)
        ]
    )


def _row(data: bytes) -> Row:
    """A row that is one value: of each field its type, its length, and its value."""
    (count,) = _length.unpack_from(data)
    at = 4
    fields: list[Any] = []
    for _ in range(count):
        kind, size = _field.unpack_from(data, at)
        at += 8
        if size < 0:
            fields.append(None)
        else:
            fields.append(_DECODERS.get(kind, _row)(data[at : at + size]))
            at += size
    return tuple(fields)


def _int8(data: bytes) -> int:
    value: int
    (value,) = _long(data)
    return value


def _text(data: bytes) -> str:
    text = data.decode()
    return text if "%" not in text else unescaped(text)


def _array(decode: Callable[[bytes], Any]) -> Callable[[bytes], list[Any]]:
    def decoded(data: bytes) -> list[Any]:
        dimensions, _, _ = _array_head.unpack_from(data)
        if not dimensions:
            return []
        count, _ = _dimension.unpack_from(data, _array_head.size)
        at, found = _array_head.size + _dimension.size, []
        for _ in range(count):
            (size,) = _length.unpack_from(data, at)
            at += _length.size
            found.append(decode(data[at : at + size]))
            at += size
        return found

    return decoded


_DECODERS: dict[int, Callable[[bytes], Any]] = {
    _BOOL: b"\x01".__eq__,
    _BYTEA: bytes,
    _INT8: _int8,
    _INT4: lambda data: _length.unpack(data)[0],
    _TEXT: _text,
    _FLOAT8: lambda data: _float(data)[0],
    _VOID: lambda data: None,
    _BYTEA_ARRAY: _array(bytes),
    _TEXT_ARRAY: _array(_text),
}
