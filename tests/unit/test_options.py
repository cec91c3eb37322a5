"""What the decorators have in common: what is wrong with their call is said in their own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient import ConfigurationError
from resilient.engine.options import (
    check_choice,
    check_function,
    check_whole_number,
    refuse_unknown,
)

ANY: Any = resilient
"""The package as the type checkers do not know it: what follows is wrong by its types."""

DECORATORS: dict[str, Callable[[], Any]] = {
    "distributed_lock": lambda: ANY.distributed_lock("k"),
    "circuit_breaker": lambda: ANY.circuit_breaker("k"),
    "cached": lambda: ANY.cached(ttl=60),
    "cached.batch": lambda: ANY.cached.batch(key_arg="ids", ttl=60),
    "idempotent": lambda: ANY.idempotent("k", ttl=60),
    "checkpointed": lambda: ANY.checkpointed("k"),
    "retry": lambda: ANY.retry(on=OSError),
    "bulkhead": lambda: ANY.bulkhead(1),
    "timeout": lambda: ANY.timeout(60, thread=True),
}
everything = pytest.mark.parametrize("name", DECORATORS)


def named(name: str) -> Any:
    """The decorator itself."""
    found: Any = resilient
    for part in name.split("."):
        found = getattr(found, part)
    return found


def function(ids: list[int]) -> None:
    """Never called."""


class Client:
    """Never made."""

    @classmethod
    def build(cls) -> None:
        """Never called."""


BARE = [function, Client, Client.__dict__["build"], staticmethod(function), property(function)]


@everything
@pytest.mark.parametrize("decorated", BARE, ids=lambda each: type(each).__name__)
def test_missing_parentheses_are_told(name: str, decorated: Any) -> None:
    """Also where options are required: those are not what is wrong then."""
    with pytest.raises(ConfigurationError, match=rf"^write @{name}\(\.\.\.\)"):
        named(name)(decorated)


@everything
def test_an_unknown_option_is_named_with_what_was_meant(name: str) -> None:
    """By an error that has the decorator's own name, and lists what there is."""
    option = {
        "retry": "atempts",
        "circuit_breaker": "backnd",
        "timeout": "tread",
        "bulkhead": "wat",
    }.get(name, "ke")
    with pytest.raises(ConfigurationError, match=rf"^@{name} has no option {option}: is \w+ meant"):
        named(name)(**{option: 1})


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cached", "ttl"),
        ("cached.batch", "key_arg"),
        ("idempotent", "ttl"),
        ("retry", "on"),
        ("timeout", "after"),
    ],
)
def test_a_required_option_is_named(name: str, option: str) -> None:
    """What only the caller knows has no default."""
    with pytest.raises(ConfigurationError, match=f"^@{name} needs {option}="):
        named(name)()


@everything
def test_options_are_given_by_name(name: str) -> None:
    """Two things without a name: the second one is none of the decorator's."""
    with pytest.raises(ConfigurationError, match=rf"^@{name}: .* without the name of its option"):
        named(name)(OSError, OSError)


@everything
def test_a_class_is_no_function(name: str) -> None:
    """It would be replaced by a function, and its own `isinstance` would fail."""
    with pytest.raises(ConfigurationError, match="Client is a class: decorate its methods"):
        DECORATORS[name]()(Client)


@everything
def test_a_property_is_decorated_inside(name: str) -> None:
    """The message says how."""
    with pytest.raises(ConfigurationError, match="write @property above it"):
        DECORATORS[name]()(property(function))


@everything
def test_controls_say_whose_they_are(name: str) -> None:
    """Where they are looked at by hand; `@retry` has none."""

    def run(job: resilient.Job, ids: list[int]) -> None:
        """Never called."""

    decorator = named(name)
    if hasattr(decorator, "of"):
        decorated = DECORATORS[name]()(run if name == "checkpointed" else function)
        assert repr(decorator.of(decorated)).startswith(f"<the controls of @{name} on ")


def test_a_word_is_one_of_a_few() -> None:
    """The message names the option, the value and the words."""
    check_choice("@d", "mode", "b", "a", "b", "c")
    with pytest.raises(ConfigurationError, match=r'^@d: mode=5 is not "a", "b" or "c"$'):
        check_choice("@d", "mode", 5, "a", "b", "c")


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5", None])
def test_a_number_is_a_whole_one(value: Any) -> None:
    """No boolean, and none that is too small."""
    check_whole_number("@d", "every", 1)
    check_whole_number("@d", "retries", 0, least=0)
    with pytest.raises(ConfigurationError, match=r"^@d: every=.* is not a whole number from 1 on$"):
        check_whole_number("@d", "every", value)


@pytest.mark.parametrize("name", ["distributed_lock", "idempotent", "checkpointed", "bulkhead"])
def test_an_answer_for_skipped_calls_needs_some(name: str) -> None:
    """Where a busy call raises, `skipped=` would never be seen: it is refused when decorated."""
    arguments = {"bulkhead": (1,)}.get(name, ("k",))
    options = {"ttl": 60} if name == "idempotent" else {}
    says = rf"^@{name}: skipped='later' is never answered without on_busy=\"skip\"$"
    for busy in ({}, {"on_busy": "raise"}):
        with pytest.raises(ConfigurationError, match=says):
            named(name)(*arguments, **options, **busy, skipped="later")
    named(name)(*arguments, **options, on_busy="skip", skipped="later")


def test_a_function_can_be_called() -> None:
    """A class can be, too."""
    check_function("@d", "migrate", dict)
    with pytest.raises(ConfigurationError, match=r"^@d: migrate=5 is not a function$"):
        check_function("@d", "migrate", 5)


def test_an_option_like_no_other_is_refused_too() -> None:
    """Nothing is guessed then."""
    refuse_unknown("f()", {"a": 1}, ("a", "b"))
    with pytest.raises(ConfigurationError, match=r"^f\(\) has no option zzz \(it has a, b\)$"):
        refuse_unknown("f()", {"zzz": 1}, ("a", "b"))
