"""The self-describing codec: a value comes back as what it was, or is refused when stored."""

from __future__ import annotations

import collections
import dataclasses
import math
import subprocess
import sys
import types
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.engine.codecs import ANY, codec_of, decode, encode
from resilient.engine.codecs.base import reason_of
from resilient.errors import CodecError, LockNotAcquired
from tests.support.encoded import (
    BERLIN,
    BigRow,
    Checked,
    Code,
    Color,
    Compact,
    Counted,
    Finalized,
    Hashed,
    Level,
    Loose,
    Message,
    Model,
    MyList,
    NamedPair,
    Node,
    Odd,
    Pair,
    Plain,
    Point,
    Refused,
    Rights,
    Row,
    Shape,
    assert_kept,
    local_row,
    noted,
)


@dataclasses.dataclass
class Unset:
    n: int = dataclasses.field(init=False)


class MyStr(str):
    pass


VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**400,
    ),
    *(0.0, -0.0, 1.0, 1.5, math.inf, -math.inf, math.nan, 1 + 2j, complex(-0.0, math.inf)),
    *("", "text", "\x00", "é😀", "\ud800", {"\udc80": "\ud800"}, [2**70, "\ud800", {2**70: 1}]),
    *(b"", b"\xff", bytearray(b"\x01"), [], (), {}, set(), frozenset()),
    *([1, [2, (3, {4})]], (1,), ((),), [()], {"a": {"b": [None]}}, {1: 2}, {(1, 2): {3: 4}}),
    *({True: 1}, {None: 1}, {1.5: 1}, {b"k": 1}, {"a": 1, 2: 3}, {Color.RED: Level.LOW}),
    *({1, 2}, {"a", (1, 2)}, frozenset({frozenset()}), [Color.RED, Level.HIGH, Code.EUR]),
    *(Rights.READ, Rights(0), Rights.READ | Rights.WRITE, Odd.PAIR),
    *(date(2024, 2, 29), time(1, 2, 3, 4), time(1, fold=1), time(1, tzinfo=UTC), date.min),
    *(datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), datetime.max, datetime(1, 1, 1)),
    datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30), "IST")),
    datetime(2024, 1, 1, tzinfo=timezone(-timedelta(microseconds=1))),
    *(UTC, BERLIN, timedelta.max, timedelta.min, timedelta(-1, 5, 7)),
    *(Decimal("1.50"), Decimal("-0"), Decimal("NaN"), Decimal("sNaN7"), Decimal("Infinity")),
    *(uuid.UUID(int=7), Path("a/b"), PurePosixPath("/x"), PureWindowsPath("c:\\x")),
    *(
        Row("a", 1, {"x"}),
        BigRow("b"),
        Point(1, 2.0),
        Node(1, [Node(2)]),
        Pair(1, "x"),
        Loose(1, [2]),
    ),
    *(Shape("a"), Hashed("a"), Message("hi", datetime(2024, 1, 1, tzinfo=BERLIN)), Compact(1)),
    *(Model(name="a"), Model.model_validate({"name": "a", "price": "1.5", "more": {1}})),
    *(ValueError("x", 1), KeyError("k"), FileNotFoundError(2, "gone", "f.txt"), StopIteration(5)),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    Refused("no", code=7),
    LockNotAcquired("busy", policy="distributed_lock", key="k", retry_after=2.0),
]


# --- the self-describing form ------------------------------------------------------------------


@pytest.mark.parametrize("value", [pytest.param(v, id=str(i)) for i, v in enumerate(VALUES)])
def test_a_value_comes_back_as_what_it_was(value: Any) -> None:
    """Equal and of the same types all the way down, alone and inside of every container."""
    assert_kept(value)
    assert_kept([value, {"k": (value,)}, {1: value}])


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.text(st.characters(), max_size=3)
    | st.binary(max_size=5)
    | st.decimals()
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())
    | st.timedeltas()
    | st.complex_numbers()
    | st.sampled_from([*Color, *Level, *Code, *Rights, Odd.PAIR])
)


KEYS = (st.booleans() | st.integers() | st.text(max_size=3) | st.uuids() | st.dates()) | st.tuples(
    st.integers(), st.text(max_size=2)
)


TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.sets(KEYS, max_size=3)
        | st.frozensets(KEYS, max_size=3)
        | st.builds(Row, st.text(max_size=3), inner)
        | st.builds(Pair, inner, inner)
        | st.builds(Message, inner, inner)
    ),
    max_leaves=10,
)


@settings(max_examples=1_000, deadline=None)
@given(TREES)
def test_any_tree_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    """Whatever is built of the supported kinds survives the self-describing form."""
    assert_kept(value)


def test_a_plain_value_is_plain_msgpack() -> None:
    """What msgpack tells by itself is written as msgpack has it, behind the marker."""
    value = {"id": 7, "tags": ["a", None], "nested": {"x": 1.5, "b": b"\x00", "t": True}}

    assert encode(value) == b"\x01" + msgspec.msgpack.encode(value)


def test_each_decoding_gives_a_fresh_object() -> None:
    """No reader sees what another one changed."""
    stored = encode({"rows": [Row("a")]})
    first, second = decode(stored), decode(stored)
    first["rows"][0].tags.add("changed")

    assert second == decode(stored) == {"rows": [Row("a")]}


def test_the_state_of_a_record_is_kept_without_running_its_code() -> None:
    """No `__post_init__` runs again, and what else an object was given is kept."""
    counted = Counted(1)
    checked = noted(Checked(1))
    model = Model(name="a")
    model._hidden = 9

    assert decode(encode(counted)).n == counted.n == 2
    assert decode(encode(noted(Row("a")))).note == "extra"
    assert (decode(encode(checked)).n, decode(encode(checked)).note) == (2, "extra")
    assert decode(encode(model))._hidden == 9
    assert decode(encode(model)).model_fields_set == {"name"}


def test_a_cached_hash_is_not_carried_to_another_process() -> None:
    """Text hashes differ between processes: a stored one would break every lookup."""
    value = Hashed("a")
    hash(value)
    script = (
        "import sys\n"
        "from resilient.engine.codecs import decode\n"
        "from tests.unit.test_codecs import Hashed\n"
        "value = decode(sys.stdin.buffer.read())\n"
        "assert value == Hashed('a') and value in {Hashed('a')}\n"
    )

    subprocess.run([sys.executable, "-c", script], input=encode(value), check=True)


def test_an_exception_keeps_what_it_carries() -> None:
    """Type, message, arguments, attributes and notes; not its traceback or its cause."""
    error = Refused("no", code=7)
    error.add_note("tried twice")
    group = ExceptionGroup("two", [error, OSError(2, "gone", "f")])

    found = decode(encode(group))
    refused, gone = found.exceptions
    assert (type(refused), str(refused), refused.code) == (Refused, "refused: no", 7)
    assert refused.__notes__ == ["tried twice"]
    assert (type(gone), gone.errno, gone.filename) == (FileNotFoundError, 2, "f")
    assert refused.__traceback__ is None


class Lossy(Exception):
    __slots__ = ("where",)
    where: object


class Awkward(Exception):
    def __str__(self) -> str:
        return self.args[0].upper()  # type: ignore[no-any-return]  # any argument


class Wordy(UnicodeDecodeError):
    def __init__(self) -> None:
        super().__init__("utf-8", b"\xff", 0, 1, "bad")
        self.args = ("other",)


def lossy() -> Lossy:
    error = Lossy("x")
    error.where = object()
    return error


def cyclic() -> list[Any]:
    loop: list[Any] = []
    loop.append([loop])
    return loop


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (Plain(), "Plain"),
        (object(), "object"),
        (lambda: 1, "function"),
        (Plain, "type"),
        (MyList([1]), "MyList"),
        (MyStr("x"), "MyStr"),
        (collections.Counter("a"), "Counter"),
        (collections.OrderedDict(), "OrderedDict"),
        (range(3), "range"),
        (..., "ellipsis"),
        (memoryview(b"x"), "memoryview"),
        ((x for x in "ab"), "generator"),
        (msgspec.UNSET, "Unset"),
        (msgspec.msgpack.Ext(1, b""), "Ext"),
        (types.SimpleNamespace(a=1), "SimpleNamespace"),
        (local_row(), "local_row"),
        (noted(NamedPair(1, "x")), "NamedPair"),
        (Unset(), "Unset"),
        (Finalized(1), "Finalized"),
        (Row(Plain()), "Plain"),  # type: ignore[arg-type]  # the wrong field is the point
        (cyclic(), "contains itself"),
        (lossy(), "Lossy"),
        (Awkward(5), "Awkward"),
        (Wordy(), "Wordy"),
        (ValueError(Plain()), "Plain"),
    ],
)  # fmt: skip
def test_what_would_not_come_back_is_refused_when_stored(value: Any, names: str) -> None:
    """The error comes while storing, and names the type, however deep it sits."""
    for wrapped in (value, [value], {"a": (value,)}, {1: value}, Row("x", value)):
        with pytest.raises(CodecError, match=names):
            encode(wrapped)


def test_a_record_that_is_also_a_container_is_refused() -> None:
    """Its fields alone would lose the items."""
    made = dataclasses.make_dataclass("Mixed", [("x", int)], bases=(dict,))
    made.__module__ = __name__

    with pytest.raises(CodecError, match="Mixed"):
        encode(made(1))


# --- the cost ----------------------------------------------------------------------------------


def test_importing_the_keys_does_not_import_msgspec() -> None:
    """It is imported when a value is first stored."""
    script = "import sys, resilient.engine.keys\nassert 'msgspec' not in sys.modules"

    subprocess.run([sys.executable, "-c", script], check=True)


class Loaded(msgspec.Struct):
    number: int


class Fetched(pydantic.BaseModel):
    number: int


def test_an_object_that_is_half_made_has_no_stored_form() -> None:
    """Whatever it raises when looked at: a codec has one error, and it names the type."""
    loaded = Loaded(1)
    del loaded.number
    for value in (loaded, Fetched.__new__(Fetched)):
        for codec in (ANY, codec_of(type(value))):
            for told in (value, [value]):
                with pytest.raises(CodecError, match=type(told).__name__):
                    codec.encode(told)


def test_the_reason_of_an_error_is_always_told() -> None:
    """Also of one that cannot be written."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise LookupError

    assert reason_of(Silent()) == "Silent"
