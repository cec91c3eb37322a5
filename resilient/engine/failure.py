"""An exception that counts as a result."""

from __future__ import annotations

__all__ = ["Failure"]


class Failure:
    """An exception that is a result: it is stored, and raised to those who ask for the value."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error
