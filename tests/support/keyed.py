"""Values and functions of every kind, whose keys the tests ask for."""

from __future__ import annotations

import dataclasses
import enum
import fractions
import ipaddress
import uuid
import zoneinfo
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Code(enum.StrEnum):
    EUR = "eur"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Address:
    city: str
    emails: list[str] = dataclasses.field(default_factory=list)
    cache: object = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int

    def distance(self, other: int) -> None: ...


@attrs.define
class Shape:
    name: str
    note: object = attrs.field(default=None, eq=False)


@attrs.frozen
class FrozenShape:
    name: str

    def area(self, unit: str) -> None: ...


class Message(msgspec.Struct):
    text: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str


class Pair(NamedTuple):
    a: int
    b: int


class UserId(str):
    pass


class Client:
    def __init__(self, host: str) -> None:
        self.host = host

    def get(self, path: str) -> None: ...

    @classmethod
    def build(cls, name: str) -> None: ...


class Known(Client):
    def __resilient_key__(self) -> str:
        return self.host

    def get(self, path: str) -> None: ...


def charge(order_id: Any, amount: Any = 1, *rest: Any, currency: Any = "EUR", **more: Any) -> None:
    """The function that most tests decorate."""


DISTINCT: list[Any] = [
    *(1, True, 1.0, "1", b"1", bytearray(b"1"), Decimal(1), Decimal("1.0"), 1 + 0j),
    *(None, "None", "", b"", 0, False, 0.0, -0.0, float("nan"), float("inf"), "nan"),
    *([], (), {}, set(), frozenset(), [()], ([],), [[]], [None], range(0), OrderedDict()),
    *(["1"], ("1",), {"1"}, frozenset({"1"}), {"1": None}, [1], (1,), (1, 2), ((1,), 2), "(1,2)"),
    *([1, [2]], [[1], 2], [1, 2], ["1,2"], ['1","2'], ["1", "2"], {1: 2}, {"1": 2}, {1: "2"}),
    *(Color.RED, Color.BLUE, "red", Level.LOW, Code.EUR, "eur", Rights.READ, Rights(3), Rights(0)),
    *(Address("a"), Address("b"), Point(1, 2), Point(2, 1), Shape("a"), FrozenShape("a")),
    *(Message("a"), Model(name="a"), Model.model_validate({"name": "a", "more": 1}), Pair(1, 2)),
    *(
        UserId("1"),
        Known("1"),
        Path("1"),
        PurePosixPath("1"),
        uuid.UUID(int=1),
        str(uuid.UUID(int=1)),
    ),
    *(date(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01"),
    datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    datetime(2024, 1, 1, fold=1),
    *(clock_time(1), clock_time(1, fold=1), timedelta(1), timedelta(0, 1), UTC),
    *(int, Client, charge, len, Color, zoneinfo.ZoneInfo("UTC"), fractions.Fraction(1, 2), 0.5),
    *(ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.1"), "10.0.0.1"),
    *("\ud800", "\\ud800", "\n", "\\n", '"', "\\", 10**3000, 10**3000 + 1),
]
