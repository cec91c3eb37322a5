"""A backend that is away: known to be so, so that nobody who can do without it waits for it.

Whoever had an error from it says so, once. From then on it is asked in the background only, ever
more rarely, until it answers. So one that is gone, or stands still, costs its callers one budget
and then nothing, and is used again soon after its return: a circuit breaker around the backend,
which all policies that can do without it share.
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
LONGEST_PAUSE = 0.75
"""Seconds between two probes: with the longest one it is back within a second of its recovery."""


class Outage:
    """Whether one backend is away. Thread-safe; a chore of the backend's worker.

    Attributes:
        is_on: Whether it is. Whoever can do without the backend does not ask it then.
    """

    def __init__(self, backend: Backend) -> None:
        self._worker = backend.worker
        self._when_over: list[Callable[[], None]] = []
        self._forget()
        self._worker.add(self)
        forget_in_child(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self.is_on = False
        self._probe: Probe | None = None
        self._pause = FIRST_PAUSE
        self._next = 0.0

    def when_over(self, callback: Callable[[], None]) -> None:
        """Call back after each outage."""
        self._when_over.append(callback)

    def begin(self, probe: Probe) -> bool:
        """It did not answer: ask it no more, but for the probe, which makes a plan of one trip.

        False if that was known already.
        """
        with self._lock:
            if self.is_on:
                return False
            self.is_on = True
            self._probe = probe
            self._pause = FIRST_PAUSE
            self._next = clock.now() + FIRST_PAUSE
        self._have_it_run()
        return True

    def hurry(self) -> None:
        """There is a sign of it: probe it now."""
        if self.is_on:
            self._next = clock.now()
            self._have_it_run()

    def _have_it_run(self) -> None:
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
        except Exception as error:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            # Not all processes at once.
            self._next = await NOW + self._pause * (0.5 + await RANDOM / 2)
            if not isinstance(error, BackendError):
                raise
        else:
            self._end()

    async def finish(self) -> None:
        """Nobody would probe any more: whoever asks next finds out."""
        self._end()

    def _end(self) -> None:
        with self._lock:
            was_on, self.is_on = self.is_on, False
            self._probe = None
        if was_on:
            for callback in self._when_over:
                callback()
