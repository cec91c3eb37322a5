"""One flight: its riders, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from resilient.engine import clock
from resilient.engine.loops import running_loop

if TYPE_CHECKING:
    import asyncio

    from resilient.engine.flights.table import Flights

__all__ = [
    "Flight",
    "Outcome",
    "Raised",
    "Returned",
    "Rider",
    "TaskRider",
    "ThreadRider",
    "flown",
    "is_nested",
]

T = TypeVar("T")

flown: ContextVar[tuple[Flight, ...]] = ContextVar("resilient.flights", default=())
"""The flights within which this code runs, innermost last."""


class Flight:
    """One computation, and who waits for it.

    Attributes:
        key: What is computed.
        tags: What it can be told to be stale by, besides its key.
        stale: Whether it was, since it began: its result is true for its riders, who came before,
            but not to be kept.
        heeds: Whether it matters what the backend is heard to have: a value was asked for, or is
            being stored, which may be kept.
        there: The birth of what it has since somebody changed that; `None`: nothing was heard.
        began: The moment of its beginning, in invalidations of tags.
        is_outdated: Whether it learnt late of a tag that was invalidated since: so some of its
            riders may have come after that, and its result is not for them.
        is_nested: Whether another flight waits for it.
        loop: The event loop in which a task flies it.
        fallback: What its riders may have instead of waiting long, once the flight knows of it.
        served: What they get at once, while the flight goes on for those who come later.
        in_background: Whether a thread flies it in which nobody waits for anything.
        served_until: Until when, on the local clock; whoever comes then waits for the outcome.
    """

    __slots__ = (
        "_is_queued",
        "_job",
        "_outcome",
        "_pinned",
        "_riders",
        "_table",
        "_task",
        "began",
        "fallback",
        "heeds",
        "in_background",
        "is_nested",
        "is_outdated",
        "key",
        "landed",
        "loop",
        "served",
        "served_until",
        "stale",
        "tags",
        "there",
    )

    def __init__(
        self, table: Flights, key: str, tags: Iterable[str], began: int, *, is_nested: bool
    ) -> None:
        self.key = key
        self.tags = frozenset(tags)
        self.is_nested = is_nested
        self.stale = False
        self.heeds = False
        self.there: int | None = None
        self.began = began
        self.is_outdated = False
        self.landed = False
        self.in_background = False
        self.fallback: Returned[Any] | None = None
        self.served: Returned[Any] | None = None
        self.served_until = 0.0
        self._table = table
        self._pinned = False
        self._riders: dict[Rider, int] = {}  # and the moment when each came
        self._job: Callable[[], None] | None = None  # what flies it, until somebody begins
        self._is_queued = False  # among those that somebody waits for
        self._outcome: Outcome = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def pin(self) -> None:
        """Let it end by itself, whoever still wants it."""
        self._pinned = True

    def serve(self, value: Any, until: float) -> None:
        """Give its riders a value now; what it goes on to bring is for those who come later.

        Args:
            value: What they get.
            until: When, on the local clock, it is too old for those who come then.
        """
        self._table.serve(self, Returned(value), until)

    @property
    def serves(self) -> bool:
        """Whether there is a value for those who come now."""
        return self.served is not None and clock.now() < self.served_until

    def tag(self, tags: Iterable[str]) -> None:
        """Its result turns out to have these tags, too: they may have been invalidated already."""
        if not self.tags.issuperset(tags):
            self._table.tag(self, tags)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a thread, and whoever comes now waits for it."""
        return self._job is not None and not self.serves

    def heed(self) -> None:
        """Heed what the backend is heard to have from now on: nothing is known of that yet."""
        self.heeds, self.there = True, None

    def is_stale(self, born: int = 0) -> bool:
        """Whether its result, of this birth, must not be kept."""
        return self.stale or (self.there is not None and self.there != born)


class Rider(Protocol):
    """Whoever waits for a flight."""

    def wake(self) -> None:
        """Tell it, from any thread, that there is something for it; once or more often."""
        ...


class Returned(Generic[T]):
    """The result of a flight."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class Raised:
    """The exception in which a flight ended, and where it was raised."""

    __slots__ = ("error", "traceback")

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.traceback: TracebackType | None = error.__traceback__


Outcome: TypeAlias = Returned[Any] | Raised | None
"""`None`: it came to nothing."""


class ThreadRider:
    """A thread that waits.

    Attributes:
        flight: The flight that it has to fly, or to have flown by others.
    """

    __slots__ = ("_landed", "flight")

    def __init__(self) -> None:
        self.flight: Flight | None = None
        # An event that is set once: every flight has a rider, though most land without one waiting.
        self._landed = threading.Lock()
        self._landed.acquire()

    def wake(self) -> None:
        """The flight has landed, or serves a value; it may well be told of both."""
        with suppress(RuntimeError):  # it has been woken already
            self._landed.release()

    def wait(self, seconds: float) -> bool:
        """Block until it has; false if it has not within so many seconds."""
        return self._landed.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class TaskRider:
    """A task that waits."""

    __slots__ = ("_landed", "loop")

    def __init__(self) -> None:
        import asyncio

        self.loop = asyncio.get_running_loop()
        self._landed: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> None:
        """The flight has landed, or serves a value; it may well be told of both."""
        if running_loop() is self.loop:
            self._set()
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if not self._landed.done():
            self._landed.set_result(None)

    async def wait(self, seconds: float | None) -> bool:
        """Wait until it has; false if it has not within so many seconds."""
        if seconds is None:
            await self._landed
            return True
        import asyncio

        done, _ = await asyncio.wait({self._landed}, timeout=seconds)
        return bool(done)


def is_nested() -> bool:
    """Whether others wait for what the caller computes."""
    return any(not flight.landed for flight in flown.get())
