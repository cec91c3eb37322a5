"""What this process keeps beside a backend: values at hand, and computations under way.

All of it lasts only while it can be trusted. A broadcast on the channel `"cache"` names what is
stale: it is dropped, and what is being computed or read at that moment is not kept. A broadcast
that may have been missed empties everything, as soon as the connection is known to be lost and
once more when it is back.

A backend may tell of changes that nobody broadcasts, too: of records that expired, were evicted, or
were written by other means. It tells the birth of what is there instead, so that our own writes
are no news: only another value than that one is dropped, and one that is being read at that
moment is kept only if it is that one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from resilient.engine.flights import Flights
from resilient.engine.forks import forget_in_child
from resilient.engine.local_store import LocalStore

if TYPE_CHECKING:
    import asyncio

    from resilient.engine.signals import Hub

__all__ = ["Nearby", "Reading"]

CHANNEL = "cache"
TAG = "#"
"""What a broadcast about a tag, not a key, starts with."""
STALE = -1
"""What is no birth."""

Coherence: TypeAlias = Literal["tracking", "broadcast", "ttl"]


class Reading:
    """Keys that are asked of the backend at this moment, and what is heard of them meanwhile."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = frozenset(keys)
        self._there: dict[str, int] = {}
        self._stale = False

    def hear(self, message: str | None) -> None:
        """A key, or what may have been any of them, is stale."""
        if message is None or message.startswith(TAG):
            self._stale = True
        else:
            self.there(message, STALE)

    def there(self, key: str, born: int) -> None:
        """What the backend has now, after somebody changed it."""
        if key in self.keys:
            self._there[key] = born

    def is_stale(self, key: str, born: int) -> bool:
        """Whether the value of this birth must not be kept."""
        return self._stale or self._there.get(key, born) != born


class Nearby:
    """What this process keeps beside one backend. Thread-safe.

    It is a transport (`await Ask(nearby, None)`): that makes it listen to the backend's broadcasts,
    which may take a connection and so a moment.

    Attributes:
        flights: The values that are being computed or read.
        keeps: Whether any values are, or will be, at hand: then changes are followed, too.
    """

    def __init__(self, hub: Hub) -> None:
        self.flights = Flights()
        self._hub = hub
        self._stores: WeakKeyDictionary[Any, LocalStore] = WeakKeyDictionary()
        self._readings: WeakSet[Reading] = WeakSet()
        self._registered = self._follows = False
        self.keeps = False
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()

    def store(self, owner: object, make: Callable[[], LocalStore]) -> LocalStore:
        """The values at hand of one owner; they end with it."""
        with self._lock:
            found = self._stores.get(owner)
            if found is None:
                found = self._stores[owner] = make()
            return found

    @property
    def is_watching(self) -> bool:
        """Whether it hears of everything that others make stale from now on."""
        return self._registered and (self._follows or not self.keeps) and self._hub.is_listening

    @property
    def coherence(self) -> Coherence:
        """What it hears of."""
        if not self._hub.has_source or not self.is_watching:
            return "ttl"
        return "tracking" if self._hub.tracks else "broadcast"

    def reading(self, keys: Iterable[str]) -> Reading:
        """Keys that are about to be asked for; it ends with the last reference to it."""
        reading = Reading(keys)
        with self._lock:
            self._readings.add(reading)
        return reading

    def hear(self, message: str | None) -> None:
        """Keep nothing of a key, or of a `#` and a tag; of anything, if messages were missed."""
        # The flights first: `LocalStore.put` asks whether its flight is stale, so that what is
        # stored before this is dropped here, and what comes later is not stored.
        if message is None:
            self.flights.call_off_all()
        elif message.startswith(TAG):
            self.flights.call_off_tag(message[len(TAG) :])
        else:
            self.flights.call_off(message)
        stores, readings = self._at_hand()
        for reading in readings:
            reading.hear(message)
        for store in stores:
            if message is None:
                store.doubt()
            elif message.startswith(TAG):
                store.drop_tag(message[len(TAG) :])
            else:
                store.drop(message)

    # --- as a follower (`resilient.protocols.signals.Follower`)

    def concerns(self, subject: str) -> bool:
        """Whether anything of a key, or of `#` and a tag, is at hand or being read."""
        stores, readings = self._at_hand()
        if subject.startswith(TAG):
            tag = subject[len(TAG) :]
            return any(store.has_tag(tag) for store in stores) or self.flights.heeds_tag(tag)
        return (
            self.flights.heeds(subject)
            or any(subject in store.entries for store in stores)
            or any(subject in reading.keys for reading in readings)
        )

    def changed(self, message: str | None) -> None:
        """Keep nothing of a key, or with a tag, but what the backend has there now."""
        if message is None:
            return  # `hear` is told, too
        birth, _, subject = message.partition(" ")
        born = int(birth)
        if subject.startswith(TAG):
            if not born:  # it is lost, and may have been invalidated before
                self.hear(subject)
            for store in self._at_hand()[0]:
                store.drop_tag(subject[len(TAG) :], before=born)
            return
        self.flights.there(subject, born)  # first, as in `hear`
        stores, readings = self._at_hand()
        for reading in readings:
            reading.there(subject, born)
        for store in stores:
            store.drop(subject, but=born)

    def _at_hand(self) -> tuple[list[LocalStore], list[Reading]]:
        with self._lock:
            return list(self._stores.values()), list(self._readings)

    # --- as a transport

    def send(self, command: None) -> None:
        """Listen to the backend's broadcasts from now on."""
        with self._lock:  # nobody may think that it watches before it is enlisted
            if self.keeps and not self._follows:
                self._hub.follow(self)
                self._follows = True
            if not self._registered:
                self._hub.enlist(CHANNEL, self.hear, doubts=True)
                self._registered = True
        self._hub.start()

    def asend(self, command: None) -> asyncio.Future[Any]:
        """The same, not in the loop: connecting may block."""
        from resilient.engine.drivers.aio import Reply

        return Reply.behind(self._hub.astart(partial(self.send, command)))
