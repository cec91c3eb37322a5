"""The self-describing form: msgpack, with an extension type for whatever msgpack does not tell.

    None bool int float str bytes list dict[str, ...]    as msgpack has them
    any other built-in value                             extension `code`: its content
    an object of a class                                 extension `code`: [class name, content]

The content is written in the same form again. Extension types cannot be produced by a user's
data, so no dict, list or text is ever taken for one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from msgspec.msgpack import Decoder, Encoder, Ext

from resilient.engine.codecs.base import BY_ANNOTATION, SELF_DESCRIBING, SIGNED_PICKLE, reason_of
from resilient.engine.codecs.classes import KINDS, Classes, class_named, kind_of, name_for
from resilient.engine.names import name_of
from resilient.errors import CodecError
from resilient.protocols.values import Encoded

__all__ = ["ANY", "SelfDescribing", "decode", "encode"]


class SelfDescribing:
    """The codec whose stored form says what each value is.

    Args:
        classes: Classes by name that may be local to a function; others are found by their name.
    """

    def __init__(self, classes: Classes | None = None) -> None:
        self._classes: Classes = classes or {}
        self._decoder = Decoder(ext_hook=self._made)

    def encode(self, value: Any) -> Encoded:
        """Return the stored form; see `Codec.encode`."""
        try:
            try:
                taken = value if type(value) in _PLAIN else self._taken(value, _PLAIN)
                written: Any = SELF_DESCRIBING + _write(taken)
                encoded: Encoded = written  # to call `Encoded` would take half as long again
                return encoded
            except (OverflowError, UnicodeEncodeError):
                # An integer beyond 64 bits or a text that is no Unicode: now each one is looked at.
                return Encoded(SELF_DESCRIBING + _write(self._taken(value, _CERTAIN)))
        except RecursionError:
            raise CodecError(
                f"a {name_of(type(value))} cannot be stored: it contains itself, or is nested "
                "too deeply"
            ) from None
        except CodecError:
            raise
        except Exception as error:  # whatever an object that is half made raises when looked at
            raise CodecError(
                f"a {name_of(type(value))} cannot be stored: {reason_of(error)}"
            ) from error

    def decode(self, data: Encoded) -> Any:
        """Return the stored value; see `Codec.decode`."""
        if data[:1] != SELF_DESCRIBING:
            raise CodecError(_FOREIGN.get(data[:1], "the stored bytes are no value of ours"))
        try:
            return self._decoder.decode(memoryview(data)[1:])
        except CodecError:
            raise
        except Exception as error:  # whatever damaged or hostile bytes make a type raise
            raise CodecError(f"the stored value cannot be read: {error}") from error

    def fields(self, data: Encoded) -> dict[str, Any] | None:
        """The fields of a stored record by name, whatever has become of its class; else `None`.

        Raises:
            CodecError: What is in the fields cannot be read.
        """
        try:
            stored = Decoder().decode(memoryview(data)[1:])
            if data[:1] == SELF_DESCRIBING and isinstance(stored, Ext) and stored.code in KINDS:
                fields = KINDS[stored.code].fields
                if fields is not None:
                    _, content = self._decoder.decode(stored.data)
                    return fields(content)
        except CodecError:
            raise
        except Exception as error:  # as above
            raise CodecError(f"the stored value cannot be read: {error}") from error
        return None

    def _taken(self, value: Any, plain: frozenset[type]) -> Any:
        """Return the value as msgpack can write it: itself, where it tells its type."""
        kind = type(value)
        if kind in plain:
            return value
        if kind is list:
            if plain.issuperset(map(type, value)):
                return value
            return [self._taken(item, plain) for item in value]
        if kind is dict and _TEXT.issuperset(map(type, value)) and str in plain:
            if plain.issuperset(map(type, value.values())):
                return value
            return {key: self._taken(item, plain) for key, item in value.items()}
        built_in = _BUILT_IN.get(kind)
        if built_in is not None:
            if built_in.is_plain(value):
                return value
            return Ext(built_in.code, _write(self._taken(built_in.take(value), plain)))
        return self._taken_object(value, plain)

    def _taken_object(self, value: Any, plain: frozenset[type]) -> Ext:
        cls: Any = type(value)
        code = kind_of(cls)
        if code is None:
            raise CodecError(
                f"a {name_of(cls)} cannot be stored: it would not come back as what it is; "
                "return data (a dataclass, a model, built-in types), or choose a codec"
            )
        content = [name_for(cls, self._classes), KINDS[code].take(value)]
        return Ext(code, _write(self._taken(content, plain)))

    def _made(self, code: int, data: memoryview) -> Any:
        content = self._decoder.decode(data)
        if code in _BY_CODE:
            return _BY_CODE[code].make(content)
        if code not in KINDS:
            raise CodecError(f"the stored value is of the unknown kind {code}")
        name, content = content
        cls = class_named(name, self._classes)
        if kind_of(cls) != code:
            raise CodecError(f"the class {name} is no longer of the kind that was stored")
        return KINDS[code].make(cls, content)


_write = Encoder().encode

_PLAIN = frozenset({NoneType, bool, int, float, str, bytes})
_CERTAIN = _PLAIN - {int, str}
"""Of these, msgpack can write every value."""

_TEXT = frozenset({str})

_FOREIGN = {
    BY_ANNOTATION: "the value was stored by the return annotation of a function, and the "
    "annotation is another one now, or it is read in another way",
    SIGNED_PICKLE: "the value is a pickle, and this codec reads none",
}


class BuiltIn(NamedTuple):
    """A built-in type in stored form.

    Attributes:
        code: The extension type; it never changes its meaning.
        take: Returns what a value is made of.
        make: Returns the value made of that.
        is_plain: Whether msgpack tells this value as it is.
    """

    code: int
    take: Callable[[Any], Any]
    make: Callable[[Any], Any]
    is_plain: Callable[[Any], bool] = lambda value: False


def _take_pairs(value: dict[Any, Any]) -> list[Any]:
    return [each for pair in value.items() for each in pair]


def _make_pairs(content: list[Any]) -> dict[Any, Any]:
    return dict(zip(content[::2], content[1::2], strict=True))


def _take_integer(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _make_integer(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _take_moment(value: datetime | time) -> list[Any]:
    # With its zone, not the zone's offset: tomorrow in Berlin may be 23 hours away. A time zone
    # of another kind (pytz, dateutil) is refused like every unknown object.
    return [value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo]


def _make_moment(kind: Any, content: list[Any]) -> Any:
    text, fold, zone = content
    return kind.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _take_zone(value: ZoneInfo) -> str:
    if value.key is None:
        raise CodecError("a ZoneInfo without a key cannot be stored: nothing names it")
    return value.key


def _path(kind: type[PurePath], code: int) -> tuple[type, BuiltIn]:
    return kind, BuiltIn(code, str, kind)


_BUILT_IN: dict[type, BuiltIn] = {
    tuple: BuiltIn(1, list, tuple),
    set: BuiltIn(2, list, set),
    frozenset: BuiltIn(3, list, frozenset),
    dict: BuiltIn(4, _take_pairs, _make_pairs),
    bytearray: BuiltIn(5, bytes, bytearray),
    int: BuiltIn(6, _take_integer, _make_integer, lambda value: -(1 << 63) <= value < 1 << 64),
    str: BuiltIn(
        7,
        lambda value: value.encode("utf-8", "surrogatepass"),
        lambda content: content.decode("utf-8", "surrogatepass"),
        _is_text,
    ),
    complex: BuiltIn(8, lambda z: [z.real, z.imag], lambda content: complex(*content)),
    Decimal: BuiltIn(9, str, Decimal),
    UUID: BuiltIn(10, lambda value: value.bytes, lambda content: UUID(bytes=content)),
    date: BuiltIn(11, date.isoformat, date.fromisoformat),
    datetime: BuiltIn(12, _take_moment, lambda content: _make_moment(datetime, content)),
    time: BuiltIn(13, _take_moment, lambda content: _make_moment(time, content)),
    timedelta: BuiltIn(
        14,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda content: timedelta(*content),
    ),
    timezone: BuiltIn(
        15,
        lambda value: list(value.__getinitargs__()),
        lambda content: timezone(*content),
    ),
    ZoneInfo: BuiltIn(16, _take_zone, ZoneInfo),
    **dict(
        [
            _path(PurePosixPath, 17),
            _path(PureWindowsPath, 18),
            _path(PosixPath, 19),
            _path(WindowsPath, 20),
        ]
    ),
}

_BY_CODE = {built_in.code: built_in for built_in in _BUILT_IN.values()}

ANY = SelfDescribing()
"""The codec that needs no annotation."""


def encode(value: Any) -> Encoded:
    """Return the self-describing form of a value.

    Raises:
        CodecError: The value has no form from which it would come back as what it is.

    Example:
        >>> decode(encode({"at": date(2024, 5, 1), 7: (1, 2)}))
        {'at': datetime.date(2024, 5, 1), 7: (1, 2)}
    """
    return ANY.encode(value)


def decode(data: Encoded) -> Any:
    """Return the value of a self-describing form, a fresh object each time.

    Raises:
        CodecError: The bytes are damaged, foreign, or of a type that is no longer there.
    """
    return ANY.decode(data)
