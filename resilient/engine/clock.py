"""The local clock, and one that tests can set.

Everything local (deadlines of leases, in-process entries) is measured on a clock that no step of
the wall clock moves and that, where the system has one, runs on while the machine is suspended:
Linux's `CLOCK_BOOTTIME`. Python's `time.monotonic` stands still during suspend there.

Callers read `clock.now()` through the module, so that a test can put another clock in its place.

What is looked at at every call costs less in `ticks`: a third of `now`, of which Python finds the
system's clock by its number. They stand still during suspend, so they are believed for a moment
only, until somebody looks whether the machine was suspended (`look`); if so, whatever was measured
in them is forgotten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from resilient.engine.durations import Duration, seconds
from resilient.engine.weak_methods import WeakMethods

__all__ = [
    "Clock",
    "Event",
    "ManualClock",
    "SystemClock",
    "behind",
    "forget_when_suspended",
    "installed",
    "look",
    "now",
    "ticks",
    "wall",
]

BELIEVED = 0.1
"""Seconds for which ticks are believed after a look, and by which they may fall behind unseen."""


class Event(Protocol):
    """What a thread waits for: a `threading.Event`, or less."""

    def wait(self, timeout: float, /) -> bool:
        """Block until it is set; false if it was not within so many seconds."""
        ...

    def is_set(self) -> bool:
        """Whether it is set."""
        ...


class LoopEvent(Protocol):
    """The same for a task."""

    async def wait(self, seconds: float, /) -> bool:
        """Wait until it is set; false if it was not within so many seconds."""
        ...

    def is_set(self) -> bool:
        """Whether it is set."""
        ...


class Clock(Protocol):
    """What a backend and the drivers ask of a clock; times are seconds."""

    def now(self) -> float:
        """Seconds since some fixed moment; never goes back, and runs during suspend."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Block the calling thread."""
        ...

    def pause(self, event: Event, seconds: float) -> bool:
        """Block until the event is set; false if that did not happen within so many seconds."""
        ...


def _system_now() -> Callable[[], float]:
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic if boottime is None else partial(time.clock_gettime, boottime)


class SystemClock:
    """The machine's own clocks."""

    now = staticmethod(_system_now())
    wall = staticmethod(time.time)
    sleep = staticmethod(time.sleep)

    @staticmethod
    def pause(event: Event, seconds: float) -> bool:
        """Block until the event is set or the time is over."""
        return event.wait(seconds)


class ManualClock:
    """A clock that moves only when told to: a test of `ttl="24h"` takes no time.

    A sleep moves it on and returns at once. A wait for a signal leaves other threads a moment of
    real time to send it (`patience`) before it moves the clock to its end.

    Example:
        >>> clock = ManualClock()
        >>> start = clock.now()
        >>> clock.advance("24h")
        >>> clock.now() - start
        86400.0
    """

    def __init__(self, start: float = 1_000_000.0, *, patience: float = 0.02) -> None:
        self._now = start
        self._epoch = time.time() - start
        self._lock = threading.Lock()
        self._patience = patience
        self._observers: list[Callable[[], None]] = []

    def now(self) -> float:
        """Seconds on this clock."""
        return self._now

    def wall(self) -> float:
        """Seconds since the epoch; moves with `now`."""
        return self._epoch + self._now

    def advance(self, duration: Duration) -> None:
        """Move the clock on, in seconds or as `"24h"`, and wake whoever works by it."""
        step = seconds(duration, option="advance", allow_zero=True)
        with self._lock:
            self._now += step
        for observer in list(self._observers):
            observer()

    def observe(self, callback: Callable[[], None]) -> None:
        """Call back after every move of the clock."""
        self._observers.append(callback)

    def sleep(self, seconds: float, /) -> None:
        """Move on by so many seconds, at once."""
        self.advance(seconds)

    def pause(self, event: Event, seconds: float) -> bool:
        """Give others a moment to set the event, else move on by so many seconds."""
        if event.wait(min(seconds, self._patience)):
            return True
        self.advance(max(seconds, 0.0))
        return event.is_set()

    async def apause(self, event: LoopEvent, seconds: float) -> bool:
        """The same for a task in an event loop."""
        if await event.wait(min(seconds, self._patience)):
            return True
        self.advance(max(seconds, 0.0))
        return event.is_set()


current: Clock = SystemClock()
now: Callable[[], float] = current.now
wall: Callable[[], float] = current.wall


ticks: Callable[[], float] = time.monotonic
believed_until: float = 0.0
"""In ticks: who finds them past it looks (`look`) before it believes what they say."""
_behind = now() - ticks()
_forget = WeakMethods()


def behind() -> float:
    """How many seconds ticks are behind the clock; rather too many than too few."""
    return -(ticks() - now())


def look() -> None:
    """See whether the machine was suspended: what was measured in ticks is forgotten then."""
    global believed_until, _behind
    # In this order: had the thread to wait in between, it would be too few, and seen next time.
    seconds = now() - ticks()
    if seconds > _behind + BELIEVED:
        _behind = seconds
        _forget()
    believed_until = ticks() + BELIEVED


def forget_when_suspended(method: Callable[[], None]) -> None:
    """Have a bound method called after the machine was suspended, while its object lives."""
    _forget.add(method)


@contextmanager
def installed(clock: Clock) -> Iterator[None]:
    """Put a clock in the place of the system's, for the whole process, until exit."""
    global current, now, wall, ticks, believed_until
    before = current, now, wall, ticks, believed_until
    current, now, wall = clock, clock.now, clock.wall
    ticks, believed_until = now, float("inf")
    try:
        yield
    finally:
        current, now, wall, ticks, believed_until = before
