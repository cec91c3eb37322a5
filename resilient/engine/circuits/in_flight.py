"""Circuits that judge by slowness: each call is counted in the moment in which it becomes slow.

All calls of one circuit have the same limit, so the one that began first is the next to become
slow: a dict, which keeps the order, does for a heap. A call that ends takes itself out. What is
still there when its time is over is taken out by the background worker, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from resilient.engine import clock
from resilient.engine.circuits.known import KnownCircuit
from resilient.engine.circuits.outcomes import (
    FAILURE,
    HAS_BECOME_SLOW,
    SLOW_FAILURE,
    SLOW_ONE_ENDED,
    SLOW_ONE_FAILED,
    SLOW_SUCCESS,
    SUCCESS,
)
from resilient.engine.stopwatch import Stopwatch, running
from resilient.protocols.circuits import CircuitRules

if TYPE_CHECKING:
    from resilient.engine.circuits.registry import KnownCircuits

__all__ = ["Flight", "TimedCircuit"]


class Flight(msgspec.Struct, eq=False, gc=False):
    """One call under way, and its stopwatch. A `Struct`, since that is the fastest to make.

    Attributes:
        began: When it began, on the local clock.
        outer: The stopwatch of a call around this one.
        counter: What it took before it began: tells the state in which it was let through.
        queued: Seconds for which it has waited in queues of ours.
        since: Since when it waits in one, if it does.
    """

    began: float
    outer: Stopwatch | None
    counter: Iterator[int] | None
    queued: float = 0.0
    since: float | None = None

    def seconds(self, now: float) -> float:
        """How long it has taken; from any thread."""
        waiting = 0.0 if (since := self.since) is None else now - since
        return now - self.began - self.queued - waiting

    def pause(self, now: float) -> None:
        """It waits in a queue of ours from now on."""
        self.since = now

    def resume(self, now: float) -> None:
        """It does no longer."""
        if self.since is not None:
            self.queued += now - self.since
            self.since = None


class TimedCircuit(KnownCircuit):
    """A circuit that knows its calls under way.

    Attributes:
        over: Seconds above which a call is slow.
        looks_at: When the worker looks at the calls under way, on the local clock.
    """

    __slots__ = ("_calls", "_is_watched", "looks_at", "over")

    def __init__(self, key: str, rules: CircuitRules, circuits: KnownCircuits) -> None:
        super().__init__(key, rules, circuits)
        assert rules.slow_over is not None
        self.over = rules.slow_over
        self.looks_at = math.inf
        self._calls: dict[Flight, None] = {}
        self._is_watched = False

    def begin(self, counter: Iterator[int] | None) -> Flight:
        """A call begins in this thread or task, and may become slow.

        Args:
            counter: The counter that it took. Of a probe `None`: that it is slow is seen at its
                end, and until then its lease stands for it.
        """
        flight = Flight(clock.now(), running.get(), counter)
        running.set(flight)
        self._calls[flight] = None
        if not self._is_watched and counter is not None:
            self._is_watched = True
            self.looks_at = flight.began + self.over
            self._circuits.watch(self)
        return flight

    def succeeded(self, counter: Iterator[int], flight: Flight) -> None:
        """Count a call that ended well: `ended`, in short for one that was quick."""
        running.set(flight.outer)
        unnoticed = self._calls.pop(flight, 0) is None
        if unnoticed and clock.now() - flight.began <= self.over:
            next(counter)
            if self.is_idle:
                self.wake()
        else:
            super().ended(counter, self._with_slowness(flight, SUCCESS, unnoticed))

    def timed(self, flight: Flight | None, outcome: str) -> str:
        """A call has ended: its outcome with its slowness."""
        assert flight is not None
        running.set(flight.outer)
        return self._with_slowness(flight, outcome, self._calls.pop(flight, 0) is None)

    def _with_slowness(self, flight: Flight, outcome: str, unnoticed: bool) -> str:
        if outcome not in (SUCCESS, FAILURE):
            return outcome
        failed = outcome == FAILURE
        if not unnoticed:
            return SLOW_ONE_FAILED if failed else SLOW_ONE_ENDED
        if flight.seconds(clock.now()) > self.over:
            return SLOW_FAILURE if failed else SLOW_SUCCESS
        return outcome

    def look(self, now: float) -> bool:
        """Count the calls that have become slow; whether others may, and when to look again."""
        self._is_watched = False  # first: a call that begins now sees to it that it is
        next_look = math.inf
        for flight in list(self._calls):
            if flight.counter is None:
                continue
            left = self.over - flight.seconds(now)
            if left >= 0:
                next_look = min(next_look, now + left + SOON)
            elif self._calls.pop(flight, 0) is None:
                self.noted(flight.counter, HAS_BECOME_SLOW)
        if next_look < math.inf:
            self._is_watched = True
        self.looks_at = next_look
        return self._is_watched


SOON = 0.001
"""Seconds past its limit at which a call is looked at: then it is over it."""
