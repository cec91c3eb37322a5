"""What calls have come to and the server has not been told yet."""

from __future__ import annotations

import math
from typing import NamedTuple

from resilient.protocols.circuits import CircuitRules, CircuitView

__all__ = ["FAILURE", "NEITHER", "SUCCESS", "Batch", "Run", "Unsent"]

SUCCESS, FAILURE, NEITHER = "0", "1", "-"
SLOW_SUCCESS, SLOW_FAILURE = "2", "3"
HAS_BECOME_SLOW, SLOW_ONE_FAILED, SLOW_ONE_ENDED = "s", "f", "o"
"""The outcomes of a call, as `resilient.protocols.circuits` writes them."""

FAILURES_WITHIN = 0.005
"""Seconds within which a failure is sent; those in between go with it."""
SUCCESSES_WITHIN = 0.1
"""Seconds within which a success is sent."""
MOST_UNSENT = 1000
"""Outcomes that are kept while they cannot be sent, unless the window is larger."""


class Run(NamedTuple):
    """Outcomes that came at about the same time, on the local clock."""

    moment: float
    outcomes: str


class Batch(NamedTuple):
    """What is on its way to the server, and what was known of the circuit when it left.

    Attributes:
        runs: The outcomes, the oldest first.
        generation: In which they were admitted.
        version: Of the local view.
        retry_after: The longest time for which the service has asked to be left alone.
        breached: Whether this process finds the service bad.
        lost: What the server has forgotten and is to be told again.
    """

    runs: tuple[Run, ...]
    generation: int
    version: int
    retry_after: float = 0.0
    breached: bool = False
    lost: CircuitView | None = None


class Unsent:
    """Outcomes in the order in which they came: of a count window in one run, of a time window in
    one for each part of the time.
    """

    __slots__ = ("_grain", "_most", "retry_after", "runs")

    def __init__(self, rules: CircuitRules) -> None:
        self._grain = math.inf if rules.seconds is None else rules.seconds / rules.buckets / 4
        self._most = max(MOST_UNSENT, rules.window)
        self.clear()

    def clear(self) -> None:
        """Forget them: they are sent, or count for nothing."""
        self.runs: tuple[Run, ...] = ()
        self.retry_after = 0.0

    def add(self, outcomes: str, now: float, retry_after: float = 0.0) -> None:
        """More of them, the latest."""
        self.retry_after = max(self.retry_after, retry_after)
        if self.runs and now - self.runs[-1].moment < self._grain:
            *earlier, last = self.runs
            self.runs = (*earlier, Run(last.moment, last.outcomes + outcomes))
        else:
            self.runs = (*self.runs, Run(now, outcomes))
        self._bound()

    def put_back(self, batch: Batch) -> None:
        """Those that came earlier have not arrived."""
        later = self.runs
        self.runs = batch.runs
        self.retry_after = max(self.retry_after, batch.retry_after)
        for run in later:
            self.add(run.outcomes, run.moment)
        self._bound()

    def _bound(self) -> None:
        """Keep the latest; more than the window holds cannot matter."""
        too_many = sum(len(run.outcomes) for run in self.runs) - self._most
        while too_many > 0:
            first, *rest = self.runs
            if len(first.outcomes) > too_many:
                rest = [Run(first.moment, first.outcomes[too_many:]), *rest]
            too_many -= len(first.outcomes)
            self.runs = tuple(rest)

    def __bool__(self) -> bool:
        return bool(self.runs)
