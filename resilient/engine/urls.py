"""What the URLs of backends have in common."""

from __future__ import annotations

__all__ = ["number_of", "without_secrets"]


def number_of(value: str | float) -> str | float:
    """An option's value, as a duration is given: a text that is a plain number means seconds."""
    try:
        return float(value)
    except ValueError:
        return value


def without_secrets(url: str) -> str:
    """The URL as it may be shown in a message: without a password, also in the query."""
    plain = url.partition("?")[0]
    head, at, rest = plain.rpartition("@")
    return f"{head.partition('://')[0]}://***@{rest}" if at else plain
