"""Which annotations msgspec gives back exactly, and which values are exactly of one.

msgspec is lenient in what it writes (a tuple as a list, an enum as its value, a subclass as its
base, any time zone as UTC) and trusts the annotation when it reads. So a value goes that way only
if every part of it has the very type that the annotation says. An annotation that leaves a choice
(`Any`, `Sequence`, most unions), or a class that runs code of its own when it is made, is left to
the self-describing form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NewType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

import msgspec

from resilient.engine.codecs.annotations import is_alias
from resilient.engine.codecs.classes import blank_object
from resilient.engine.names import name_of
from resilient.errors import CodecError

__all__ = ["Shape", "Unguided", "shape_of"]


class Unguided(Exception):
    """The annotation does not guide: values describe themselves."""


class Shape(NamedTuple):
    """What an annotation demands of a value.

    Attributes:
        matches: Whether a value is exactly of the annotated type, all the way down.
        text: The annotation as text: records of one annotation are not read by another.
        is_plain: Whether msgpack tells all of it without any annotation.
        types: The exact types that match, if nothing but the type counts.
    """

    matches: Callable[[Any], bool]
    text: str
    is_plain: bool = False
    types: frozenset[type] | None = None


def shape_of(annotation: Any) -> Shape:
    """Return the shape of an annotation.

    Raises:
        Unguided: msgspec does not give back every value of this type exactly.
    """
    return _shape(annotation, {})


_Known = dict[type, Shape]
"""The classes on the way here, for those that contain themselves."""


def _shape(annotation: Any, known: _Known) -> Shape:
    if annotation is None:
        annotation = NoneType
    if isinstance(annotation, NewType):
        return _shape(annotation.__supertype__, known)
    if is_alias(annotation):
        return _shape(annotation.__value__, known)
    origin = get_origin(annotation)
    if origin is not None:
        if origin not in _GENERIC:
            raise Unguided
        return _GENERIC[origin](get_args(annotation), known)
    if annotation in _LEAVES:
        return _LEAVES[annotation]
    if not isinstance(annotation, type):
        raise Unguided
    if issubclass(annotation, Enum):
        return _enum(annotation)
    return _record(annotation, known)


# --- leaves ----------------------------------------------------------------------------------


def _exactly(types: Iterable[type], text: str, *, is_plain: bool = False) -> Shape:
    allowed = frozenset(types)
    return Shape(lambda value: type(value) in allowed, text, is_plain, allowed)


def _moment(kind: Any) -> Shape:
    def matches(value: Any) -> bool:
        # Every other time zone would come back as UTC, and the fold not at all.
        return (
            type(value) is kind and (value.tzinfo is None or value.tzinfo is UTC) and not value.fold
        )

    return Shape(matches, kind.__name__)


_LEAVES: dict[Any, Shape] = {
    **{
        kind: _exactly([kind], kind.__name__, is_plain=True)
        for kind in (NoneType, bool, int, float, str, bytes)
    },
    **{
        kind: _exactly([kind], kind.__name__)
        for kind in (bytearray, date, timedelta, Decimal, UUID)
    },
    datetime: _moment(datetime),
    time: _moment(time),
}


def _enum(cls: type[Enum]) -> Shape:
    kinds = {type(member.value) for member in cls}
    if issubclass(cls, Flag) or kinds not in ({str}, {int}):
        raise Unguided
    return _exactly([cls], name_of(cls))


def _literal(values: tuple[Any, ...], known: _Known) -> Shape:
    if not {type(value) for value in values} <= {NoneType, str, int}:
        raise Unguided
    allowed = {(type(value), value) for value in values}
    return Shape(lambda value: (type(value), value) in allowed, f"Literal{values}", True)


# --- containers ------------------------------------------------------------------------------


def _all_match(item: Shape) -> Callable[[Iterable[Any]], bool]:
    if item.types is not None:
        types = item.types
        return lambda values: types.issuperset(map(type, values))
    matches = item.matches
    return lambda values: all(map(matches, values))


def _collection(kind: Any) -> Callable[[tuple[Any, ...], _Known], Shape]:
    def shape(args: tuple[Any, ...], known: _Known) -> Shape:
        item = _shape(args[0], known)
        all_match = _all_match(item)
        return Shape(
            lambda value: type(value) is kind and all_match(value),
            f"{kind.__name__}[{item.text}]",
            is_plain=kind is list and item.is_plain,
        )

    return shape


def _tuple(args: tuple[Any, ...], known: _Known) -> Shape:
    if args[1:] == (...,):
        return _collection(tuple)(args[:1], known)
    shapes = [_shape(arg, known) for arg in args]
    matches = [shape.matches for shape in shapes]

    def all_match(value: Any) -> bool:
        if type(value) is not tuple or len(value) != len(matches):
            return False
        return all(match(item) for match, item in zip(matches, value, strict=True))

    return Shape(all_match, f"tuple[{','.join(shape.text for shape in shapes)}]")


def _dict(args: tuple[Any, ...], known: _Known) -> Shape:
    key, item = (_shape(arg, known) for arg in args)
    if key.types is None or not key.types <= {str, int}:
        raise Unguided
    keys_match, items_match = _all_match(key), _all_match(item)

    def matches(value: Any) -> bool:
        return type(value) is dict and keys_match(value) and items_match(value.values())

    is_plain = key.types == {str} and item.is_plain
    return Shape(matches, f"dict[{key.text},{item.text}]", is_plain)


def _union(args: tuple[Any, ...], known: _Known) -> Shape:
    shapes = [_shape(arg, known) for arg in args]
    others = [shape for arg, shape in zip(args, shapes, strict=True) if arg is not NoneType]
    # msgpack tells scalars apart, and `None` from everything. Of two texts, or two arrays, it
    # could not say which of the types they were.
    if len(others) > 1 and not all(shape.types and shape.is_plain for shape in shapes):
        raise Unguided
    text = "|".join(shape.text for shape in shapes)
    is_plain = all(shape.is_plain for shape in shapes)
    if all(shape.types is not None for shape in shapes):
        types = frozenset[type]().union(*(shape.types or () for shape in shapes))
        return _exactly(types, text, is_plain=is_plain)
    matches = [shape.matches for shape in shapes]
    return Shape(lambda value: any(match(value) for match in matches), text, is_plain)


def _annotated(args: tuple[Any, ...], known: _Known) -> Shape:
    if any(isinstance(extra, msgspec.Meta) for extra in args[1:]):
        raise Unguided  # msgspec checks it when it reads, and a value is stored unchecked
    return _shape(args[0], known)


_GENERIC: dict[Any, Callable[[tuple[Any, ...], _Known], Shape]] = {
    list: _collection(list),
    set: _collection(set),
    frozenset: _collection(frozenset),
    tuple: _tuple,
    dict: _dict,
    Union: _union,
    UnionType: _union,
    Literal: _literal,
    Annotated: _annotated,
}


# --- records ---------------------------------------------------------------------------------


def _record(cls: Any, known: _Known) -> Shape:
    """Return the shape of a record that is no more than its fields."""
    if cls in known:
        return known[cls]
    names = _field_names(cls)
    is_generic = bool(getattr(cls, "__parameters__", None))
    if names is None or is_generic or hasattr(cls, "__post_init__"):
        raise Unguided
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception as error:  # an annotation is any expression: evaluating it may raise anything
        raise Unguided from error

    fields: list[tuple[str, Callable[[Any], bool]]] = []
    has_dict = cls.__dictoffset__ != 0

    def matches(value: Any) -> bool:
        if type(value) is not cls or (has_dict and len(value.__dict__) != len(fields)):
            return False
        return all(match(getattr(value, name, _UNSET)) for name, match in fields)

    # Where msgspec goes by place, a record from before the fields changed theirs is another type.
    text = f"{name_of(cls)}({','.join(names)})" if _goes_by_place(cls) else name_of(cls)
    known[cls] = Shape(matches, text)
    fields += [(name, _shape(hints[name], known).matches) for name in names]
    return known[cls]


_UNSET = object()


def _field_names(cls: Any) -> list[str] | None:
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls) if field.init]
        return names if _has_no_more_than(names, cls) else None
    if issubclass(cls, msgspec.Struct):
        return None if cls.__struct_config__.dict else list(cls.__struct_fields__)
    fields = getattr(cls, "_fields", None)
    if cls.__bases__ == (tuple,) and fields is not None:
        return list(fields) if set(fields) == set(cls.__annotations__) else None
    return None


def _has_no_more_than(names: list[str], cls: Any) -> bool:
    try:
        blank_object(cls)
    except CodecError:
        return False
    slots = {slot for base in cls.__mro__ for slot in _slots(base)}
    fields = {field.name for field in dataclasses.fields(cls)}
    return fields == set(names) and slots <= {*names, "__weakref__"}


def _slots(cls: type) -> Iterable[str]:
    slots: str | Iterable[str] = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots


def _goes_by_place(cls: Any) -> bool:
    config = getattr(cls, "__struct_config__", None)
    return issubclass(cls, tuple) or bool(getattr(config, "array_like", False))
