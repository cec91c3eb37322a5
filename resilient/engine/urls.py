"""What the URLs of backends have in common."""

from __future__ import annotations

import re

from resilient.errors import ConfigurationError

__all__ = ["number_of", "without_secrets", "wrong_url"]


def number_of(value: str | float) -> str | float:
    """An option's value, as a duration is given: a text that is a plain number means seconds."""
    try:
        return float(value)
    except ValueError:
        return value


def without_secrets(url: str) -> str:
    """The URL as it may be shown in a message: without a password, also in the query.

    A password that is not escaped may hold any character: all before the last `@` is hidden.
    """
    head, at, rest = url.rpartition("@")
    shown = f"{head.partition('://')[0]}://***@{rest}" if at else url
    return shown.partition("?")[0]


def wrong_url(url: str, reason: object) -> ConfigurationError:
    """The error for a URL that cannot be read; its parser may quote parts of the password."""
    text = str(reason).strip()
    credentials = url.rpartition("@")[0].partition("://")[2]
    if any(len(part) > 2 and part in text for part in re.split("[:/?#@]", credentials)):
        text = "are all special characters of its user and password percent-encoded (RFC 3986)?"
    return ConfigurationError(f"the URL {without_secrets(url)!r} is wrong: {text}")
