"""Successes, counted without a lock.

A call takes the counter before it runs and draws a number from it when it has succeeded. At a
transition there is a new counter, so that the success of a call that began before goes to one that
nobody judges any more: it is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

__all__ = ["Tally"]

MOST_RETIRED = 4
"""Counters of earlier states that are still looked at, for calls that end late."""


class Tally:
    """The counter of one circuit, and those that it had before. Read under the circuit's lock.

    Attributes:
        counter: What a call draws its success from.
    """

    __slots__ = ("_drawn", "_retired", "_stale", "counter")

    def __init__(self) -> None:
        self.counter: Iterator[int] = count()
        self._drawn = -1
        self._retired: list[tuple[Iterator[int], int]] = []
        self._stale = 0

    def begin_anew(self) -> None:
        """Count anew; calls under way draw from the counter that they took."""
        self._retired = [(self.counter, self._drawn), *self._retired[: MOST_RETIRED - 1]]
        self.counter, self._drawn = count(), -1

    def new(self) -> int:
        """The successes since the last look."""
        number = next(self.counter)
        new = number - self._drawn - 1
        self._drawn = number
        return new

    def add_stale(self, calls: int) -> None:
        """Calls that were no success, and ended late."""
        self._stale += calls

    @property
    def stale(self) -> int:
        """Calls that had no effect, because they ended in another state than they began in."""
        for place, (counter, drawn) in enumerate(self._retired):
            number = next(counter)
            self._stale += number - drawn - 1
            self._retired[place] = (counter, number)
        return self._stale
