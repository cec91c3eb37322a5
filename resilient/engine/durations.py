"""Durations: the one place that turns what a user writes into seconds."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeAlias

from resilient.errors import ConfigurationError

__all__ = ["Duration", "optional_seconds", "seconds"]

Duration: TypeAlias = float | int | timedelta | str
"""Seconds as a number, a `timedelta`, or a text such as `"250ms"`, `"30s"`, `"1h30m"`, `"7d"`."""

_MILLISECONDS = {
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}

# Each unit at most once, from the largest to the smallest: "30m1h" is likelier a slip than meant.
_TEXT = re.compile(
    "".join(rf"(?:(?P<{unit}>[0-9]+(?:\.[0-9]+)?){unit})?" for unit in _MILLISECONDS)
)


def seconds(value: Duration, *, option: str, allow_zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        value: Seconds, a `timedelta`, or a text of numbers with the units w, d, h, m, s and ms,
            from the largest to the smallest.
        option: The option's name, for the error.
        allow_zero: Whether 0 is meant ("try once", "at once"); it never means "no limit".

    Raises:
        ConfigurationError: It is no duration: another type, a boolean, NaN, infinite, negative,
            zero where that is not allowed, or a text that does not read as a whole ("1h30").

    Example:
        >>> seconds("1h30m", option="ttl")
        5400.0
    """
    number = _number(value, option)
    if not math.isfinite(number):
        raise _refusal(option, value, "it must be finite")
    if number < 0:
        raise _refusal(option, value, "it must not be negative")
    if number == 0 and not allow_zero:
        raise _refusal(option, value, "it must be more than zero")
    return number


def optional_seconds(
    value: Duration | None, *, option: str, allow_zero: bool = False
) -> float | None:
    """Return a duration in seconds, or `None` for `None`.

    Args:
        value: As for `seconds`; what `None` means is the option's affair.
        option: The option's name, for the error.
        allow_zero: Whether 0 is meant.

    Raises:
        ConfigurationError: It is neither `None` nor a duration.

    Example:
        >>> optional_seconds(None, option="wait") is None
        True
    """
    return None if value is None else seconds(value, option=option, allow_zero=allow_zero)


def _number(value: Any, option: str) -> float:
    if isinstance(value, str):
        return _read(value, option)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(option, value, "expected seconds, a timedelta or a text")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _read(text: str, option: str) -> float:
    number = _parsed(text)
    if number is None:
        raise _refusal(option, text, 'expected a text such as "250ms", "30s", "5m", "1h30m", "7d"')
    return number


@lru_cache(256)  # the same few texts, at each decorated function
def _parsed(text: str) -> float | None:
    match = _TEXT.fullmatch(text)
    if match is None or not text:
        return None
    parts = match.groupdict()
    # Divided once at the end, so that "3ms" is the float nearest to 0.003.
    return sum(float(parts[u]) * ms for u, ms in _MILLISECONDS.items() if parts[u]) / 1000


def _refusal(option: str, value: object, why: str) -> ConfigurationError:
    try:
        shown = repr(value)
    except ValueError:  # an integer of more digits than Python is willing to print
        shown = "a huge number"
    return ConfigurationError(f"{option}={shown} is not a duration: {why}")
