"""Canonical texts and names: every value has one text, which no other value has."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.engine.canonical import canonical, plain_text
from resilient.engine.keys import (
    namespace_of,
)
from resilient.engine.names import importable, name_of
from resilient.errors import ConfigurationError
from tests.support.keyed import (
    DISTINCT,
    Address,
    Client,
    Code,
    Color,
    Level,
    Pair,
    Point,
    Shape,
    UserId,
    charge,
)

# --- canonical texts ---------------------------------------------------------------------------


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


# --- names -------------------------------------------------------------------------------------


def test_names_tell_module_and_qualified_name() -> None:
    """Functions, methods, partials and callable objects have a namespace."""
    here = charge.__module__

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
