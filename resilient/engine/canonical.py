"""The canonical text of a value: equal for equal values, different for different ones.

Keys and fingerprints are made of it, so it must be

* **injective**: `1`, `True`, `1.0`, `"1"`, `b"1"`, `None` and `"None"` have seven texts, and no
  two structures meet, because texts are quoted and every composite has its own brackets;
* **the same everywhere**: no `hash()`, no `id()`, no order of sets, no `repr` of a user's class.

An object that is told apart by its address only has no such text, and is refused: the address
means nothing in another process, and in this one it is used again for another object.
"""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from json.encoder import encode_basestring
from operator import attrgetter
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, FunctionType
from typing import Any
from uuid import UUID

from resilient.engine.names import importable, name_of
from resilient.errors import ConfigurationError

__all__ = ["canonical", "plain_text", "says_what_it_is"]


def canonical(value: Any) -> str:
    """Return the canonical text of a value.

    A class of your own is known by its fields (dataclass, attrs, msgspec, pydantic, named tuple),
    or says what identifies it with a method `__resilient_key__`, whose result stands for it.

    Raises:
        ConfigurationError: The value, or something in it, has no identity but its address, or
            contains itself.

    Example:
        >>> canonical((1, "a", {"b": None}))
        '(1,"a",dict("b":None))'
    """
    try:
        return _text(value)
    except RecursionError:
        raise ConfigurationError(
            f"a {name_of(type(value))} cannot be part of a key: it contains itself, or is nested "
            "too deeply"
        ) from None


def plain_text(value: Any) -> str | None:
    r"""Return the text that a person would write for a scalar; `None` if it is not a scalar.

    Example:
        >>> plain_text(Decimal("1.50")), plain_text(b"\xff"), plain_text([1])
        ('1.50', 'ff', None)
    """
    if _declared_key(value) is not None:
        return None
    if isinstance(value, Enum) and not isinstance(value, str | int):
        # By its name. An enum whose members equal texts or numbers meets those, by its value.
        return value.name if value.name and not isinstance(value, Flag) else None
    for kind in type(value).__mro__:
        if kind in _SCALARS:
            return _SCALARS[kind](value) if _is_only(value) else None
    return _lazy_scalar(value)


def says_what_it_is(value: Any) -> bool:
    """Whether an object's class tells its identity: by `__resilient_key__`, or by being a value.

    It decides whether `self` may be part of a key: a mutable object with fields is not known by
    what they hold at the moment.
    """
    if _declared_key(value) is not None or isinstance(value, Enum | tuple):
        return True
    cls = type(value)
    settings = [
        getattr(getattr(cls, "__dataclass_params__", None), "frozen", False),
        getattr(getattr(cls, "__struct_config__", None), "frozen", False),
        getattr(getattr(cls, "__attrs_props__", None), "is_frozen", False),
        _is_pydantic(cls) and cls.model_config.get("frozen", False),
    ]
    return any(settings)


# --- the shapes of values --------------------------------------------------------------------


def _text(value: Any) -> str:
    write = _EXACT.get(type(value))
    if write is not None:
        return write(value)
    declared = _declared_key(value)
    if declared is not None:
        return f"{_class_name(value)}({_text(declared(value))})"
    if isinstance(value, Enum):
        told = value.value if isinstance(value, Flag) else value.name
        return f"{_class_name(value)}.{told}"
    for base, write in _EXACT.items():
        if isinstance(value, base):
            if not _is_only(value):
                raise _refusal(value)
            return f"{_class_name(value)}({write(value)})"
    fields = _fields(value)
    if fields is not None:
        return f"{_class_name(value)}({_pairs(fields.items(), '=')})"
    if isinstance(value, type | FunctionType | BuiltinFunctionType) and importable(value):
        return f"object({_plain_name(name_of(value))})"
    scalar = _lazy_scalar(value)
    if scalar is not None:
        return f"{_class_name(value)}({encode_basestring(scalar)})"
    raise _refusal(value)


def _integer(value: int) -> str:
    # Python refuses to print very long integers in decimal; hexadecimal has no such limit.
    return int.__repr__(value) if value.bit_length() < 2_000 else f"{int(value):#x}"


def _joined(texts: Iterable[str]) -> str:
    return ",".join(texts)


def _pairs(items: Iterable[tuple[str, Any]], sign: str) -> str:
    return _joined(f"{name}{sign}{_text(value)}" for name, value in items)


def _mapping(value: Mapping[Any, Any]) -> Iterable[str]:
    return (f"{_text(key)}:{_text(item)}" for key, item in value.items())


def _moment(value: datetime | time) -> str:
    """Write a date and time with everything that tells it: the zone's name and the fold as well."""
    zone = getattr(value.tzinfo, "key", "")
    return f"{value.isoformat()}{f'[{zone}]' if zone else ''}{' fold' if value.fold else ''}"


_SCALARS: dict[type, Callable[[Any], str]] = {
    str: str.__str__,
    bool: repr,
    int: _integer,
    float: float.__repr__,
    bytes: bytes.hex,
    bytearray: bytearray.hex,
    complex: complex.__repr__,
    datetime: _moment,
    date: date.isoformat,
    time: _moment,
    timedelta: timedelta.__str__,
    Decimal: Decimal.__str__,
    UUID: UUID.__str__,
    **dict.fromkeys((PosixPath, WindowsPath, PurePosixPath, PureWindowsPath), str),
    timezone: lambda value: str(value.utcoffset(None)),
}
"""Scalars, and the text that a person would write for each; a class stands before its bases."""


_LAZY_SCALARS: dict[str, Callable[[Any], str | None]] = {
    "fractions:Fraction": str,
    "ipaddress:IPv4Address": str,
    "ipaddress:IPv4Interface": str,
    "ipaddress:IPv4Network": str,
    "ipaddress:IPv6Address": str,
    "ipaddress:IPv6Interface": str,
    "ipaddress:IPv6Network": str,
    "zoneinfo:ZoneInfo": attrgetter("key"),
}
"""More of them, by name: their modules are not imported for the few programs that pass them."""


def _lazy_scalar(value: object) -> str | None:
    write = _LAZY_SCALARS.get(name_of(type(value)))
    return None if write is None else write(value)


def _tagged(kind: type, text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: f"{kind.__name__}({encode_basestring(text(value))})"


_EXACT: dict[type, Callable[[Any], str]] = {
    **{kind: _tagged(kind, text) for kind, text in _SCALARS.items()},
    str: encode_basestring,
    type(None): repr,
    bool: repr,
    int: _integer,
    float: float.__repr__,
    range: repr,
    list: lambda value: f"[{_joined(map(_text, value))}]",
    tuple: lambda value: f"({_joined(map(_text, value))})",
    set: lambda value: f"set({_joined(sorted(map(_text, value)))})",
    frozenset: lambda value: f"frozenset({_joined(sorted(map(_text, value)))})",
    # The order of its items tells an OrderedDict from another one, and no dict from another.
    OrderedDict: lambda value: f"OrderedDict({_joined(_mapping(value))})",
    dict: lambda value: f"dict({_joined(sorted(_mapping(value)))})",
}
"""The built-in types, and how each is written."""


# --- classes ---------------------------------------------------------------------------------


def _declared_key(value: Any) -> Callable[[Any], Any] | None:
    return getattr(type(value), "__resilient_key__", None)


def _fields(value: Any) -> dict[str, Any] | None:
    """Return what a record is made of: the fields by which its class compares it."""
    cls: Any = type(value)
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls) if field.compare]
    elif hasattr(cls, "__attrs_attrs__"):
        names = [field.name for field in cls.__attrs_attrs__ if field.eq]
    elif hasattr(cls, "__struct_fields__"):
        names = list(cls.__struct_fields__)
    elif _is_pydantic(cls):
        names = [*cls.model_fields, *(value.model_extra or ())]
    else:
        return None
    return {name: getattr(value, name) for name in names}


def _is_pydantic(cls: Any) -> bool:
    return hasattr(cls, "__pydantic_fields__") and hasattr(cls, "model_config")


def _is_only(value: Any) -> bool:
    """Whether an object of a subclass of a built-in type holds no more than that type does."""
    if type(value) in _EXACT or isinstance(value, Enum):
        return True
    return object.__getstate__(value) in (None, {})


def _class_name(value: object) -> str:
    return _plain_name(name_of(type(value)))


def _plain_name(name: str) -> str:
    # Classes made at run time may have any name: `Page[int, str]`, or one that looks like a value.
    return name if re.fullmatch(r"[\w.:<>]+", name) else encode_basestring(name)


def _refusal(value: object) -> ConfigurationError:
    return ConfigurationError(
        f"an object of type {name_of(type(value))} does not say what identifies it, and its "
        "address means nothing in another process; give its class a method __resilient_key__, "
        'or name what identifies it in a template such as "{user.id}" or by key='
    )
