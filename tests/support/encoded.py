"""Values of every kind that a codec takes, and what 'the same value' means."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
from datetime import datetime, time
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic

from resilient.engine.codecs import ANY, Codec


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Code(enum.StrEnum):
    EUR = "eur"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Odd(enum.Enum):
    PAIR = (1, 2)


@dataclasses.dataclass
class Row:
    name: str
    count: int = 0
    tags: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: float


@dataclasses.dataclass
class Node:
    value: int
    children: list[Node] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Counted:
    n: int

    def __post_init__(self) -> None:
        self.n += 1


class BigRow(Row):
    """A subclass of a dataclass that is not decorated itself."""


@attrs.define
class Shape:
    name: str
    sides: int = 3
    _secret: str = "s"


@attrs.frozen(cache_hash=True)
class Hashed:
    name: str


class Message(msgspec.Struct):
    text: str
    at: datetime | None = None


class Compact(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True, tag="c"):
    a: int
    b: int = 5


class Checked(msgspec.Struct, dict=True):
    n: int

    def __post_init__(self) -> None:
        self.n += 1


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    price: Decimal = Decimal(0)
    _hidden: int = pydantic.PrivateAttr(default=1)


class Pair(NamedTuple):
    a: int
    b: str


Loose = collections.namedtuple("Loose", "a b")


class NamedPair(Pair):
    """A subclass whose objects may have more than the fields."""


class Refused(ValueError):
    """An exception whose constructor takes other arguments than `args`."""

    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(f"refused: {reason}")
        self.code = code


class MyList(list[int]):
    pass


class Finalized(msgspec.Struct):
    n: int

    def __del__(self) -> None: ...


class Plain:
    pass


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in types and contents, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, set | frozenset):
        return {(type(item), item) for item in a} == {(type(item), item) for item in b}
    if isinstance(a, complex):
        return same([a.real, a.imag], [b.real, b.imag])
    if isinstance(a, float):
        signs = math.copysign(1, a) == math.copysign(1, b)
        return math.isnan(b) if math.isnan(a) else a == b and signs
    if isinstance(a, datetime | time):
        return (
            a.replace(tzinfo=None) == b.replace(tzinfo=None)
            and a.fold == b.fold
            and same_zone(a, b)
        )
    if isinstance(a, Decimal):
        return bool(a.as_tuple() == b.as_tuple())
    if isinstance(a, msgspec.Struct):
        return same(msgspec.structs.astuple(a), msgspec.structs.astuple(b))
    if isinstance(a, BaseException):
        return same([a.args, vars(a), str(a)], [b.args, vars(b), str(b)])
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b)


def same_zone(a: Any, b: Any) -> bool:
    return type(a.tzinfo) is type(b.tzinfo) and repr(a.tzinfo) == repr(b.tzinfo)


def assert_kept(value: Any, codec: Codec = ANY) -> None:
    stored = codec.encode(value)
    found = codec.decode(stored)
    assert type(stored) is bytes
    assert same(value, found), (value, found)


BERLIN = ZoneInfo("Europe/Berlin")


def local_row() -> Any:
    @dataclasses.dataclass
    class Local:
        x: int

    return Local(1)


def noted(value: Any) -> Any:
    """Return the value with an attribute that is no field."""
    value.note = "extra"
    return value


# Another name of the class, by which nothing is stored.
Renamed = Row

HERE = __name__
