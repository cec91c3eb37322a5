"""Codecs around cached values: every type comes back, and no record that was tampered with does."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import resilient
from resilient import CodecError, ConfigurationError, cached
from resilient.engine import codecs
from resilient.engine.codecs import ANY, Compressed, Encrypted, Json, SignedPickle
from resilient.engine.drivers.sync import drive
from resilient.protocols.values import Encoded
from tests.support.fixtures import Target


class Colour(Enum):
    """An enum of the user's."""

    RED = "red"


@dataclass
class Point:
    """A class of the user's."""

    x: int
    rest: list[float]


KEY, OTHER = b"k" * 32, b"o" * 32
PLAIN: list[Any] = [None, True, 0, 1.5, "", "é" * 5000, [1, [2]], {"a": {"b": []}}]
TYPED: list[Any] = [
    *(math.nan, math.inf, -0.0, (), (1, (2, [3])), b"\x00\xff", bytearray(b"x"), 2**70, 1 + 2j),
    *({1, 2, 3}, frozenset({"a", "b"}), {1: "one", (2, 3): None}),
    *(
        Decimal("1.10"),
        UUID(int=7),
        date(2024, 2, 29),
        timedelta(days=-1, seconds=5),
    ),
    *(datetime(2024, 2, 29, 12, 0, 1, 5, tzinfo=UTC), time(23, 59, 59), Colour.RED),
    *(Point(1, [2.5]), Path("/a/b"), ValueError("no", 7)),
]
CODECS: list[Any] = [
    None,
    Json(),
    SignedPickle(KEY),
    Compressed(),
    Encrypted(KEY),
    Encrypted(KEY, Compressed()),
    Compressed(Json(), over=0),
]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_values_come_back(every_target: Target, codec: Any) -> None:
    """By every codec and backend a value comes back as what it was, computed once."""
    is_json = isinstance(codec, Json) or isinstance(getattr(codec, "_inner", None), Json)
    values = PLAIN if is_json else [*PLAIN, *TYPED]
    ran: list[int] = []
    with resilient.using(every_target.url, prefix=every_target.prefix):

        @cached(ttl=60, local=None, codec=codec, backend_timeout="10s")
        def value(index: int) -> Any:
            ran.append(index)
            return values[index]

        for _ in range(2):
            found = [value(index) for index in range(len(values))]
            assert list(map(shown, found)) == list(map(shown, values))
        assert len(ran) == len(values)


def shown(value: Any) -> tuple[type, str]:
    """What tells values apart, those that are not equal to themselves included."""
    members: Any = sorted(value) if isinstance(value, set | frozenset) else value
    return type(value), repr(members)


@pytest.mark.parametrize("codec", [SignedPickle(KEY), Encrypted(KEY)], ids=["signed", "encrypted"])
def test_forged_downgraded_and_swapped_records(every_target: Target, codec: Any) -> None:
    """Each is a miss and counted; what would have been decoded is never reached."""
    with resilient.using(every_target.url, prefix=every_target.prefix) as backend:

        @cached(ttl=60, local=None, codec=codec, backend_timeout="10s")
        def value(x: int) -> str:
            return f"computed {x}"

        assert [value(1), value(2)] == ["computed 1", "computed 2"]
        keys = [cached.of(value).key(x) for x in (1, 2)]
        store = backend.require("cache")
        one, two = (drive(store.get(key)).value for key in keys)
        changed = one[:-1] + bytes([one[-1] ^ 1])
        foreign = type(codec)(OTHER)
        foreign = foreign.around(ANY) if hasattr(foreign, "around") else foreign
        forged = [two, changed, one[:20], b"", ANY.encode("forged"), foreign.encode("forged")]
        for number, record in enumerate(forged, start=1):
            drive(store.set(keys[0], Encoded(record), ttl=60))
            assert value(1) == "computed 1"
            assert cached.of(value).stats().unreadable == number


def test_json_refuses_what_it_would_change() -> None:
    """What JSON gives back as another type has no form in it."""
    for value in ((1,), {1: 2}, math.nan, math.inf, b"x", {1}):
        with pytest.raises(CodecError):
            Json().encode(value)


def test_compression_is_bounded() -> None:
    """A record that unfolds beyond the limit, or is cut off, is an error."""
    record = Compressed().around(ANY).encode("x" * 100_000)
    assert len(record) < 1000
    small = Compressed(limit=1000).around(ANY)
    for data in (record, Encoded(record[:-2])):
        with pytest.raises(CodecError):
            small.decode(data)
    with pytest.raises(ConfigurationError, match="level"):
        Compressed(level=0)
    with pytest.raises(ConfigurationError, match="16, 24 or 32"):
        Encrypted(b"short")


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("Compressed", "backports", "zstd"), ("Encrypted", "cryptography", "encryption")],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    """By the error that says what to install; all other codecs do without it."""
    if name == "Compressed" and sys.version_info >= (3, 14):
        pytest.skip("Python has the algorithm itself")
    monkeypatch.delitem(sys.modules, f"{codecs.__name__}.{name.lower()}")
    for module in [each for each in sys.modules if each.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"'resilient-decorators\[{extra}\]'"):
        getattr(codecs, name)
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = codecs.Nonsense
