"""Which tags were invalidated lately: to be held against flights that learn of their tags late."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["RecentTags"]

MOST = 1000
"""How many tags are remembered."""


class RecentTags:
    """The tags that were invalidated last. Not thread-safe.

    Attributes:
        moment: How many invalidations there have been.
    """

    __slots__ = ("_forgotten", "_moments", "moment")

    def __init__(self) -> None:
        self.moment = 0
        self._moments: dict[str, int] = {}  # the latest last
        self._forgotten = 0

    def add(self, tag: str) -> None:
        """A tag is invalidated now."""
        self.moment += 1
        self._moments.pop(tag, None)
        self._moments[tag] = self.moment
        if len(self._moments) > MOST:
            self._forgotten = self._moments.pop(next(iter(self._moments)))

    def any_since(self, moment: int, tags: Iterable[str]) -> bool:
        """Whether one of the tags was invalidated since; if that is forgotten, it was."""
        return any(self._moments.get(tag, self._forgotten) > moment for tag in tags)
