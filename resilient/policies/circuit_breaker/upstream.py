"""For how long a service asks to be left alone, as its client's exception tells."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

__all__ = ["asked_pause"]

LONGEST = 3600.0
"""Seconds that a service is believed at most."""


def asked_pause(error: BaseException) -> float:
    """Seconds that an exception asks for; 0 if it does not.

    It is the exception's `retry_after` (seconds or `timedelta`), or the header `Retry-After` of its
    `response`, as httpx, requests and aiohttp have them. A date is compared with the response's own
    `Date`, not with this machine's clock (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after).
    """
    try:
        asked = _seconds(getattr(error, "retry_after", None))
        if asked is None:
            headers: Any = getattr(getattr(error, "response", error), "headers", None) or {}
            asked = _header(headers.get("Retry-After"), headers.get("Date"))
    except (TypeError, ValueError, AttributeError, OverflowError):  # it is somebody else's object
        return 0.0
    return min(max(asked or 0.0, 0.0), LONGEST)


def _seconds(value: Any) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def _header(value: Any, sent: Any) -> float | None:
    if not isinstance(value, str):
        return None
    if value.strip().isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime  # takes a while to import, and is rarely needed

    return (parsedate_to_datetime(value) - parsedate_to_datetime(sent)).total_seconds()
