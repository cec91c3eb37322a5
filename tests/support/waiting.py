"""Waits for what another thread, process or server brings about, however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["soon", "until"]

PATIENCE = 30.0
"""Seconds: what has not happened by then does not happen. No test waits for so long that passes."""


def soon(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether something becomes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until something is true."""
    assert soon(condition, seconds), "it has not come about"
