"""What is one entry of `@cached`: the calls that share it, its namespace and its version."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from resilient import MISSING, cached
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


def test_every_spelling_of_a_call_is_one_entry(mode: Mode) -> None:
    """Positional, by keyword, with and without defaults: one execution."""
    ran = []

    async def area(width: int, height: int = 2, *, unit: str = "m") -> str:
        ran.append(1)
        return f"{width * height} {unit}"

    f = mode.decorate(cached(ttl=60), area)
    spellings = [
        mode.call(f, 5),
        mode.call(f, width=5),
        mode.call(f, 5, 2),
        mode.call(f, 5, height=2, unit="m"),
        mode.call(f, unit="m", height=2, width=5),
    ]
    assert set(spellings) == {"10 m"}
    assert len(ran) == 1


DIFFERENT: list[Any] = [
    1,
    True,
    1.0,
    "1",
    b"1",
    None,
    "None",
    0.0,
    -0.0,
    (1,),
    (True,),
    [1],
    [True],
    {"a": 1},
    {"a": True},
    Decimal("1.0"),
    Decimal("1.00"),
    "x" * 1000,
    "x" * 999,
]


def test_arguments_of_different_types_never_meet(mode: Mode) -> None:
    """Equal or alike, hashable or not: what differs in any respect is another entry, twice over."""
    ran = []

    async def f(value: Any) -> str:
        ran.append(value)
        return f"{value!r}"

    f = mode.decorate(cached(ttl=60), f)
    for _ in range(3):
        assert [mode.call(f, value) for value in DIFFERENT] == [f"{v!r}" for v in DIFFERENT]
    assert len(ran) == len(DIFFERENT)


def test_template_and_key(mode: Mode) -> None:
    """What the template, or `key=`, does not name does not count."""
    ran = []

    async def page(user: str, number: int, request: object = None) -> int:
        ran.append(1)
        return number

    by_template = mode.decorate(cached("{user}:{number}", ttl=60), page)
    by_key = mode.decorate(
        cached(key=lambda user, number, request: (user, number), ttl=60, namespace="key"), page
    )
    for f in (by_template, by_key):
        ran.clear()
        assert mode.call(f, "ada", 1, object()) == 1
        assert mode.call(f, "ada", 1, object()) == 1
        assert mode.call(f, "ada", 2) == 2
        assert len(ran) == 2
    assert cached.of(by_template).key("a:b", 1).endswith("page:a%3Ab:1")


def test_empty_fields_are_keys_too(mode: Mode) -> None:
    """A template's field may be `None` or empty, and those differ."""

    async def f(name: str | None) -> str:
        return f"{name!r}"

    f = mode.decorate(cached("{name}", ttl=60), f)
    for name in (None, "", "None"):
        assert mode.call(f, name) == f"{name!r}"


@pytest.mark.parametrize(
    "value", [None, 0, "", False, (), math.nan, datetime(2024, 5, 1, tzinfo=UTC)]
)
@pytest.mark.parametrize("local", ["auto", None])
def test_every_value_is_a_value(mode: Mode, value: Any, local: Any) -> None:
    """`None`, falsy values and NaN are stored and come back as what they were."""
    ran = []

    async def f() -> Any:
        ran.append(1)
        return value

    f = mode.decorate(cached(ttl=60, local=local), f)
    results = [mode.call(f) for _ in range(3)]
    assert len(ran) == 1
    assert [repr(result) for result in results] == [repr(value)] * 3
    assert {type(result) for result in results} == {type(value)}
    assert mode.call(cached.of(f).peek) is not MISSING


def test_namespaces_and_versions(mode: Mode) -> None:
    """Functions of one namespace share entries; versions do not; `clear` clears the namespace."""
    ran = []

    def named(number: int, **options: Any) -> Callable[..., Any]:
        async def f() -> int:
            ran.append(number)
            return number

        return mode.decorate(cached(ttl=60, **options), f)

    first, second = named(1, namespace="shared"), named(2, namespace="shared")
    newer, other = named(3, namespace="shared", version=2), named(4, namespace="other")
    assert [mode.call(f) for f in (first, second, newer, other)] == [1, 1, 3, 4]
    mode.call(cached.of(second).clear)
    ran.clear()
    assert [mode.call(f) for f in (newer, second, first, other)] == [3, 2, 2, 4]
    assert ran == [3, 2]
