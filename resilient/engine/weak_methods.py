"""Bound methods to be called later, for as long as their objects live."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakMethod

__all__ = ["WeakMethods"]


ROOM = 16
"""How many references there are before those to what is gone are looked for."""


class WeakMethods:
    """A list of bound methods that keeps no object alive."""

    def __init__(self) -> None:
        self._references: list[WeakMethod[Callable[[], None]]] = []
        self._room = ROOM

    def add(self, method: Callable[[], None]) -> None:
        """Have it called from now on."""
        if len(self._references) >= self._room:
            self._references[:] = [each for each in self._references if each() is not None]
            self._room = max(ROOM, 2 * len(self._references))
        self._references.append(WeakMethod(method))

    def __call__(self) -> None:
        """Call all of them; the first error is raised when they have been called."""
        failure: Exception | None = None
        for reference in list(self._references):
            method = reference()
            if method is not None:
                try:
                    method()
                except Exception as error:
                    failure = failure or error
        if failure is not None:
            raise failure
