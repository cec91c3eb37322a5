"""`@cached` on every kind of function, and what it refuses, as early as it can be known."""

from __future__ import annotations

import functools
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from resilient import (
    CacheContext,
    CapabilityMissing,
    ConfigurationError,
    DecoratorOrder,
    KeyMissing,
    LocalCache,
    cached,
    distributed_lock,
)
from resilient.engine.backend import Backend
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


# --- kinds of functions


def test_the_function_stays_what_it_was(mode: Mode) -> None:
    """Name, docstring, signature and kind are those of the function."""

    async def area(width: int, /, height: int = 2, *rest: int, unit: str, **others: int) -> str:
        """Tell how large."""
        return f"{width, height, rest, unit, sorted(others.items())}"

    plain = mode.function(area)
    f = cached(ttl=60)(plain)
    assert (f.__name__, f.__doc__) == ("area", "Tell how large.")
    assert inspect.signature(f) == inspect.signature(area)
    assert inspect.iscoroutinefunction(f) is mode.is_async
    for _ in range(2):
        assert mode.call(f, 1, unit="m") == mode.call(plain, 1, unit="m")
        assert mode.call(f, 1, 2, 3, unit="m", z=1) == mode.call(plain, 1, 2, 3, unit="m", z=1)
    assert cached.of(f).stats().computed == 2
    with pytest.raises(TypeError, match=r"area\(\)"):
        mode.call(f)


@dataclass(frozen=True)
class Frozen:
    """A value: it is known by its fields."""

    id: int

    @cached(ttl=60)
    def doubled(self, by: int = 2) -> int:
        """Count calls by what is returned."""
        RAN.append(self.id)
        return self.id * by


class Keyed:
    """Says what identifies it."""

    def __init__(self, number: int) -> None:
        self.id = number

    def __resilient_key__(self) -> int:
        return self.id

    @cached(ttl=60)
    def doubled(self) -> int:
        """Of the default key."""
        RAN.append(self.id)
        return self.id * 2

    @cached("{self.id}", ttl=60)
    def by_template(self) -> int:
        """Of a template."""
        RAN.append(self.id)
        return self.id * 2

    @classmethod
    @cached(ttl=60)
    def of_class(cls, x: int) -> str:
        """Below."""
        RAN.append(x)
        return f"{cls.__name__}{x}"

    @cached(ttl=60)
    @staticmethod
    def of_nobody(x: int) -> int:
        """Above."""
        RAN.append(x)
        return x


class SubKeyed(Keyed):
    """A class of its own."""


RAN: list[int] = []


@pytest.mark.parametrize("name", ["doubled", "by_template"])
def test_methods(name: str) -> None:
    """Objects that say what they are share entries by that, and are not kept alive."""
    RAN.clear()
    one, same, other = Keyed(1), Keyed(1), Keyed(2)
    assert [getattr(each, name)() for each in (one, same, other)] == [2, 2, 4]
    assert RAN == [1, 2]
    assert cached.of(getattr(one, name)).invalidate() is True
    assert getattr(same, name)() == 2
    assert RAN == [1, 2, 1]
    watched = weakref.ref(other)
    del other
    gc.collect()
    assert watched() is None


def test_frozen_dataclasses_are_their_fields() -> None:
    """A frozen dataclass needs no method to say what it is."""
    RAN.clear()
    assert [Frozen(1).doubled(), Frozen(1).doubled(2), Frozen(2).doubled()] == [2, 2, 4]
    assert RAN == [1, 2]
    assert cached.of(Frozen.doubled).key(Frozen(1)) == cached.of(Frozen(1).doubled).key()


def test_class_and_static_methods() -> None:
    """Above or below; a class method's entries are its class's."""
    RAN.clear()
    assert [Keyed.of_class(1), SubKeyed.of_class(1), Keyed(5).of_class(1)] == [
        "Keyed1",
        "SubKeyed1",
        "Keyed1",
    ]
    assert [Keyed.of_nobody(1), Keyed(7).of_nobody(1)] == [1, 1]
    assert RAN == [1, 1, 1]


def test_methods_of_objects_without_identity(mode: Mode) -> None:
    """The default key of a method is refused where the object does not say what it is."""

    plain: Any = type("Plain", (), {})

    async def method(self: Any, x: int) -> int:
        return x

    method.__qualname__ = "Plain.method"
    plain.method = mode.decorate(cached(ttl=60), method)
    with pytest.raises(ConfigurationError, match="__resilient_key__"):
        mode.call(plain().method, 1)


def test_stacks(mode: Mode) -> None:
    """The controls are found in a stack of decorators, whichever is on top."""

    async def f(x: int) -> int:
        return x

    plain = mode.function(f)
    above = cached(ttl=60)(distributed_lock("{x}")(plain))
    with pytest.warns(DecoratorOrder, match="waits for the lock"):
        below = distributed_lock("{x}")(cached(ttl=60, namespace="below")(plain))
    for each in (above, below):
        assert [mode.call(each, 1), mode.call(each, 1)] == [1, 1]
        assert cached.of(each).stats().computed == 1
    with pytest.raises(ConfigurationError, match="not decorated"):
        cached.of(plain)


def test_partials_and_callable_objects() -> None:
    """They are functions too; what is bound in them is part of the key."""

    def power(base: int, exponent: int) -> int:
        return int(base**exponent)

    class Adder:
        def __init__(self, number: int) -> None:
            self.number = number

        def __resilient_key__(self) -> int:
            return self.number

        def __call__(self, x: int) -> int:
            return self.number + x

    square = cached(ttl=60)(functools.partial(power, exponent=2))
    cube = cached(ttl=60)(functools.partial(power, exponent=3))
    assert [square(3), cube(3), square(3), cube(3)] == [9, 27, 9, 27]
    one, ten = cached(ttl=60)(Adder(1)), cached(ttl=60)(Adder(10))
    assert [one(1), ten(1), one(1)] == [2, 11, 2]


def test_generators_are_refused() -> None:
    """A generator's body runs after the call: nothing could be cached."""

    def items() -> Iterator[int]:
        yield 1

    async def aitems() -> AsyncIterator[int]:
        yield 1

    for function in (items, aitems):
        with pytest.raises(ConfigurationError, match="generator"):
            cached(ttl=60)(function)


# --- what is refused


def f(user: Any, page: int = 1) -> int:
    """Something to decorate."""
    return page


def with_required_context(n: int, ctx: CacheContext) -> int:
    """Callers could not leave it out."""
    return n


untyped: Any = cached
untyped_layer: Any = LocalCache
"""The same, as the type checkers do not know them: what follows is wrong by its types."""

BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: untyped(f, ttl=60), "parentheses"),
    (lambda: untyped(ttl=0), "ttl"),
    (lambda: untyped(ttl=-1), "ttl"),
    (lambda: untyped(ttl=float("nan")), "ttl"),
    (lambda: untyped(ttl=True), "ttl"),
    (lambda: untyped(ttl="10 parsecs"), "ttl"),
    (lambda: untyped("{usr}", ttl=60)(f), "usr"),
    (lambda: untyped("{user", ttl=60)(f), "template"),
    (lambda: untyped("", ttl=60)(f), "template"),
    (lambda: untyped("{user}", key=lambda user, page: 1, ttl=60)(f), "not both"),
    (lambda: untyped(key=lambda: "x", ttl=60)(f), "arguments"),
    (lambda: untyped(ttl=60, tags=("{usr}",))(f), "usr"),
    (lambda: untyped(ttl=60, tags="{user}")(f), "tuple"),
    (lambda: untyped(ttl=60, tags=(7,))(f), "template"),
    (lambda: untyped(ttl=60, tags=7)(f), "tuple"),
    (lambda: untyped(ttl=60, local=100), "local"),
    (lambda: untyped(ttl=60, local="on"), "local"),
    (lambda: untyped(ttl=60, on_backend_error="ignore"), "on_backend_error"),
    (lambda: untyped(ttl=60, namespace="")(f), "namespace"),
    (lambda: untyped(ttl=60, namespace="#x")(f), "namespace"),
    (lambda: untyped(ttl=60, version=True)(f), "version"),
    (lambda: untyped(ttl=60, version=1.5)(f), "version"),
    (lambda: untyped(ttl=60, backend="nowhere://x")(f), "nowhere"),
    (lambda: untyped(ttl=60, backend=object())(f), "backend"),
    (lambda: untyped(ttl=60, soft_ttl=60)(f), "soft_ttl"),
    (lambda: untyped(ttl=60, soft_ttl=0)(f), "soft_ttl"),
    (lambda: untyped(ttl=60, stale_if_error="soon")(f), "stale_if_error"),
    (lambda: untyped(ttl=60, throttle=0)(f), "throttle"),
    (lambda: untyped(ttl=60, early=1)(f), "early"),
    (lambda: untyped(ttl=60, jitter=1)(f), "jitter"),
    (lambda: untyped(ttl=60, jitter=True)(f), "jitter"),
    (lambda: untyped(ttl=60, jitter="x")(f), "jitter"),
    (lambda: untyped(ttl=60, error_ttl=5)(f), "error_ttl"),
    (lambda: untyped(ttl=60, error_ttl={int: 5})(f), "error_ttl"),
    (lambda: untyped(ttl=60, error_ttl={KeyError: 0})(f), "KeyError"),
    (lambda: untyped(ttl=60, cache_if=5)(f), "cache_if"),
    (lambda: untyped(ttl=60, codec="xml")(f), "codec"),
    (lambda: untyped(ttl=60, codec=5)(f), "codec"),
    (lambda: untyped(ttl=60, codec="json", error_ttl={KeyError: 5})(f), "error_ttl"),
    (lambda: untyped(ttl=60, compute_timeout=(2, 1))(f), "compute_timeout"),
    (lambda: untyped(ttl=60, compute_timeout=(1,))(f), "compute_timeout"),
    (lambda: untyped(ttl=60, backend_timeout="x")(f), "backend_timeout"),
    (lambda: untyped(ttl=60, backend_timeout=None)(f), "backend_timeout"),
    (lambda: untyped(ttl=60)(with_required_context), "ctx"),
    (lambda: untyped(ttl=60)(7), "functions"),
    (lambda: LocalCache(0), "maxsize"),
    (lambda: LocalCache(True), "maxsize"),
    (lambda: untyped_layer(1.5), "maxsize"),
    (lambda: LocalCache(ttl=0), "ttl"),
    (lambda: LocalCache(ttl="soon"), "ttl"),
]


@pytest.mark.parametrize(
    ("bad", "word"), BAD, ids=[f"{i}-{word}" for i, (_, word) in enumerate(BAD)]
)
def test_bad_options_when_decorated(bad: Callable[[], Any], word: str) -> None:
    """A wrong option is an error of ours, when decorated, that names it."""
    with pytest.raises(ConfigurationError, match=word):
        bad()


def test_what_does_not_exist_is_not_accepted() -> None:
    """An option that has no effect is no option."""
    with pytest.raises(ConfigurationError, match="no option coherence"):
        untyped(ttl=60, coherence="ttl")


def test_ttl_is_required() -> None:
    """Nothing is kept without a TTL that somebody chose."""
    with pytest.raises(ConfigurationError, match="needs ttl="):
        untyped()


def test_arguments_without_identity(mode: Mode) -> None:
    """An argument that only its address tells from others is refused by its name."""

    async def page(user: object) -> int:
        return 1

    g = mode.decorate(cached(ttl=60), page)
    with pytest.raises(ConfigurationError, match="user"):
        mode.call(g, object())
    h = mode.decorate(cached("{user.id}", ttl=60), page)
    with pytest.raises(KeyMissing, match=r"user\.id"):
        mode.call(h, object())


def test_a_backend_without_cache() -> None:
    """A backend that lacks the capability is refused when decorated."""
    with pytest.raises(CapabilityMissing, match="cache"):
        cached(ttl=60, backend=Backend("locks only"))(f)


def test_async_only_backend_and_a_sync_function(backend: Backend) -> None:
    """A backend that serves async callers only is refused for a `def` when decorated."""
    only = Backend("async only", cache=backend.cache, modes=frozenset({"async"}))
    with pytest.raises(CapabilityMissing, match="async"):
        cached(ttl=60, backend=only)(f)
