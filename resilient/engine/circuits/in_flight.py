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

__all__ = ["BEGIN", "IS_QUICK", "NAMES", "Flight", "TimedCircuit"]


class Flight(msgspec.Struct, eq=False, gc=False):
    """One call under way, and its stopwatch. A `Struct`, since that is the fastest to make.

    Attributes:
        began: When it began, by `clock.ticks`.
        outer: The call around this one.
        counter: What it took before it began: tells the state in which it was let through.
        has_ended: Whether it has.
        queued: Seconds for which it has waited in queues of ours.
        since: Since when it waits in one, if it does.
    """

    began: float
    outer: Stopwatch | None
    counter: Iterator[int] | None
    has_ended: bool = False
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
        calls: Those under way, in the order in which they began.
        is_watched: Whether the worker looks at them in time.
        over: Seconds above which a call is slow.
        looks_at: When the worker looks at the calls under way, on the local clock.
    """

    __slots__ = ("calls", "is_watched", "looks_at", "over")

    def __init__(self, key: str, rules: CircuitRules, circuits: KnownCircuits) -> None:
        super().__init__(key, rules, circuits)
        assert rules.slow_over is not None
        self.over = rules.slow_over
        self.looks_at = math.inf
        self.calls: dict[Flight, None] = {}
        self.is_watched = False

    def begin(self, counter: Iterator[int] | None) -> Flight:
        """A call begins in this thread or task, and may become slow.

        Args:
            counter: The counter that it took. Of a probe `None`: that it is slow is seen at its
                end, and until then its lease stands for it.
        """
        outer = running.get()
        while outer is not None and outer.has_ended:
            outer = outer.outer
        flight = Flight(clock.ticks(), outer, counter)
        running.set(flight)
        self.calls[flight] = None
        if not self.is_watched and counter is not None:
            self.watch()
        return flight

    def watch(self) -> None:
        """Have the worker look at the calls under way, when the first of them becomes slow."""
        self.is_watched = True
        self.looks_at = clock.now() + self.over
        self._circuits.watch(self)

    def timed(self, flight: Flight | None, outcome: str) -> str:
        """A call has ended: its outcome with its slowness."""
        assert flight is not None
        flight.has_ended = True
        return self._with_slowness(flight, outcome, self.calls.pop(flight, 0) is None)

    def _with_slowness(self, flight: Flight, outcome: str, unnoticed: bool) -> str:
        if outcome not in (SUCCESS, FAILURE):
            return outcome
        failed = outcome == FAILURE
        if not unnoticed:
            return SLOW_ONE_FAILED if failed else SLOW_ONE_ENDED
        if flight.seconds(clock.ticks()) > self.over:
            return SLOW_FAILURE if failed else SLOW_SUCCESS
        return outcome

    def look(self, now: float) -> bool:
        """Count the calls that have become slow; whether others may, and when to look again."""
        self.is_watched = False  # first: a call that begins now sees to it that it is
        next_look = math.inf
        ticks = clock.ticks()
        for flight in list(self.calls):
            if flight.counter is None:
                continue
            left = self.over - flight.seconds(ticks)
            if left >= 0:
                next_look = min(next_look, now + left + SOON)
            elif self.calls.pop(flight, 0) is None:
                self.noted(flight.counter, HAS_BECOME_SLOW)
        if next_look < math.inf:
            self.is_watched = True
        self.looks_at = next_look
        return self.is_watched


SOON = 0.001
"""Seconds past its limit at which a call is looked at: then it is over it."""

# What `begin` and `timed` do, for the fast path around a function: its calls are too many and too
# short for two calls of ours. Who takes the call out, its end or the worker, counts it.
BEGIN = """\
_resilient_outer = _resilient_running()
while _resilient_outer is not None and _resilient_outer.has_ended:
 _resilient_outer = _resilient_outer.outer
_resilient_flight = _resilient_Flight(_resilient_clock.ticks(), _resilient_outer, _resilient_hits)
_resilient_run(_resilient_flight)
_resilient_circuit.calls[_resilient_flight] = None
if not _resilient_circuit.is_watched:
 _resilient_circuit.watch()"""
IS_QUICK = """\
_resilient_clock.ticks() - _resilient_flight.began <= _resilient_circuit.over \\
 and _resilient_circuit.calls.pop(_resilient_flight, 0) is None:
 _resilient_flight.has_ended = True"""
NAMES = {
    "_resilient_Flight": Flight,
    "_resilient_clock": clock,
    "_resilient_run": running.set,
    "_resilient_running": running.get,
}
