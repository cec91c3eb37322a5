"""Codecs that an annotation guides, and the values that it must not bend."""

from __future__ import annotations

import collections
import dataclasses
import functools
import typing
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from resilient.engine.codecs import ANY, SignedPickle, codec_for, codec_of, decode, encode
from resilient.engine.codecs.base import BY_ANNOTATION
from resilient.errors import CodecError
from tests.support.encoded import (
    BERLIN,
    HERE,
    BigRow,
    Checked,
    Code,
    Color,
    Compact,
    Counted,
    Hashed,
    Level,
    Loose,
    Message,
    Model,
    NamedPair,
    Node,
    Odd,
    Pair,
    Plain,
    Point,
    Rights,
    Row,
    Shape,
    assert_kept,
    local_row,
    noted,
    same,
)


@dataclasses.dataclass
class WithInit:
    n: int
    extra: dataclasses.InitVar[int] = 5


class Open(msgspec.Struct, dict=True):
    n: int


class Slotted:
    __slots__ = ("note",)


@dataclasses.dataclass(slots=True)
class SlottedRow(Slotted):
    name: str


class Movie(TypedDict):
    title: str
    at: date


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
