"""Wrong options of `@circuit_breaker`: refused when declared, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import (
    Backoff,
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    ConfigurationError,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    Ramp,
    SlowRate,
    TimeWindow,
    circuit_breaker,
)

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trip": 0.5}, "trip=0.5"),
        ({"window": 100}, "window=100"),
        ({"half_open": 5}, "half_open=5"),
        ({"min_calls": 0}, "min_calls=0"),
        ({"min_calls": True}, "min_calls=True"),
        ({"open_for": float("nan")}, "open_for=nan"),
        ({"open_for": 0}, "open_for=0"),
        ({"open_for": "1 minute"}, "open_for='1 minute'"),
        ({"record": "ValueError"}, "record='ValueError'"),
        ({"record": (KeyboardInterrupt,)}, "record"),
        ({"ignore": asyncio.CancelledError}, "ignore"),
        ({"fallback": "none"}, "fallback='none'"),
        ({"key": lambda nonsense: ""}, "key="),
        ({"backend": "nonsense://"}, "nonsense"),
    ],
)
def test_a_wrong_option_is_refused_when_decorated(options: dict[str, Any], says: str) -> None:
    """By an error of our tree that names it."""
    template = () if "key" in options else ("service",)

    def call() -> None:
        """Never called."""

    with pytest.raises(ConfigurationError, match=says):
        circuit_breaker(*template, **options)(call)


@pytest.mark.parametrize("value", [0, -0.1, 1.5, True, "half", float("nan")])
def test_a_rate_is_a_share(value: Any) -> None:
    """More than 0, at most 1."""
    with pytest.raises(ConfigurationError, match="FailureRate"):
        FailureRate(value)


@pytest.mark.parametrize("make", [Consecutive, CountWindow, HalfOpen])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5"])
def test_counts_are_whole_numbers(make: Callable[[Any], Any], value: Any) -> None:
    """At least 1."""
    with pytest.raises(ConfigurationError, match="not a whole number from 1 on"):
        make(value)


def test_templates_are_checked_when_decorated() -> None:
    """Unknown fields, no key, both keys, and omitted parentheses."""

    def call(tenant: str) -> None:
        """Never called."""

    with pytest.raises(ConfigurationError, match="nonsense"):
        circuit_breaker("x:{nonsense}")(call)
    with pytest.raises(ConfigurationError, match="needs a key"):
        circuit_breaker()(call)
    with pytest.raises(ConfigurationError, match="not both"):
        circuit_breaker("x", key=lambda tenant: "x")(call)
    with pytest.raises(ConfigurationError, match="parentheses"):
        circuit_breaker(call)  # type: ignore[call-overload]  # what is to be refused
    with pytest.raises(ConfigurationError, match="is not decorated"):
        circuit_breaker.of(call)


def test_a_fallback_must_suit_the_function() -> None:
    """No async fallback for a `def`, and none at all for generators."""

    async def fallback(refusal: CircuitOpen) -> None:
        """Never called."""

    def plain() -> None:
        """Never called."""

    def stream() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match="async fallback"):
        circuit_breaker("x", fallback=fallback)(plain)  # type: ignore[arg-type]  # to be refused
    with pytest.raises(ConfigurationError, match="generator"):
        circuit_breaker("x", fallback=lambda refusal: iter(()))(stream)


def test_an_unknown_option_is_refused() -> None:
    """An option that is not there is never accepted and ignored."""
    for option in ("on_backend_down", "max_keys", "windows"):
        with pytest.raises(ConfigurationError, match=f"has no option {option}"):
            circuit_breaker("x", **{option: None})  # type: ignore[call-overload]  # on purpose


def untyped(kind: Any) -> Any:
    """The same, as the type checkers do not know it: what follows is wrong by its types."""
    return kind


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (partial(SlowRate, 0.5, over=0), "over"),
        (partial(SlowRate, 2, over=1), "SlowRate"),
        (partial(TimeWindow, -1), "TimeWindow"),
        (partial(TimeWindow, 60, buckets=500), "buckets"),
        (partial(Backoff, 5, factor=0.5), "factor"),
        (partial(Backoff, 5, max=1), "max"),
        (partial(Backoff, 5, jitter=1), "jitter"),
        (partial(HalfOpen, concurrency=0), "concurrency"),
        (partial(untyped(HalfOpen), policy="some"), "policy"),
        (partial(Ramp, over=10, start=0), "start"),
        (partial(resilient.Quorum, 0), "nodes"),
        (partial(resilient.Quorum, 1, fraction=2), "fraction"),
        (partial(untyped(CircuitBreaker), "s", consistency="lazy"), "consistency"),
        (partial(CircuitBreaker, "s", consistency="strict", quorum=resilient.Quorum(2)), "quorum"),
        (partial(untyped(CircuitBreaker), "s", ramp=30), "ramp"),
        (partial(untyped(CircuitBreaker), "s", quorum=2), "quorum"),
        (partial(untyped(CircuitBreaker), "s", record_result=1), "record_result"),
        (partial(untyped(CircuitBreaker), "s", retry_after=30), "retry_after"),
        (
            partial(CircuitBreaker, "s", trip=SlowRate(0.1, over=1) | SlowRate(0.1, over=2)),
            "over",
        ),
    ],
)
def test_a_wrong_option_is_named(make: Callable[[], Any], says: str) -> None:
    """By an error of our tree, when it is declared."""
    with pytest.raises(resilient.ConfigurationError, match=says):
        make()
