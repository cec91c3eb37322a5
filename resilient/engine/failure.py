"""An exception that counts as a result."""

from __future__ import annotations

__all__ = ["Failure"]


class Failure:
    """An exception that is a result: it is stored, and raised to those who ask for the value.

    Attributes:
        error: The exception.
    """

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def taken(self) -> Exception:
        """The exception, to be raised at once; this does not hold it any more.

        Its traceback holds the frames that it goes through, which may hold this: a cycle else.
        """
        error = self.error
        del self.error
        return error
