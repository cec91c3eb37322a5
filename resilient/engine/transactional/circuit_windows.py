"""What a circuit is judged by: its latest outcomes, by number or by time.

Both windows are resilience4j's: a ring of the last N outcomes, and partial aggregations, one for
each part of the time (https://resilience4j.readme.io/docs/circuitbreaker). They keep running
totals, so that an outcome costs the same however large the window is.
"""

from __future__ import annotations

from math import floor
from typing import Any, Protocol

from resilient.engine.transactional.store import Record
from resilient.protocols.circuits import CircuitRules

__all__ = ["Bucket", "Window", "has_failed", "is_slow", "window_of"]

FAILED = frozenset("13f")
SLOW = frozenset("23s")
CALLS = frozenset("0123s")
"""Outcomes that count a call; the others tell how one ended that was counted before."""


def has_failed(outcome: str) -> bool:
    """Whether this outcome is a failure."""
    return outcome in FAILED


def is_slow(outcome: str) -> bool:
    """Whether this outcome is that of a slow call."""
    return outcome in SLOW


class Bucket(Record, frozen=True, array_like=True):
    """One part of a time window.

    Attributes:
        number: Which part of time it is, counted from the epoch in parts of its length.
        until: When it leaves the window, on the store's clock.
    """

    number: int
    until: float
    calls: int
    failures: int
    slow: int


class Window(Protocol):
    """The outcomes that are judged, and their totals."""

    calls: int
    failures: int
    slow: int

    def add(self, outcome: str) -> None:
        """Count one more outcome."""
        ...

    def kept(self) -> dict[str, Any]:
        """The fields of the circuit in which it is kept."""
        ...


class CountWindow:
    """The latest outcomes, so many of them."""

    def __init__(self, outcomes: str, size: int) -> None:
        self._ring = list(outcomes[-size:])
        self._first = 0
        self._size = size
        self.calls = len(self._ring)
        self.failures = sum(map(has_failed, self._ring))
        self.slow = sum(map(is_slow, self._ring))

    def add(self, outcome: str) -> None:
        """Count one more outcome; the oldest leaves a full window."""
        if outcome == "f":
            self._amend()
        if outcome not in CALLS:
            return
        self._ring.append("2" if outcome == "s" else outcome)
        self.calls += 1
        self.failures += has_failed(outcome)
        self.slow += is_slow(outcome)
        if self.calls > self._size:
            oldest = self._ring[self._first]
            self._first += 1
            self.calls -= 1
            self.failures -= has_failed(oldest)
            self.slow -= is_slow(oldest)

    def _amend(self) -> None:
        """The latest slow success was none."""
        for place in range(len(self._ring) - 1, self._first - 1, -1):
            if self._ring[place] == "2":
                self._ring[place] = "3"
                self.failures += 1
                return

    def kept(self) -> dict[str, Any]:
        """As it is stored."""
        return {"outcomes": "".join(self._ring[self._first :]), "buckets": ()}


class TimeWindow:
    """The outcomes of the latest seconds, in buckets."""

    def __init__(
        self, buckets: tuple[Bucket, ...], seconds: float, parts: int, now: float, age: float
    ) -> None:
        width = seconds / parts
        self._number = floor((now - age) / width)
        self._until = (self._number + parts) * width
        self._is_over = self._until <= now
        self._buckets = {b.number: b for b in buckets if b.until > now}
        self.calls = sum(bucket.calls for bucket in self._buckets.values())
        self.failures = sum(bucket.failures for bucket in self._buckets.values())
        self.slow = sum(bucket.slow for bucket in self._buckets.values())

    def add(self, outcome: str) -> None:
        """Count one more outcome, unless it has left the window already."""
        if outcome == "f":
            self._amend()
        elif outcome in CALLS and not self._is_over:
            self._put(self._number, 1, has_failed(outcome), is_slow(outcome))

    def _amend(self) -> None:
        """One of the latest slow calls has failed."""
        for number in sorted(self._buckets, reverse=True):
            bucket = self._buckets[number]
            if bucket.slow and bucket.failures < bucket.calls:
                self._put(number, 0, True, False)
                return

    def _put(self, number: int, calls: int, failed: bool, slow: bool) -> None:
        old = self._buckets.get(number) or Bucket(number, self._until, 0, 0, 0)
        self._buckets[number] = Bucket(
            number, old.until, old.calls + calls, old.failures + failed, old.slow + slow
        )
        self.calls += calls
        self.failures += failed
        self.slow += slow

    def kept(self) -> dict[str, Any]:
        """As it is stored."""
        return {"outcomes": "", "buckets": tuple(self._buckets.values())}


def window_of(
    outcomes: str, buckets: tuple[Bucket, ...], rules: CircuitRules, now: float, age: float
) -> Window:
    """The window of a circuit under these rules, to which outcomes of this age are added."""
    if rules.seconds is None:
        return CountWindow(outcomes, rules.window)
    return TimeWindow(buckets, rules.seconds, rules.buckets, now, age)
