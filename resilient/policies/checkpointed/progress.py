"""How far a job is, how fast it goes, and how long it will take."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilient.engine import clock

if TYPE_CHECKING:
    from resilient.policies.checkpointed.places import Place

__all__ = ["Meter", "Progress", "progress_over"]

MARK_EVERY = 1.0
"""Seconds between two measurements of the rate."""
MEMORY = 30.0
"""Seconds after which a measurement of the rate counts about a third."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, over all its outermost loops that have begun.

    Attributes:
        done: Items that are done, in earlier runs too.
        total: Items that there are; `None` unless each loop knows its own.
        rate: Items a second of late, in this run; `None` before the first is done.
    """

    done: int
    total: int | None
    rate: float | None

    @property
    def percent(self) -> float | None:
        """0 to 100; `None` without a total."""
        if self.total is None:
            return None
        return 100.0 if self.total <= self.done else 100.0 * self.done / self.total

    @property
    def eta(self) -> float | None:
        """Estimated seconds to go; `None` without a total or a rate."""
        if self.total is None:
            return None
        left = max(0, self.total - self.done)
        if left == 0:
            return 0.0
        return left / self.rate if self.rate else None


class Meter:
    """The rate of late: an average in which the last half minute counts most."""

    __slots__ = ("_count", "_counted", "_marked", "_rate", "due")

    def __init__(self) -> None:
        self._marked = clock.now()
        self._count = 0
        self._counted = 0
        self._rate: float | None = None
        self.due = self._marked + MARK_EVERY
        """When `mark` wants to be called next, on the local clock."""

    def add(self, count: int) -> None:
        """So many items are done."""
        self._count += count

    def mark(self, now: float) -> None:
        """Measure the rate since the last mark."""
        passed = now - self._marked
        latest = (self._count - self._counted) / passed
        if self._rate is None:
            self._rate = latest
        else:
            self._rate += (latest - self._rate) * -math.expm1(-passed / MEMORY)
        self._marked, self._counted, self.due = now, self._count, now + MARK_EVERY

    def rate(self) -> float | None:
        """Items a second; `None` before the first."""
        now = clock.now()
        if now >= self.due:
            self.mark(now)
        if self._rate is not None:
            return self._rate
        passed = now - self._marked
        return self._count / passed if self._count and passed > 0 else None


def progress_over(loops: Collection[Place], meter: Meter | None) -> Progress:
    """How far these loops are, at the rate that the meter has measured."""
    totals = [loop.total for loop in loops]
    return Progress(
        done=sum(loop.done for loop in loops),
        total=None if None in totals or not totals else sum(filter(None, totals)),
        rate=None if meter is None else meter.rate(),
    )
