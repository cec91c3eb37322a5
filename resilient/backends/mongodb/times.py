"""Seconds on their way to the server."""

from __future__ import annotations

import math

from resilient.errors import ConfigurationError

__all__ = ["microseconds"]


def microseconds(seconds: float, option: str) -> int:
    """Seconds as the server takes them; at least one microsecond."""
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigurationError(f"{option}={seconds!r}: seconds must be positive and finite")
    return max(1, round(seconds * 1e6))
