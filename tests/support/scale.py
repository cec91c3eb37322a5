"""How long the process, fault and load tests take: `RESILIENT_SCALE`, 0.1 unless told.

At 1 they run for as long, and as often, as the figures that are published were measured.
"""

from __future__ import annotations

import logging
import os

__all__ = ["SCALE", "measured", "scaled"]

SCALE = float(os.environ.get("RESILIENT_SCALE", "0.1"))


def scaled(full: float, least: int = 1) -> int:
    """So many rounds, items or seconds of `full`, but never fewer than `least`."""
    return max(least, round(full * SCALE))


def measured(what: str, value: float, unit: str) -> None:
    """Report a figure: `pytest -o log_cli=true --log-cli-level=INFO` shows it."""
    logging.getLogger("figures").info("%s: %.4g %s", what, value, unit)
