"""Keys and fingerprints: of all arguments, of a function, and which of them a decorator takes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from resilient.engine.keys import (
    compile_arguments_key,
    compile_callable,
    compile_fingerprint,
    key_function,
)
from resilient.errors import ConfigurationError, KeyMissing
from tests.support.keyed import DISTINCT, Address, Client, FrozenShape, Known, Point, charge


def arguments(function: Callable[..., Any]) -> Any:
    return compile_arguments_key(function, policy="cached", namespace="ns")


# --- keys of all arguments ---------------------------------------------------------------------


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

    assert f"@cached on {charge.__module__}.charge: amount: " in str(error.value)
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

    assert key(Client, "x") == f'ns("{Client.__module__}:Client","x")'
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


# --- key= --------------------------------------------------------------------------------------


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


def fingerprint(names: Any = None, function: Callable[..., Any] = charge, **options: Any) -> Any:
    return compile_fingerprint(function, names, policy="idempotent", **options)


# --- fingerprints ------------------------------------------------------------------------------


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


# --- the entry ---------------------------------------------------------------------------------


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
