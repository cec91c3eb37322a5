"""Key templates: what they read, what they refuse, and that no two lists of arguments meet."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from resilient.engine.keys import (
    compile_keyword_template,
    compile_template,
)
from resilient.errors import ConfigurationError, KeyMissing
from tests.support.keyed import (
    Address,
    Client,
    Code,
    Color,
    Known,
    Level,
    Point,
    Rights,
    UserId,
    charge,
)


def template(text: str, function: Callable[..., Any] = charge, **options: Any) -> Any:
    return compile_template(function, text, policy="cached", **options)


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
        (Rights(3), "%=tests.support.keyed%3ARights.3"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (date(2024, 5, 1), "2024-05-01"),
        (datetime(2024, 5, 1, tzinfo=UTC), "2024-05-01T00%3A00%3A00+00%3A00"),
        (b"\x01\xff", "01ff"),
        (Path("a/b"), "a/b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        ((1, "a"), '%=(1,"a")'),
        ({"a": [1]}, '%=dict("a"%3A[1])'),
        (Point(1, 2), "%=tests.support.keyed%3APoint(x=1,y=2)"),
        (Known("db"), '%=tests.support.keyed%3AKnown("db")'),
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

    assert f"@cached on {charge.__module__}.charge" in str(error.value)
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
