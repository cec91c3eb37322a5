"""The flights of one backend: who flies, who has boarded, and what is called off."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient.engine.crew import Crew
from resilient.engine.flights.flight import (
    Flight,
    Outcome,
    Raised,
    Returned,
    Rider,
    ThreadRider,
    flown,
)
from resilient.engine.flights.recent import RecentTags
from resilient.engine.forks import forget_in_child

if TYPE_CHECKING:
    import asyncio

__all__ = ["Flights"]

CREW = 32
"""Threads at most of each crew; further flights queue."""


class Flights:
    """The flights of one backend in this process. Thread-safe.

    Attributes:
        crew: The threads that fly for blocking callers who wait so long only.
        background: The threads that fly for nobody. They are others: a refresh may be as slow as
            it likes.
    """

    def __init__(self) -> None:
        self.crew = Crew("resilient-flights", CREW)
        self.background = Crew("resilient-refreshes", CREW)
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        # Reentrant: the garbage collector may close a generator, or end a task, in here.
        self._lock = threading.RLock()
        self._flying: dict[str, Flight] = {}
        self._recent = RecentTags()
        self._tasks: set[asyncio.Task[None]] = set()  # a loop refers to its tasks weakly
        self.crew.forget()
        self.background.forget()

    def __len__(self) -> int:
        return len(self._flying)

    def call_off(self, key: str) -> None:
        """Whatever computes this key is stale: its result is not kept, and nobody joins it."""
        with self._lock:
            flight = self._flying.pop(key, None)
            if flight is not None:
                flight.stale = True

    def call_off_tag(self, tag: str) -> None:
        """The same for every flight with this tag."""
        with self._lock:
            self._recent.add(tag)
            for flight in list(self._flying.values()):
                if tag in flight.tags:
                    self.call_off(flight.key)

    def call_off_all(self) -> None:
        """The same for every flight."""
        with self._lock:
            for key in list(self._flying):
                self.call_off(key)

    def heeds(self, key: str) -> bool:
        """Whether a flight of this key heeds what the backend is heard to have."""
        flight = self._flying.get(key)
        return flight is not None and flight.heeds

    def heeds_tag(self, tag: str) -> bool:
        """The same of a flight with this tag."""
        with self._lock:
            return any(each.heeds and tag in each.tags for each in self._flying.values())

    def there(self, key: str, born: int) -> None:
        """What the backend has now, after somebody changed it: any other result is not kept."""
        with self._lock:
            flight = self._flying.get(key)
            if flight is not None:
                flight.there = born

    def tag(self, flight: Flight, tags: Iterable[str]) -> None:
        """A flight has further tags; it is called off if one was invalidated since it began."""
        with self._lock:
            flight.tags = flight.tags.union(tags)
            if self._recent.any_since(flight.began, tags):
                flight.stale = flight.is_outdated = True
                self._remove(flight)

    # --- used by `share` and `ashare`

    def board(
        self, key: str, tags: Iterable[str], rider: Rider, here: object
    ) -> tuple[Flight | None, bool]:
        """The flight of a key, and whether the rider has to fly it.

        No flight at all: it would wait for itself, because this code runs inside of it, or blocks
        the very loop `here` on which it flies.
        """
        outer = [flight for flight in flown.get() if not flight.landed]
        if any(flight.key == key and flight._table is self for flight in outer):
            return None, False
        with self._lock:
            flight = self._flying.get(key)
            leads = flight is None
            if flight is None:
                flight = self._begun(key, tags, is_nested=bool(outer), rider=rider)
            elif here is not None and flight.loop is here and isinstance(rider, ThreadRider):
                return None, False
            flight._riders[rider] = self._recent.moment
            if flight.serves:
                rider.wake()
        return flight, leads

    def serve(self, flight: Flight, value: Returned[Any], until: float) -> None:
        """Whoever waits, or comes before it lands and the value is too old, gets this value."""
        with self._lock:
            flight.served, flight.served_until = value, until
            flight.pin()
            riders = list(flight._riders)
        for rider in riders:
            rider.wake()

    def launch(self, key: str, tags: Iterable[str]) -> Flight | None:
        """A flight that nobody waits for, to be flown now; `None` if the key has one already."""
        if any(each.key == key and each._table is self for each in flown.get() if not each.landed):
            return None
        with self._lock:
            if key in self._flying:
                return None
            flight = self._begun(key, tags, is_nested=False)
            flight.pin()
        return flight

    def _begun(
        self, key: str, tags: Iterable[str], *, is_nested: bool, rider: Rider | None = None
    ) -> Flight:
        flight = Flight(self, key, tags, self._recent.moment, is_nested=is_nested)
        if isinstance(rider, ThreadRider):
            rider.flight = flight  # before others can find it: it may be interrupted then
        self._flying[key] = flight
        return flight

    def begin(self, flight: Flight, *, in_background: bool = False) -> None:
        """Fly it in this thread, to its end, unless somebody has begun already."""
        with self._lock:
            job, flight._job = flight._job, None
            if job is not None:
                flight.in_background, flight._is_queued = in_background, False
        if job is not None:
            job()

    def put_off(self, flight: Flight) -> None:
        """Have it flown in the background, when there is a thread."""
        self.background.submit(partial(self.begin, flight, in_background=True))

    def queue(self, flight: Flight, *, nested: bool) -> bool:
        """Have the crew fly it, whose threads nobody keeps busy for whom nobody waits.

        A nested one does not queue: those before it may be waiting for the likes of it. False:
        there is no thread for it.
        """
        with self._lock:
            if flight._job is None or (flight._is_queued and not nested):
                return True
            begin = partial(self.begin, flight)
            if nested:
                return self.crew.offer(begin)
            flight._is_queued = True
            self.crew.submit(begin)
        return True

    def land(self, flight: Flight, outcome: Outcome) -> None:
        """The flight is over: nobody can join it any more, and its riders are told.

        It may be said again: whoever said it first may have been interrupted before all was done.
        """
        with self._lock:
            if not flight.landed:
                self._remove(flight)
                if flight._riders:
                    flight._outcome = outcome
                flight.landed = True
            riders = list(flight._riders)
        for rider in riders:
            rider.wake()

    def taken(self, flight: Flight, rider: Rider) -> Returned[Any] | None:
        """What came of it, for one rider; `None` if nothing did. Raises what it raised."""
        with self._lock:
            outcome = flight._outcome if flight.landed else flight.served
            came = flight._riders.pop(rider)
            if not flight._riders:
                flight._outcome = None
            if flight.is_outdated and came > flight.began:
                return None  # it may have come after the invalidation
        if not isinstance(outcome, Raised):
            return outcome
        error, traceback = outcome.error, outcome.traceback
        try:
            # All riders raise the one exception: each from where it was raised first, or else its
            # traceback would grow by the frames of every rider.
            raise error.with_traceback(traceback)
        finally:
            del error, traceback, outcome  # or this frame and the traceback hold one another

    def left(self, flight: Flight, rider: Rider) -> asyncio.Task[None] | None:
        """A rider waits no longer; the task to cancel, if it was the last one to want it."""
        with self._lock:
            del flight._riders[rider]
            if flight._riders or flight.landed or flight._pinned or flight._task is None:
                return None  # a thread cannot be stopped: whoever comes next rides along
            self._remove(flight)  # nobody shall join what is about to be cancelled
            return flight._task

    def keep(self, flight: Flight, task: asyncio.Task[None]) -> None:
        """A task flies it from now on."""
        flight._task = task
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self.land(flight, None)  # unless it has; it may be cancelled before it began

        task.add_done_callback(over)

    def _remove(self, flight: Flight) -> None:
        if self._flying.get(flight.key) is flight:
            del self._flying[flight.key]

    def is_lost(self, flight: Flight) -> bool:
        """Whether it will never land by itself: its loop was closed under it."""
        return not flight.landed and flight.loop is not None and flight.loop.is_closed()
