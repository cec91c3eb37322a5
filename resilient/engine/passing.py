"""What is at hand for a while only, and hidden all at once when that is over."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet

__all__ = ["Passing", "View"]


class View(Protocol):
    """What is at hand."""

    def hide(self) -> None:
        """Let nobody find anything there from now on."""
        ...


class Passing:
    """The views that are shown now; it keeps none of them alive. Not thread-safe."""

    def __init__(self) -> None:
        self._shown: WeakSet[View] = WeakSet()

    def add(self, view: View) -> None:
        """A view is shown."""
        self._shown.add(view)

    def end(self) -> None:
        """Hide all of them."""
        for view in list(self._shown):
            view.hide()
        self._shown.clear()
