"""Calls under way, where slow ones count: each is counted in the moment in which it becomes slow.

All calls of one circuit have the same limit, so the one that began first is the next to become
slow: a dict, which keeps the order, does for a heap. A call that ends takes itself out. What is
still there when its time is over is taken out by the background worker, and counted.
"""

from __future__ import annotations

import math
from typing import Any

from resilient.engine import clock
from resilient.engine.circuits.outcomes import (
    FAILURE,
    SLOW_FAILURE,
    SLOW_ONE_ENDED,
    SLOW_ONE_FAILED,
    SLOW_SUCCESS,
    SUCCESS,
)
from resilient.engine.stopwatch import Stopwatch, running

__all__ = ["Flight", "InFlight"]


class Flight(Stopwatch):
    """One call under way.

    Attributes:
        counter: What it took before it began: tells the state in which it was let through.
    """

    __slots__ = ("counter",)

    def __init__(self, counter: Any) -> None:
        super().__init__(clock.now(), running.get())
        self.counter = counter


class InFlight:
    """The calls of one circuit that are under way.

    Attributes:
        calls: They, in the order in which they began.
        over: Seconds above which one is slow.
        is_watched: Whether the worker looks at them in time.
        due: When it has to, on the local clock.
    """

    __slots__ = ("calls", "due", "is_watched", "over")

    def __init__(self, over: float) -> None:
        self.calls: dict[Flight, None] = {}
        self.over = over
        self.is_watched = False
        self.due = math.inf

    def begin(self, counter: Any) -> Flight:
        """A call begins in this thread or task."""
        flight = Flight(counter)
        running.set(flight)
        self.calls[flight] = None
        return flight

    def end(self, flight: Flight, outcome: str) -> str:
        """It has ended, as a success or a failure: its outcome with its slowness."""
        running.set(flight.outer)
        was_fast = self.calls.pop(flight, 0) is None
        if outcome not in (SUCCESS, FAILURE):
            return outcome
        failed = outcome == FAILURE
        if not was_fast:
            return SLOW_ONE_FAILED if failed else SLOW_ONE_ENDED
        if flight.seconds(clock.now()) > self.over:
            return SLOW_FAILURE if failed else SLOW_SUCCESS
        return outcome

    def overdue(self, now: float) -> list[Flight]:
        """Take out the calls that have become slow, and say when to look again."""
        self.is_watched = False  # first: a call that begins now sees to it that it is
        found = []
        next_due = math.inf
        for flight in list(self.calls):
            left = self.over - flight.seconds(now)
            if left >= 0:
                next_due = min(next_due, now + left + SOON)
            elif self.calls.pop(flight, 0) is None:
                found.append(flight)
        if next_due < math.inf:
            self.is_watched = True
        self.due = next_due
        return found


SOON = 0.001
"""Seconds past its limit at which a call is looked at: then it is over it."""
