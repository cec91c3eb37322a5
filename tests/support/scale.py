"""How long the process, fault and load tests take: `RESILIENT_SCALE`, 0.1 unless told.

At 1 they run for as long, and as often, as the figures that are published were measured.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

__all__ = ["SCALE", "best_of", "measured", "scaled"]

SCALE = float(os.environ.get("RESILIENT_SCALE", "0.1"))


def scaled(full: float, least: int = 1) -> int:
    """So many rounds, items or seconds of `full`, but never fewer than `least`."""
    return max(least, round(full * SCALE))


def best_of(measure: Callable[[int], float], limit: float, what: str, unit: str) -> float:
    """The least of what is measured, up to three times, until it is within the limit; reported.

    For times that say something of a machine that has a moment for them: noise only adds.

    Args:
        measure: Called with the number of the attempt.
        limit: When it is enough.
        what: What it is, for the report.
        unit: And in what.
    """
    best = float("inf")
    for attempt in range(3):
        best = min(best, measure(attempt))
        if best <= limit:
            break
    measured(what, best, unit)
    return best


def measured(what: str, value: float, unit: str) -> None:
    """Report a figure: `pytest -o log_cli=true --log-cli-level=INFO` shows it."""
    logging.getLogger("figures").info("%s: %.4g %s", what, value, unit)
