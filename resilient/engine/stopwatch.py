"""How long a call has taken, without the time that it has spent in our own queues.

A breaker that judges by slowness starts a stopwatch around the function. Whatever policies inside
of it wait for, a lock or the pause before another attempt, the drivers take out of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from resilient.engine import clock

__all__ = ["Stopwatch", "paused", "running"]


class Stopwatch:
    """The time of one call.

    Attributes:
        began: When it began, on the local clock.
        outer: The stopwatch of a call around this one.
    """

    __slots__ = ("_queued", "_since", "began", "outer")

    def __init__(self, began: float, outer: Stopwatch | None) -> None:
        self.began = began
        self.outer = outer
        self._queued = 0.0
        self._since: float | None = None

    def seconds(self, now: float) -> float:
        """What it shows; from any thread."""
        waiting = 0.0 if (since := self._since) is None else now - since
        return now - self.began - self._queued - waiting

    def pause(self, now: float) -> None:
        """The call waits in a queue of ours from now on."""
        self._since = now

    def resume(self, now: float) -> None:
        """It does no longer."""
        if self._since is not None:
            self._queued += now - self._since
            self._since = None


running: ContextVar[Stopwatch | None] = ContextVar("resilient.stopwatch", default=None)
"""The stopwatch of the innermost call in this thread or task."""


@contextmanager
def paused() -> Iterator[None]:
    """Take the time of this block out of all calls around it."""
    innermost = running.get()
    if innermost is None:
        yield
        return
    _each(innermost, Stopwatch.pause)
    try:
        yield
    finally:
        _each(innermost, Stopwatch.resume)


def _each(innermost: Stopwatch, do: Callable[[Stopwatch, float], None]) -> None:
    now = clock.now()
    watch: Stopwatch | None = innermost
    while watch is not None:
        do(watch, now)
        watch = watch.outer
