"""Keys: templates, keys of all arguments, `key=` and fingerprints never let two calls meet."""

from __future__ import annotations

import dataclasses
import enum
import fractions
import functools
import inspect
import ipaddress
import re
import subprocess
import sys
import uuid
import zoneinfo
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from resilient.engine.canonical import canonical, plain_text
from resilient.engine.keys import (
    compile_arguments_key,
    compile_callable,
    compile_fingerprint,
    compile_keyword_template,
    compile_template,
    key_function,
    namespace_of,
    refuse_missing_parentheses,
)
from resilient.engine.names import importable, name_of
from resilient.errors import ConfigurationError, KeyMissing


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


def template(text: str, function: Callable[..., Any] = charge, **options: Any) -> Any:
    return compile_template(function, text, policy="cached", **options)


def arguments(function: Callable[..., Any]) -> Any:
    return compile_arguments_key(function, policy="cached", namespace="ns")


# --- canonical texts -------------------------------------------------------------------------

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


def test_every_value_has_a_text_of_its_own() -> None:
    """Values that differ in type or in content differ in their text, nested ones as well."""
    texts = [canonical(value) for value in DISTINCT]
    wrapped = [canonical([value, "end"]) for value in DISTINCT]

    assert len(set(texts)) == len(DISTINCT)
    assert len(set(texts) | set(wrapped)) == 2 * len(DISTINCT)


def test_equal_values_have_one_text() -> None:
    """Order counts only where equality says that it counts."""
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical({"x", "y", "z", 1, 2}) == canonical({2, 1, "z", "y", "x"})
    assert canonical(OrderedDict(a=1, b=2)) != canonical(OrderedDict(b=2, a=1))
    assert canonical(Address("a", cache=object())) == canonical(Address("a"))
    assert canonical(Shape("a", note=object())) == canonical(Shape("a"))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, -1.5])
    | st.text('a1,()[]":\\= ', max_size=3)
    | st.binary(max_size=2)
    | st.sampled_from([*Color, *Level, *Code, Pair(1, 2), Point(1, 2), Point(2, 1)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("ab", max_size=2) | st.integers(0, 2), inner, max_size=2)
    ),
    max_leaves=6,
)


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal in types and contents, all the way down."""
    if type(a) is not type(b):
        return False
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is dict:
        pairs = ((type(k), k) for k in a)
        return {(type(k), k) for k in b} == set(pairs) and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


@settings(max_examples=400, deadline=None)
@given(st.lists(PLAIN, min_size=8, max_size=8))
def test_two_values_share_a_text_only_if_they_are_the_same(values: list[Any]) -> None:
    """28 pairs of each of 400 lists: the texts are equal exactly when the values are."""
    texts = [canonical(value) for value in values]

    for i, a in enumerate(values):
        for j, b in enumerate(values[:i]):
            assert (texts[i] == texts[j]) == same(a, b)


@pytest.mark.parametrize(
    "value", [object(), Client("a"), lambda: 1, [object()], {"a": Client("b")}, Client("a").get]
)
def test_what_has_an_address_only_is_refused(value: Any) -> None:
    """No key is made of an address: it is used again for another object."""
    with pytest.raises(ConfigurationError, match="does not say what identifies it"):
        canonical(value)


def test_a_builtin_subclass_with_a_state_is_refused() -> None:
    """What a subclass adds would be lost from the key."""
    user = UserId("7")
    user.tenant = "acme"  # type: ignore[attr-defined]  # the added state is the point

    with pytest.raises(ConfigurationError, match="UserId"):
        canonical(user)
    assert plain_text(user) is None


def test_a_record_that_is_also_a_container_is_refused() -> None:
    """Its fields alone would leave the items out of the key."""
    record = dataclasses.make_dataclass("Record", [("x", int)], bases=(dict,))(1)

    with pytest.raises(ConfigurationError, match="Record"):
        canonical(record)


def test_a_value_that_contains_itself_is_refused() -> None:
    """Recursion ends in a clear error, not in a `RecursionError`."""
    loop: list[Any] = []
    loop.append(loop)

    with pytest.raises(ConfigurationError, match="contains itself"):
        canonical(loop)


def test_a_class_made_at_run_time_cannot_imitate_a_value() -> None:
    """An odd class name is quoted."""
    made = dataclasses.make_dataclass("Odd(1,2)", [("x", int)])
    made.__qualname__ = 'Odd(1),"2'

    assert canonical(made(1)) == f'"{__name__}:Odd(1),\\"2"(x=1)'.replace(__name__, made.__module__)


def test_texts_are_the_same_in_another_process() -> None:
    """No hash seed, no address and no set order shows in a text."""
    script = (
        "from resilient.engine.canonical import canonical\n"
        "print(canonical([{'a', 'b', 'c', 1, 2}, frozenset({(1, 2), 'x'}), {'k': {None}}]))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path)) + ":."},
            capture_output=True,
            check=True,
        ).stdout
        for seed in "123"
    }

    assert len(texts) == 1


# --- names -----------------------------------------------------------------------------------


def test_names_tell_module_and_qualified_name() -> None:
    """Functions, methods, partials and callable objects have a namespace."""
    here = __name__

    assert namespace_of(charge) == f"{here}.charge"
    assert namespace_of(Client.get) == f"{here}.Client.get"
    assert namespace_of(functools.partial(charge, 1)) == f"{here}.charge"
    assert namespace_of(Client("a")) == f"{here}.Client"  # type: ignore[arg-type]  # by class only
    assert namespace_of(same) != namespace_of(charge)


def test_a_main_module_is_told_by_its_importable_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script, the processes that it spawns and its importers agree on its name."""
    for module in ("__main__", "__mp_main__"):
        fake = type(sys)(module)
        fake.__file__ = "/srv/app/jobs.py"
        monkeypatch.setitem(sys.modules, module, fake)
        local = type("Job", (), {"__module__": module})
        assert name_of(local) == "jobs:Job"

    fake.__spec__ = sys.__spec__
    assert name_of(local) == "sys:Job"


def test_only_what_is_found_under_its_name_is_importable() -> None:
    """Lambdas and local classes are not."""

    class Local: ...

    assert all(map(importable, (Client, Client.get, len)))
    assert not any(map(importable, (Local, lambda: 1)))


# --- templates -------------------------------------------------------------------------------


def test_a_template_reads_arguments_attributes_and_items() -> None:
    """Each form of field takes its value out of the bound arguments."""
    address = Address("Rome", ["a@b.c"])

    assert template("charge:{order_id}")(7) == "charge:7"
    assert template("{order_id}:{amount}")("A", amount=2) == "A:2"
    assert template("{order_id.city}/{order_id.emails[0]}")(address) == "Rome/a@b.c"
    assert template("{order_id[id]}")({"id": 5}) == "5"
    assert template("{order_id[-1]}")([1, 2]) == "2"
    assert template("{more[tenant]}-{rest[0]}")(1, 2, 3, tenant="t") == "t-3"
    assert template("all of it")(1) == "all of it"
    assert template("{{tag}}:{order_id}")(1) == "{tag}:1"
    assert template("{self.host}", Client.get)(Client("db"), "/") == "db"


def test_a_sign_is_no_separator() -> None:
    """Numbers are escaped like texts."""
    key = template("{order_id}-{amount}")

    assert key(1, -5) == "1-%2D5"
    assert key(10**5_000, 1.5e-7) == f"{10**5_000:#x}-1.5e%2D07"


def test_defaults_are_part_of_the_key() -> None:
    """`f(5)`, `f(5, 1)` and `f(amount=1, order_id=5)` are one call."""
    key = template("{order_id}:{amount}:{currency}")

    keys = {key(5), key(5, 1), key(amount=1, order_id=5), key(5, currency="EUR")}
    assert keys == {"5:1:EUR"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("A-7", "A-7"),
        ("a:b", "a%3Ab"),
        ("100%", "100%25"),
        ("{x}", "%7Bx%7D"),
        ("ä", "ä"),
        ("a\nb\x00", "a%0Ab%00"),
        ("\ud800", "%ED%A0%80"),
        (UserId("7"), "7"),
        (-5, "-5"),
        (2**70, str(2**70)),
        (True, "True"),
        (1.5, "1.5"),
        (Color.RED, "RED"),
        (Level.LOW, "1"),
        (Code.EUR, "eur"),
        (Rights(3), "%=test_keys%3ARights.3"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (date(2024, 5, 1), "2024-05-01"),
        (datetime(2024, 5, 1, tzinfo=UTC), "2024-05-01T00%3A00%3A00+00%3A00"),
        (b"\x01\xff", "01ff"),
        (Path("a/b"), "a/b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        ((1, "a"), '%=(1,"a")'),
        ({"a": [1]}, '%=dict("a"%3A[1])'),
        (Point(1, 2), "%=test_keys%3APoint(x=1,y=2)"),
        (Known("db"), '%=test_keys%3AKnown("db")'),
    ],
)
def test_values_are_written_as_a_person_would(value: Any, text: str) -> None:
    """Scalars are plain text; anything else is canonical, behind a mark."""
    assert template("order:{order_id}")(value).replace("tests.unit.", "") == f"order:{text}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key template"),
        ("  ", "no key template"),
        (b"x", "no key template"),
        (7, "no key template"),
        ("{}", "not of the form"),
        ("{0}", "not of the form"),
        ("{order_id", "expected '}'"),
        ("order_id}", "Single '}'"),
        ("{order_id!r}", "format or a conversion"),
        ("{amount:>10}", "format or a conversion"),
        ("{order_id.}", "not of the form"),
        ("{order_id.class}", "not of the form"),
        ("{class}", "not of the form"),
        ("{order_id[]}", "not of the form"),
        ("{order_id()}", "not of the form"),
        ("{order id}", "not of the form"),
        ("{order_id}{amount}", "needs a separator"),
        ("{order_id}x{amount}", "needs a separator"),
        ("{order_id}%{amount}", "needs a separator"),
    ],
)
def test_a_malformed_template_is_refused_when_decorated(text: Any, message: str) -> None:
    """What is wrong stands in the error, with the function and the template."""
    with pytest.raises(ConfigurationError, match=message) as error:
        template(text)

    assert f"@cached on {__name__}.charge" in str(error.value)
    assert repr(text)[1:-1] in str(error.value)


def test_an_unknown_field_is_refused_with_the_known_names() -> None:
    """A slip is found when decorated, not at the first call."""
    with pytest.raises(ConfigurationError) as error:
        template("charge:{oder_id.x}")

    assert "{oder_id.x}" in str(error.value)
    assert "order_id, amount, rest, currency, more" in str(error.value)


@pytest.mark.parametrize("value", [None, "", b"", (), [], {}, set()])
def test_an_empty_field_identifies_nothing(value: Any) -> None:
    """`None` and empty values are refused by the field's name, unless a cache asks for them."""
    with pytest.raises(KeyMissing, match=r"\{order_id\}"):
        template("charge:{order_id}")(value)

    assert template("charge:{order_id}", empty_ok=True)(value).startswith("charge:")


def test_none_empty_and_their_texts_differ_in_a_cache() -> None:
    """With `empty_ok`, nothing meets: not `None` and `""`, and no text that looks like them."""
    key = template("{order_id}", empty_ok=True)

    values: list[Any] = [None, "", "None", "%=None", "=None", (), "()", "%=()", [], {}]
    assert len(set(map(key, values))) == len(values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{order_id.city}", None),
        ("{order_id[id]}", {}),
        ("{order_id[3]}", [1]),
        ("{order_id[a]}", 1),
    ],
)
def test_a_field_that_cannot_be_read_is_missing(text: str, value: Any) -> None:
    """An attribute or an item that is not there is named, with the cause chained."""
    with pytest.raises(KeyMissing, match="cannot be read") as error:
        template(text)(value)

    assert isinstance(error.value.__cause__, AttributeError | LookupError | TypeError)


def test_an_error_in_the_arguments_own_code_passes_through() -> None:
    """Only what means "not there" is taken for missing."""

    class Broken:
        @property
        def city(self) -> str:
            raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        template("{order_id.city}")(Broken())


def test_a_field_without_identity_is_refused_by_name() -> None:
    """The address of an object is never written into a key."""
    with pytest.raises(ConfigurationError, match=r"\{order_id\}.*Client"):
        template("charge:{order_id}")(Client("db"))


HOSTILE = st.text(":|-%={}2533A7Bax \x00\udc80é", max_size=6)


@settings(max_examples=3_000, deadline=None)
@given(st.tuples(HOSTILE, HOSTILE, HOSTILE), st.tuples(HOSTILE, HOSTILE, HOSTILE))
@example(("a", ":b", "c"), ("a:", "b", "c"))
@example(("a%3A", "", ""), ("a:", "", ""))
def test_two_lists_of_texts_never_meet_in_one_key(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    """Four templates, values full of separators and escapes: different lists, different keys."""
    assume(a != b)

    for key in HOSTILE_KEYS:
        assert key(a[0], a[1], currency=a[2]) != key(b[0], b[1], currency=b[2])


HOSTILE_KEYS = [
    template(text, empty_ok=True)
    for text in (
        "{order_id}:{amount}:{currency}",
        "a{order_id}|a:a|{amount}-{currency}33",
        "{{{order_id}}}{amount}%={currency}%",
        "{order_id} x {amount}\x00{currency}",
    )
]


@settings(max_examples=1_000, deadline=None)
@given(
    st.lists(HOSTILE | st.none() | st.lists(HOSTILE, max_size=2).map(tuple), min_size=6, max_size=6)
)
def test_texts_containers_and_none_never_meet(values: list[Any]) -> None:
    """Fifteen pairs of each of 1,000 lists: a container's key is no text's key."""
    keys = [HOSTILE_KEYS[1](value, 1) for value in values]

    assert len(set(keys)) == len({(type(value), value) for value in values})


def test_a_template_without_a_function_takes_keywords() -> None:
    """By hand, the fields of a template are given by name."""
    key = compile_keyword_template("payments:{tenant}:{user.host}", policy="CircuitBreaker")

    assert key(tenant="a:b", user=Client("db")) == "payments:a%3Ab:db"
    with pytest.raises(TypeError, match="'user'"):
        key(tenant="a")
    assert compile_keyword_template("payments", policy="CircuitBreaker")() == "payments"


# --- keys of all arguments -------------------------------------------------------------------


def test_every_spelling_of_a_call_has_one_key() -> None:
    """Defaults are applied, and keyword order does not count."""
    key = arguments(charge)

    assert key(5) == key(5, 1) == key(order_id=5, amount=1) == key(5, currency="EUR")
    assert key(5, x=1, y=2) == key(5, y=2, x=1)
    assert key(5) == 'ns(5,1,(),"EUR",dict())'


def test_all_arguments_are_typed() -> None:
    """No two of the distinct values share a key, wherever they stand."""
    key = arguments(charge)

    keys = [key(value) for value in DISTINCT] + [key(0, 0, value) for value in DISTINCT]
    assert len(set(keys)) == 2 * len(DISTINCT)


def test_a_long_key_is_hashed() -> None:
    """96 bytes can be read; beyond, it is 32 hexadecimal digits, still one per call."""
    key = arguments(charge)

    assert key("x" * 74) == f'ns("{"x" * 74}",1,(),"EUR",dict())'
    assert len(key("x" * 74)) == len("ns") + 96
    assert key("x" * 75).startswith("ns#")
    assert len(key("x" * 75)) == len("ns#") + 32
    assert key("é" * 38).startswith("ns#")
    assert key("x" * 75) != key("x" * 76)
    assert key("\ud800").startswith("ns#")


def test_an_argument_without_identity_is_named() -> None:
    """The error tells the function, the parameter and the type."""
    with pytest.raises(ConfigurationError) as error:
        arguments(charge)(1, Client("db"))

    assert f"@cached on {__name__}.charge: amount: " in str(error.value)
    assert "Client" in str(error.value)


def test_a_method_needs_to_know_its_self() -> None:
    """Two objects never share a key because `self` was left out."""
    with pytest.raises(ConfigurationError, match=r"Client.*__resilient_key__.*\{self\.id\}"):
        arguments(Client.get)(Client("db"), "/")

    known = arguments(Known.get)
    assert known(Known("a"), "/") == known(Known("a"), "/") != known(Known("b"), "/")
    point = arguments(Point.distance)
    assert point(Point(1, 2), 3) != point(Point(2, 2), 3)
    shape = arguments(FrozenShape.area)
    assert shape(FrozenShape("a"), "m") != shape(FrozenShape("b"), "m")


def test_a_classmethod_knows_its_class() -> None:
    """A subclass has keys of its own."""
    key = arguments(Client.__dict__["build"].__func__)

    assert key(Client, "x") == f'ns("{__name__}:Client","x")'
    assert key(Known, "x") != key(Client, "x")


def test_a_plain_function_may_call_its_first_parameter_self() -> None:
    """Only inside a class is it the receiver."""

    def free(self: str) -> None: ...

    assert arguments(free)("x") == 'ns("x")'


def test_what_is_bound_before_the_call_is_part_of_the_key() -> None:
    """Partials, bound methods and callable objects differ by what they hold."""
    one, two = (arguments(functools.partial(charge, n)) for n in (1, 2))
    assert one(5) != two(5)
    assert arguments(Known("a").get)("/") != arguments(Known("b").get)("/")
    with pytest.raises(ConfigurationError, match="__resilient_key__"):
        arguments(Client("a").get)("/")
    assert arguments({"a": 1}.get) is not None


# --- key= ------------------------------------------------------------------------------------


def test_a_key_function_sees_the_bound_arguments() -> None:
    """It takes the same arguments, defaults applied, and returns a text or a tuple."""
    key = compile_callable(
        charge,
        lambda order_id, amount, *rest, currency, **more: f"{order_id}/{amount}/{currency}",
        policy="idempotent",
    )

    assert key(7) == "7/1/EUR"
    pair = compile_callable(charge, lambda *a, **k: a, policy="cached", prefix="ns:")
    assert pair(7) == "ns:(7,1)"
    assert pair("7") != pair(7)
    assert pair("7" * 100).startswith("ns:#")


@pytest.mark.parametrize("result", [None, "", ()])
def test_a_key_function_must_return_something(result: Any) -> None:
    """`None` and empty results identify nothing."""
    with pytest.raises(KeyMissing, match="identifies nothing"):
        compile_callable(charge, lambda *a, **k: result, policy="cached")(1)


@pytest.mark.parametrize("result", [5, b"key", ["a"], (object(),)])
def test_a_key_function_must_return_a_text_or_values(result: Any) -> None:
    """Anything else is a configuration error."""
    with pytest.raises(ConfigurationError, match="key="):
        compile_callable(charge, lambda *a, **k: result, policy="cached")(1)


async def async_key(*args: Any, **kwargs: Any) -> str:
    return "key"


@pytest.mark.parametrize("key", [async_key, lambda order_id: "x", lambda: "x", "x", 5])
def test_an_unusable_key_function_is_refused_when_decorated(key: Any) -> None:
    """A coroutine function, other parameters, no function: found before the first call."""
    with pytest.raises(ConfigurationError, match="key="):
        compile_callable(charge, key, policy="cached")


# --- fingerprints ----------------------------------------------------------------------------


def fingerprint(names: Any = None, function: Callable[..., Any] = charge, **options: Any) -> Any:
    return compile_fingerprint(function, names, policy="idempotent", **options)


def test_a_fingerprint_covers_the_named_arguments() -> None:
    """Those count, typed; the others do not."""
    mark = fingerprint(("amount",))

    assert mark(1, 5) == mark(2, amount=5, currency="USD")
    assert mark(1, 5) != mark(1, 6)
    assert mark(1, 5) != mark(1, 5.0)
    assert re.fullmatch("[0-9a-f]{32}", mark(1))


def test_a_fingerprint_covers_what_is_not_in_the_key() -> None:
    """Without names: every argument but those that are, as a whole, fields of the template."""
    mark = fingerprint(template="charge:{order_id}:{currency}")
    assert mark(1, 5) == mark(2, 5, currency="USD") != mark(1, 6)

    partly = fingerprint(template="charge:{order_id.city}")
    assert partly(Address("Rome", ["a"])) != partly(Address("Rome", ["b"]))


def test_a_fingerprint_keeps_names_and_values_apart() -> None:
    """The same values of other parameters are another fingerprint; their order is not."""

    def one(a: int, b: int) -> None: ...

    def swapped(b: int, a: int) -> None: ...

    assert fingerprint(function=one)(1, 2) == fingerprint(function=swapped)(2, 1)
    assert fingerprint(function=one)(1, 2) != fingerprint(function=one)(2, 1)
    assert fingerprint(("a",), one)(1, 1) != fingerprint(("b",), one)(1, 1)


def test_a_fingerprint_leaves_self_out_unless_it_says_what_it_is() -> None:
    """Two clients of one order are one payload; two known ones are two."""
    plain = fingerprint(function=Client.get)
    known = fingerprint(function=Known.get)
    bound = fingerprint(function=Client.__dict__["build"].__func__)

    assert plain(Client("a"), "/") == plain(Client("b"), "/") != plain(Client("a"), "/x")
    assert known(Known("a"), "/") != known(Known("b"), "/")
    assert bound(Client, "x") == bound(Known, "x")


@pytest.mark.parametrize("names", [("order_id", "amuont"), "amount"])
def test_a_wrong_fingerprint_is_refused_when_decorated(names: Any) -> None:
    """An unknown name, or a text instead of a tuple."""
    with pytest.raises(ConfigurationError, match="fingerprint"):
        fingerprint(names)


def test_a_fingerprint_names_an_argument_without_identity() -> None:
    """As a key does."""
    with pytest.raises(ConfigurationError, match=r"amount: .*Client"):
        fingerprint()(1, Client("db"))


# --- the entry -------------------------------------------------------------------------------


def test_the_entry_picks_the_kind_of_key() -> None:
    """A template, `key=`, or all arguments where there is a namespace to keep them apart."""
    ns: dict[str, Any] = {"policy": "cached", "namespace": "ns"}

    assert key_function(charge, "c:{order_id}", policy="idempotent")(7) == "c:7"
    assert key_function(charge, "c:{order_id}", **ns)(7) == "ns:c:7"
    assert key_function(charge, key=lambda *a, **k: "x", **ns)(7) == "ns:x"
    assert key_function(charge, **ns)(7).startswith("ns(7,1,")


def test_the_entry_refuses_both_and_neither() -> None:
    """Two keys contradict each other, and a global key must be written."""
    with pytest.raises(ConfigurationError, match="not both"):
        key_function(charge, "x", lambda *a, **k: "x", policy="cached")
    with pytest.raises(ConfigurationError, match="needs a key"):
        key_function(charge, policy="distributed_lock")


def test_another_signature_may_stand_for_the_functions() -> None:
    """A job that leaves the signature takes part in nothing."""

    def load(job: object, path: str) -> None: ...

    full = inspect.signature(load)
    shorter = full.replace(parameters=[full.parameters["path"]])
    assert (
        key_function(load, "load:{path}", policy="checkpointed", signature=shorter)("x") == "load:x"
    )
    with pytest.raises(ConfigurationError, match="known are: path"):
        key_function(load, "load:{job}", policy="checkpointed", signature=shorter)


@pytest.mark.parametrize("value", [charge, Client, Client.__dict__["build"], staticmethod(charge)])
def test_missing_parentheses_are_refused(value: Any) -> None:
    """`@cached` without a call would take the function for a template."""
    with pytest.raises(ConfigurationError, match=r"write @cached\(\.\.\.\)"):
        refuse_missing_parentheses(value, policy="cached")

    refuse_missing_parentheses("user:{id}", policy="cached")
    refuse_missing_parentheses(None, policy="cached")
