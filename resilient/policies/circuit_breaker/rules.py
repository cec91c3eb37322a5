"""When a circuit opens and closes again, in the words of the decorator's options."""

from __future__ import annotations

from typing import Any

from resilient.engine.durations import Duration, seconds
from resilient.errors import ConfigurationError
from resilient.protocols.circuits import CircuitRules

__all__ = [
    "DEFAULT_HALF_OPEN",
    "DEFAULT_TRIP",
    "DEFAULT_WINDOW",
    "Consecutive",
    "CountWindow",
    "FailureRate",
    "HalfOpen",
    "Trip",
    "circuit_rules",
]

IDLE = 86_400.0
"""Seconds for which a circuit is remembered that nobody uses."""


class Trip:
    """A condition that opens a circuit; `|` combines several: any of them does."""

    def __or__(self, other: Trip) -> Trip:
        if not isinstance(other, Trip):
            return NotImplemented
        return _AnyOf((*_parts(self), *_parts(other)))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


class FailureRate(Trip):
    """Open when at least this share of the calls in the window has failed.

    Args:
        rate: More than 0, at most 1: `0.5` opens at half. It is judged after every call, once
            there are `min_calls` of them.

    Raises:
        ConfigurationError: The rate is no such number.

    Example:
        >>> import resilient
        >>> resilient.FailureRate(0.5) | resilient.Consecutive(5)
        FailureRate(0.5) | Consecutive(5)
    """

    def __init__(self, rate: float) -> None:
        given: Any = rate
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 1:
            raise ConfigurationError(f"FailureRate({rate!r}): expected a share, 0 < rate <= 1")
        self.rate = float(rate)

    def __repr__(self) -> str:
        return f"FailureRate({self.rate})"


class Consecutive(Trip):
    """Open after this many failures in a row, however few calls there were.

    Args:
        failures: At least 1. Successes of any process in between begin the count anew.

    Raises:
        ConfigurationError: It is no such number.

    Example:
        >>> import resilient
        >>> resilient.Consecutive(5)
        Consecutive(5)
    """

    def __init__(self, failures: int) -> None:
        self.failures = _at_least_one(failures, "Consecutive")

    def __repr__(self) -> str:
        return f"Consecutive({self.failures})"


class CountWindow:
    """Judge the latest calls, so many of them.

    Args:
        calls: At least 1.

    Raises:
        ConfigurationError: It is no such number.

    Example:
        >>> import resilient
        >>> resilient.CountWindow(100)
        CountWindow(100)
    """

    def __init__(self, calls: int) -> None:
        self.calls = _at_least_one(calls, "CountWindow")

    def __repr__(self) -> str:
        return f"CountWindow({self.calls})"


class HalfOpen:
    """How an open circuit is probed when its time is over.

    Args:
        permits: How many calls are let through, over all processes. When all have ended the
            circuit closes, or opens again if they failed as often as opens it.
        lease: After how long the permit of a probe that never reported, because its process died,
            is free again: seconds, or as `"10s"`. A probe that takes longer does not count, so
            make it longer than a call takes.

    Raises:
        ConfigurationError: The number or the duration is wrong.

    Example:
        >>> import resilient
        >>> resilient.HalfOpen(permits=5, lease=10)
        HalfOpen(permits=5, lease=10.0)
    """

    def __init__(self, permits: int = 5, lease: Duration = 10) -> None:
        self.permits = _at_least_one(permits, "HalfOpen: permits")
        self.lease = seconds(lease, option="HalfOpen: lease")

    def __repr__(self) -> str:
        return f"HalfOpen(permits={self.permits}, lease={self.lease})"


class _AnyOf(Trip):
    def __init__(self, parts: tuple[Trip, ...]) -> None:
        self.parts = parts

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))


def circuit_rules(
    trip: Trip,
    window: CountWindow,
    min_calls: int,
    open_for: Duration,
    half_open: HalfOpen,
    *,
    policy: str,
) -> CircuitRules:
    """The rules as the stores read them.

    Raises:
        ConfigurationError: An option is of the wrong kind or out of its range.
    """
    _check("trip", trip, Trip, "FailureRate(0.5) | Consecutive(5)", policy)
    _check("window", window, CountWindow, "CountWindow(100)", policy)
    _check("half_open", half_open, HalfOpen, "HalfOpen(permits=5, lease=10)", policy)
    parts = _parts(trip)
    rates = [part.rate for part in parts if isinstance(part, FailureRate)]
    in_a_row = [part.failures for part in parts if isinstance(part, Consecutive)]
    pause = seconds(open_for, option="open_for")
    return CircuitRules(
        window=window.calls,
        min_calls=_at_least_one(min_calls, f"@{policy}: min_calls"),
        failure_rate=min(rates, default=None),
        consecutive=min(in_a_row, default=None),
        open_for=pause,
        permits=half_open.permits,
        lease=half_open.lease,
        ttl=max(IDLE, 2 * pause),
    )


def _parts(trip: Trip) -> tuple[Trip, ...]:
    return trip.parts if isinstance(trip, _AnyOf) else (trip,)


def _check(option: str, value: Any, kind: type, example: str, policy: str) -> None:
    if not isinstance(value, kind) or type(value) is Trip:
        raise ConfigurationError(
            f"@{policy}: {option}={value!r} is not of the form {option}={example}"
        )


def _at_least_one(value: Any, option: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{option}={value!r}: expected a whole number, at least 1")
    return value


DEFAULT_TRIP = FailureRate(0.5)
DEFAULT_WINDOW = CountWindow(100)
DEFAULT_HALF_OPEN = HalfOpen()
