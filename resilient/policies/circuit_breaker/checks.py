"""What options may be: each check names the option and the value that it refuses."""

from __future__ import annotations

from typing import Any

from resilient.errors import ConfigurationError

__all__ = ["check", "number", "share"]


def check(
    option: str, value: Any, kind: type | tuple[type, ...], example: str, policy: str
) -> None:
    """The value must be of one of these types."""
    if not isinstance(value, kind):
        raise ConfigurationError(
            f"@{policy}: {option}={value!r} is not of the form {option}={example}"
        )


def share(value: Any, option: str) -> float:
    """More than 0, at most 1."""
    if _is_number(value) and 0 < value <= 1:
        return float(value)
    raise ConfigurationError(f"{option}({value!r}): expected a share, more than 0, at most 1")


def number(value: Any, least: float, most: float, option: str) -> float:
    """A number between these, or one of them."""
    if _is_number(value) and least <= value <= most:
        return float(value)
    raise ConfigurationError(f"{option}={value!r}: expected a number from {least} to {most}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
