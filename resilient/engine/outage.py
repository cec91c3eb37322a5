"""A backend that is away: known to be so, so that nobody who can do without it waits for it.

Whoever had an error from it says so, once. From then on it is asked in the background only, ever
more rarely, until it answers. So one that is gone, or stands still, costs its callers one budget
and then nothing, and is used again soon after its return.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilient.engine import clock
from resilient.engine.budget import within
from resilient.engine.forks import forget_in_child
from resilient.engine.plan import NOW, RANDOM, Plan
from resilient.errors import BackendError

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["Outage"]

Probe = Callable[[], Plan[object]]

PATIENCE = 0.25
"""Seconds for which the answer to a probe is awaited."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds between two probes: with the longest one it is back within 2.25 s of its recovery."""


class Outage:
    """Whether one backend is away. Thread-safe; a chore of the backend's worker.

    Attributes:
        is_on: Whether it is. Whoever can do without the backend does not ask it then.
    """

    def __init__(self, backend: Backend) -> None:
        self._worker = backend.worker
        self._forget()
        self._worker.add(self)
        forget_in_child(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self.is_on = False
        self._probe: Probe | None = None
        self._pause = FIRST_PAUSE
        self._next = 0.0

    def begin(self, probe: Probe) -> None:
        """It did not answer: ask it no more, but for the probe, which makes a plan of one trip."""
        with self._lock:
            if self.is_on:
                return
            self.is_on = True
            self._probe = probe
            self._pause = FIRST_PAUSE
            self._next = clock.now() + FIRST_PAUSE
        if self._next < self._worker.wakes_at:
            self._worker.nudge()

    # --- as a chore

    def due(self) -> float | None:
        """When to probe next."""
        return self._next if self.is_on else None

    async def run(self) -> None:
        """Ask whether it is back."""
        probe = self._probe
        if probe is None:
            return
        try:
            await within(PATIENCE, probe())
        except BackendError:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            # Not all processes at once.
            self._next = await NOW + self._pause * (0.5 + await RANDOM / 2)
        else:
            self._end()

    async def finish(self) -> None:
        """Nobody would probe any more: whoever asks next finds out."""
        self._end()

    def _end(self) -> None:
        with self._lock:
            self.is_on = False
            self._probe = None
