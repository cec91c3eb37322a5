"""Codecs: every value comes back as what it was, or is refused while it is stored."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
import pickle
import subprocess
import sys
import types
import typing
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from resilient.engine.codecs import ANY, Codec, SignedPickle, codec_for, codec_of, decode, encode
from resilient.engine.codecs.base import BY_ANNOTATION, reason_of
from resilient.errors import CodecError, ConfigurationError, LockNotAcquired
from resilient.protocols.values import Encoded


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


@dataclasses.dataclass
class Unset:
    n: int = dataclasses.field(init=False)


@dataclasses.dataclass
class WithInit:
    n: int
    extra: dataclasses.InitVar[int] = 5


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


class Open(msgspec.Struct, dict=True):
    n: int


class Slotted:
    __slots__ = ("note",)


@dataclasses.dataclass(slots=True)
class SlottedRow(Slotted):
    name: str


Renamed = Row


class Movie(TypedDict):
    title: str
    at: date


class Refused(ValueError):
    """An exception whose constructor takes other arguments than `args`."""

    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(f"refused: {reason}")
        self.code = code


class MyList(list[int]):
    pass


class MyStr(str):
    pass


class Plain:
    pass


class Finalized(msgspec.Struct):
    n: int

    def __del__(self) -> None: ...


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


# --- the self-describing form ----------------------------------------------------------------

BERLIN = ZoneInfo("Europe/Berlin")

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


def local_row() -> Any:
    @dataclasses.dataclass
    class Local:
        x: int

    return Local(1)


def noted(value: Any) -> Any:
    """Return the value with an attribute that is no field."""
    value.note = "extra"
    return value


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


# --- damaged, foreign and hostile bytes ------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=30), st.sampled_from([b"", b"\x01", b"\x01\xc7", b"\x02"]))
def test_foreign_bytes_are_a_codec_error(noise: bytes, head: bytes) -> None:
    """Whatever the bytes are, the error is ours; or they happen to be a value."""
    for codec in (ANY, codec_of(Row), SignedPickle(bytes(32))):
        try:
            codec.decode(Encoded(head + noise))
        except CodecError:
            continue
        assert head + noise[:1] != b""


@pytest.mark.parametrize("value", [[1, Row("a"), Message("b")], {"k": (1, {2})}, Row("a")])
def test_truncated_and_trailing_bytes_are_a_codec_error(value: Any) -> None:
    """No prefix of a record reads as a value, and nothing may follow it."""
    for codec in (ANY, codec_of(Row)):
        stored = codec.encode(value)
        for end in range(len(stored)):
            with pytest.raises(CodecError):
                codec.decode(Encoded(stored[:end]))
        with pytest.raises(CodecError):
            codec.decode(Encoded(stored + b"\x00"))


def forged(code: int, name: str, content: Any) -> Encoded:
    """Return what somebody with access to the store could write."""
    data = msgspec.msgpack.encode([name, content])
    return Encoded(b"\x01" + msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data)))


HERE = __name__


@pytest.mark.parametrize("code", [64, 65, 66, 67, 68, 69, 99, 0])
@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "builtins:dict",
        "subprocess:Popen",
        f"{HERE}:Plain",
        f"{HERE}:Finalized",
        f"{HERE}:subprocess.Popen",
        f"{HERE}:dataclasses.Field",
        f"{HERE}:test_codecs",
        f"{HERE}:",
        ":",
        "",
        "no.such:Thing",
    ],
)
def test_a_record_names_no_code_to_run(code: int, name: str) -> None:
    """Only classes of the known kinds are built, by their own names."""
    contents: list[Any] = [{}, [], "x", [[], {}], None]
    for content in contents:
        with pytest.raises(CodecError):
            decode(forged(code, name, content))


def test_a_class_is_built_only_as_its_own_kind() -> None:
    """An enum is not built like a record, and a record not like an exception."""
    assert decode(forged(69, f"{HERE}:Row", {"name": "a"})) == Row("a")
    for code, name in ((69, "Color"), (65, "Row"), (64, "Row"), (69, "Refused"), (66, "Message")):
        with pytest.raises(CodecError):
            decode(forged(code, f"{HERE}:{name}", {}))
    with pytest.raises(CodecError, match="no such class"):
        decode(forged(69, f"{HERE}:Renamed", {"name": "a"}))
    with pytest.raises(CodecError, match="1 fields"):
        decode(forged(66, f"{HERE}:Pair", [1]))


def test_reading_imports_nothing_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module is imported only from a package that the program has imported itself."""
    package = tmp_path / "ourpackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("raise SystemExit('ran')")
    row = "import dataclasses\n@dataclasses.dataclass\nclass Row:\n    x: int\n"
    (package / "rows.py").write_text(row)
    (tmp_path / "stranger.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    ours = forged(69, "ourpackage.rows:Row", {"x": 1})

    for stored in (
        ours,
        forged(69, "stranger:Row", {}),
        forged(69, "antigravity:Row", {}),
        forged(69, "xml.sax.expatreader:Row", {}),
    ):
        with pytest.raises(CodecError):
            decode(stored)
    assert not {"ourpackage", "stranger", "antigravity", "xml.sax.expatreader"} & set(sys.modules)

    monkeypatch.setitem(sys.modules, "ourpackage", __import__("ourpackage"))
    assert decode(ours).x == 1
    with pytest.raises(CodecError):
        decode(forged(69, "ourpackage.__main__:Row", {}))
    sys.modules.pop("ourpackage.rows")


def test_a_record_follows_a_class_that_gained_a_field_with_a_default() -> None:
    """What was stored before has the default; a new field without one is an error."""
    assert decode(forged(69, f"{HERE}:Row", {"name": "a"})) == Row("a", 0, set())
    assert decode(forged(69, f"{HERE}:Shape", {"name": "a", "_secret": "s"})) == Shape("a")
    assert decode(forged(67, f"{HERE}:Message", [{"text": "a", "gone": 1}, {}])) == Message("a")
    with pytest.raises(CodecError, match="has no 'name'"):
        decode(forged(69, f"{HERE}:Row", {"count": 1}))
    with pytest.raises(CodecError):
        decode(forged(69, f"{HERE}:Point", {"x": 1, "y": 1.0, "gone": 1}))


def test_a_class_of_the_main_module_has_its_importable_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A script's own classes are found by the script and by the processes that it spawns."""
    for main in ("__main__", "__mp_main__"):
        script: Any = types.ModuleType(main)
        script.__file__ = "/srv/jobs.py"
        script.Report = dataclasses.make_dataclass("Report", [("x", int)])
        script.Report.__module__ = main
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
            patch.setitem(sys.modules, main, script)
            stored = encode(script.Report(1))
            assert stored.count(b"jobs:Report") == 1
            assert decode(stored) == script.Report(1)


# --- guided by an annotation -----------------------------------------------------------------

Alias = TypeAliasType("Alias", dict[str, Row])
UserId = NewType("UserId", int)

GUIDED: list[tuple[Any, Any]] = [
    (set[int], {1, 2}),
    (frozenset[str], frozenset("ab")),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "x")),
    (dict[int, str], {1: "a"}),
    (dict[str, date], {"a": date(2024, 1, 1)}),
    (list[tuple[date, Decimal]], [(date(2024, 1, 1), Decimal("1.50"))]),
    (datetime, datetime(2024, 1, 1, 2, 3, 4, 5, tzinfo=UTC)),
    (datetime, datetime(2024, 1, 1, 2, 3, 4, 5)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(-1, 5, 7)),
    (Decimal, Decimal("-0.00")),
    (uuid.UUID, uuid.UUID(int=7)),
    (bytearray, bytearray(b"x")),
    (Color, Color.RED),
    (Level, Level.HIGH),
    (list[Code], [Code.EUR]),
    (Row, Row("a", 1, {"x"})),
    (Point, Point(1, 2.0)),
    (Node, Node(1, [Node(2, [Node(3)])])),
    (Message, Message("a", datetime(2024, 1, 1))),
    (Compact, Compact(1, 5)),
    (Pair, Pair(1, "x")),
    (dict[str, list[Row]], {"a": [Row("b")]}),
    (Row | None, None),
    (Row | None, Row("a")),
    (Annotated[Row, "doc"], Row("a")),
    (tuple[UserId, Literal["a", 1, None]], (UserId(1), "a")),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), GUIDED)
def test_a_value_that_matches_goes_by_its_annotation(annotation: Any, value: Any) -> None:
    """It is stored without its type names, and comes back as what it was."""
    codec = codec_of(annotation)

    assert codec.encode(value)[:1] == BY_ANNOTATION
    assert_kept(value, codec)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (set[int], [1]),
        (set[int], {1, True + 1.0}),
        (set[int], {"a"}),
        (tuple[int, str], (1, 2)),
        (tuple[int, str], (1, "x", 3)),
        (tuple[int, ...], Pair(1, "x")),
        (dict[int, str], {True: "a"}),
        (dict[int, date], collections.defaultdict(int)),
        (datetime, datetime(2024, 1, 1, tzinfo=BERLIN)),
        (datetime, datetime(2024, 1, 1, tzinfo=timezone(timedelta(0), "Z"))),
        (datetime, datetime(2024, 1, 1, fold=1)),
        (datetime, date(2024, 1, 1)),
        (date, datetime(2024, 1, 1)),
        (time, time(1, tzinfo=timezone(timedelta(hours=1)))),
        (Decimal, 1),
        (Decimal, "1"),
        (Color, "red"),
        (Level, 1),
        (Code, "eur"),
        (Row, BigRow("a")),
        (Row, {"name": "a"}),
        (Row, Row("a", True)),
        (Row, Row("a", 1.0)),  # type: ignore[arg-type]  # a value beside its annotation
        (Row, Row(None)),  # type: ignore[arg-type]  # see above
        (Row, Row("a", 2**70)),
        (Row, Row("\ud800")),
        (Row, Row("a", 1, {1})),  # type: ignore[arg-type]  # see above
        (Row, Row("a", 1, frozenset())),  # type: ignore[arg-type]  # see above
        (Node, Node(1, [Node(2, (Node(3),))])),  # type: ignore[arg-type]  # see above
        (Message, Message(1)),  # type: ignore[arg-type]  # see above
        (Message, Message("a", datetime(2024, 1, 1, tzinfo=BERLIN))),
        (Pair, (1, "x")),
        (Pair, Loose(1, "x")),
        (Row | None, "text"),
        (bytearray, b"x"),
        (tuple[UserId, Literal["a", 1, None]], (UserId(1), True)),
    ],
)
def test_a_value_beside_its_annotation_is_not_bent_to_it(annotation: Any, value: Any) -> None:
    """It is stored as what it is, or refused; never as what was promised."""
    codec = codec_of(annotation)
    if isinstance(value, collections.defaultdict):
        with pytest.raises(CodecError, match="defaultdict"):
            codec.encode(value)
        return

    assert codec.encode(value)[:1] != BY_ANNOTATION
    assert_kept(value, codec)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Any, Row("a")),
        (int, 5),
        (dict[str, list[int | None]], {"a": [1, None]}),
        (int | str | None, "x"),
        (list[int] | tuple[int, ...], (1, 2)),
        (str | date, date(2024, 1, 1)),
        (Sequence[int], (1, 2)),
        (list, [(1,)]),
        (Literal[True], True),
        (Annotated[set[int], msgspec.Meta(max_length=1)], {1, 2}),
        (Level | int, 1),
        (Level | int, Level.LOW),
        (Code | str, "eur"),
        (Decimal | float, 1.5),
        (bytearray | bytes, b"x"),
        (set[int] | list[int], [1]),
        (NamedPair, NamedPair(1, "x")),
        (Rights, Rights(3)),
        (Odd, Odd.PAIR),
        (Counted, Counted(1)),
        (WithInit, WithInit(1)),
        (Checked, Checked(1)),
        (Shape, Shape("a")),
        (Hashed, Hashed("a")),
        (Model, Model(name="a")),
        (list[Model], [Model(name="a")]),
        (Loose, Loose(1, 2)),
        (Movie, {"title": "a", "at": date(2024, 1, 1)}),
        (Path, Path("a")),
        (complex, 1j),
        (dict[date, int], {date(2024, 1, 1): 1}),
        (Plain, None),
        ("no type at all", 5),
        (5, 5),
    ],
)
def test_an_annotation_that_leaves_a_choice_does_not_guide(annotation: Any, value: Any) -> None:
    """The stored form then describes itself, and can be read without the annotation."""
    codec = codec_of(annotation)

    assert same(value, decode(codec.encode(value)))
    assert_kept(value, codec)


@pytest.mark.parametrize("value", [Row("a"), Open(1), SlottedRow("a")])
def test_what_is_more_than_its_fields_does_not_go_by_its_annotation(value: Any) -> None:
    """An attribute that the annotation does not know is kept all the same."""
    codec = codec_of(type(value))

    assert codec.decode(codec.encode(noted(value))).note == "extra"


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_any_value_of_any_guiding_annotation_comes_back(data: st.DataObject) -> None:
    """Values made for one annotation, and stored under it or under another one, are kept."""
    annotations = st.sampled_from(
        [
            *(set[int], tuple[int, ...], tuple[date, str], dict[int, Decimal], dict[str, datetime]),
            *(list[timedelta], list[time], frozenset[uuid.UUID], Row, Point, Node, Message, Pair),
            *(Compact, Row | None, list[Color], Level, list[tuple[bool, float]], bytearray),
        ]
    )
    value = data.draw(annotations.flatmap(from_annotation))
    codec = codec_of(data.draw(annotations))

    assert_kept(value, codec)


def from_annotation(annotation: Any) -> st.SearchStrategy[Any]:
    zones = st.none() | st.just(UTC) | st.timezones()
    if annotation == dict[str, datetime]:
        return st.dictionaries(st.text(max_size=2), st.datetimes(timezones=zones), max_size=3)
    if annotation is Message:
        return st.builds(Message, st.text(), st.none() | st.datetimes(timezones=zones))
    return st.from_type(annotation)


def test_an_alias_stands_for_its_value() -> None:
    """Whether or not it guides, which depends on the version of Python."""
    assert_kept({"a": Row("a")}, codec_of(Alias))
    local = local_row()
    classes: Any = list[type(local)]  # type: ignore[misc]  # a class made at run time
    assert_kept([local], codec_of(TypeAliasType("Locals", classes)))
    assert_kept([local], codec_of(NewType("Locals", classes)))


def test_one_annotation_does_not_read_the_records_of_another() -> None:
    """After a change of the annotation, old records are an error, not another type."""
    stored = codec_of(set[int]).encode({1, 2})

    for codec in (
        codec_of(frozenset[int]),
        codec_of(tuple[int, ...]),
        ANY,
        SignedPickle(bytes(32)),
    ):
        with pytest.raises(CodecError):
            codec.decode(stored)


def test_a_guided_record_follows_a_class_that_gained_a_field_with_a_default() -> None:
    """It reads what was stored before, unless a field of it is missing."""

    def version(*fields: Any) -> Any:
        made = dataclasses.make_dataclass("Report", fields)
        made.__module__ = HERE
        return made

    old = version(("x", int), ("at", date))
    new = version(("x", int), ("at", date), ("y", int, 5))
    other = version(("x", int), ("at", date), ("y", int))
    stored = codec_of(old).encode(old(1, date(2024, 1, 1)))

    assert stored[:1] == BY_ANNOTATION
    assert codec_of(new).decode(stored) == new(1, date(2024, 1, 1), 5)
    with pytest.raises(CodecError, match="`y`"):
        codec_of(other).decode(stored)


def test_fields_that_change_their_places_are_not_mistaken() -> None:
    """A form that goes by place is not read by a class with other places."""

    class Places(NamedTuple):
        a: int
        b: int

    one = Places

    class Places(NamedTuple):  # type: ignore[no-redef]  # the later version of the same class
        b: int
        a: int

    two = Places
    with pytest.raises(CodecError):
        codec_of(two).decode(codec_of(one).encode(one(1, 2)))


def test_the_return_annotation_of_a_function_guides() -> None:
    """Functions, coroutine functions, methods, partials and callable objects have one."""

    class Service:
        def method(self) -> set[int]:
            return {1}

        @classmethod
        def build(cls) -> set[int]:
            return {1}

        def __call__(self) -> set[int]:
            return {1}

    async def asynchronous() -> set[int]:
        return {1}

    @functools.wraps(asynchronous)
    def wrapped(*args: Any) -> Any: ...

    functions: list[Callable[..., Any]] = [asynchronous, wrapped, Service.method, Service().method]
    functions += [Service.build, Service(), functools.partial(Service.method, Service())]
    for function in functions:
        assert codec_for(function).encode({1})[:1] == BY_ANNOTATION
        assert_kept({1}, codec_for(function))


def test_an_annotation_is_resolved_at_the_first_value() -> None:
    """The class may be defined after the function, and inside of another function."""

    def later() -> Late:
        return Late(1)

    codec = codec_for(later)

    @dataclasses.dataclass
    class Late:
        x: int

        def __post_init__(self) -> None: ...

    assert_kept(Late(1), codec)
    with pytest.raises(CodecError, match="Late"):
        encode(Late(1))


def test_an_annotation_that_cannot_be_resolved_does_not_guide() -> None:
    """A name for type checkers only, or no annotation: stored values describe themselves."""

    def unknown() -> NotThere:  # type: ignore[name-defined]  # noqa: F821 - the point
        raise NotImplementedError

    def nothing(): ...  # type: ignore[no-untyped-def]  # the point

    for function in (unknown, nothing, len, typing.cast("Any", print)):
        assert same({1}, decode(codec_for(function).encode({1})))


def test_parameters_may_have_annotations_that_cannot_be_resolved() -> None:
    """Only what is returned matters."""

    def function(a: NotThere) -> set[int]:  # type: ignore[name-defined]  # noqa: F821 - the point
        raise NotImplementedError

    assert codec_for(function).encode({1})[:1] == BY_ANNOTATION


# --- signed pickles --------------------------------------------------------------------------

KEY = b"k" * 32


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled before it was checked",)


def test_a_signed_pickle_comes_back() -> None:
    """It stores what nothing else does, and each time a fresh object."""
    codec = SignedPickle(KEY)
    value = {"range": range(3), "list": MyList([1])}

    assert_kept(value, codec)
    assert type(codec.decode(codec.encode(value))["list"]) is MyList


def test_a_changed_record_is_refused_before_it_is_unpickled() -> None:
    """Not a bit of it may change, whoever wrote it."""
    codec = SignedPickle(KEY)
    stored = codec.encode([1, "x"])

    for place in range(len(stored)):
        changed = bytearray(stored)
        changed[place] ^= 1
        with pytest.raises(CodecError):
            codec.decode(Encoded(bytes(changed)))
    bomb = stored[:33] + pickle.dumps(Bomb())
    for data in (bomb, b"\x03" + pickle.dumps(Bomb()), pickle.dumps(Bomb()), b"\x03", b""):
        with pytest.raises(CodecError):
            codec.decode(Encoded(data))


def test_keys_and_purposes_are_kept_apart() -> None:
    """A record is read with its key or as one of the previous, for its purpose only."""
    old, new = SignedPickle(KEY), SignedPickle(b"n" * 32, previous=[KEY])
    stored = old.encode(1)

    assert new.decode(stored) == 1
    for codec in (SignedPickle(b"n" * 32), SignedPickle(KEY, purpose="reports")):
        with pytest.raises(CodecError, match="no pickle signed"):
            codec.decode(stored)
    with pytest.raises(CodecError, match="no pickle signed"):
        old.decode(new.encode(1))


def test_no_other_codec_reads_a_pickle() -> None:
    """A record never chooses how it is read."""
    stored = SignedPickle(KEY).encode(1)

    for codec in (ANY, codec_of(Row), codec_of(int)):
        with pytest.raises(CodecError, match="pickle"):
            codec.decode(stored)


@pytest.mark.parametrize("key", ["text" * 10, b"short", b"", None])
def test_a_weak_key_is_refused(key: Any) -> None:
    """A key is 16 bytes or more, and is not shown."""
    with pytest.raises(ConfigurationError, match="SignedPickle"):
        SignedPickle(key)

    assert "kkkk" not in repr(SignedPickle(KEY))


def test_what_cannot_be_pickled_is_a_codec_error() -> None:
    """As with every codec: when it is stored."""
    with pytest.raises(CodecError, match="function"):
        SignedPickle(KEY).encode(lambda: 1)


# --- the cost --------------------------------------------------------------------------------


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
