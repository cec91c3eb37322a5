"""Which exceptions an option means: a type, several, or what a function says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from resilient.errors import ConfigurationError

__all__ = ["NEVER", "On", "matcher"]

On: TypeAlias = "type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]"
NEVER = (StopIteration, StopAsyncIteration)
"""No failures, but the end of an iterator."""


def matcher(on: Any, *, policy: str) -> Callable[[Exception], bool]:
    """Whether an exception is one of those that `on=` means; the end of an iterator is none.

    Raises:
        ConfigurationError: It means none.
    """
    if isinstance(on, type):
        on = (on,)
    if isinstance(on, tuple):
        for each in on:
            if not isinstance(each, type) or not issubclass(each, Exception):
                raise ConfigurationError(
                    f"@{policy}: on={on!r}: expected exception types, subclasses of Exception"
                )
        if not on:
            raise ConfigurationError(f"@{policy}: on=() means no exception at all")
        return lambda error: isinstance(error, on) and not isinstance(error, NEVER)
    if not callable(on):
        raise ConfigurationError(
            f"@{policy}: on={on!r}: expected exception types or a function of an exception"
        )
    return lambda error: not isinstance(error, NEVER) and bool(on(error))
