"""How long a call has taken, without the time that it has spent in our own queues.

A breaker that judges by slowness starts a stopwatch around the function. Whatever policies inside
of it wait for, a lock or the pause before another attempt, the drivers take out of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from resilient.engine import clock

__all__ = ["Stopwatch", "paused", "running"]


class Stopwatch(Protocol):
    """The time of one call, by `clock.ticks`."""

    @property
    def has_ended(self) -> bool:
        """Whether the call has."""
        ...

    @property
    def outer(self) -> Stopwatch | None:
        """The stopwatch of a call around this one."""
        ...

    def pause(self, now: float) -> None:
        """The call waits in a queue of ours from now on."""
        ...

    def resume(self, now: float) -> None:
        """It does no longer."""
        ...


running: ContextVar[Stopwatch | None] = ContextVar("resilient.stopwatch", default=None)
"""The stopwatch of the innermost call in this thread or task: of one under way, or one that ended
last, which nobody reads any more. To put the outer one back would take longer than all the rest."""


def paused() -> AbstractContextManager[None]:
    """Takes the time of a block out of all calls around it."""
    innermost = running.get()
    return _UNTIMED if innermost is None else _paused(innermost)


@contextmanager
def _paused(innermost: Stopwatch) -> Iterator[None]:
    _each(innermost, lambda watch, now: watch.pause(now))
    try:
        yield
    finally:
        _each(innermost, lambda watch, now: watch.resume(now))


_UNTIMED = nullcontext()


def _each(innermost: Stopwatch, do: Callable[[Stopwatch, float], None]) -> None:
    now = clock.ticks()
    watch: Stopwatch | None = innermost
    while watch is not None:
        do(watch, now)
        watch = watch.outer
