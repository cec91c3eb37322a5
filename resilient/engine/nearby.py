"""What this process keeps beside a backend: values at hand, and computations under way.

All of it lasts only while it can be trusted. A broadcast on the channel `"cache"` names what is
stale: it is dropped, and what is being computed or read at that moment is not kept. A broadcast
that may have been missed empties everything, as soon as the connection is known to be lost and
once more when it is back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from resilient.engine.flights import Flights
from resilient.engine.forks import forget_in_child
from resilient.engine.local_store import LocalStore

if TYPE_CHECKING:
    import asyncio

    from resilient.engine.signals import Hub

__all__ = ["Nearby"]

CHANNEL = "cache"
TAG = "#"
"""What a broadcast about a tag, not a key, starts with."""


class Nearby:
    """What this process keeps beside one backend. Thread-safe.

    It is a transport (`await Ask(nearby, None)`): that makes it listen to the backend's broadcasts,
    which may take a connection and so a moment.

    Attributes:
        flights: The values that are being computed or read.
    """

    def __init__(self, hub: Hub) -> None:
        self.flights = Flights()
        self._hub = hub
        self._stores: WeakKeyDictionary[Any, LocalStore] = WeakKeyDictionary()
        self._registered = False
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        self._heard = 0
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
        return self._registered and self._hub.is_listening

    def changes(self) -> Callable[[], bool]:
        """A question: has anything been heard to be stale since now?"""
        before = self._heard
        return lambda: self._heard != before

    def hear(self, message: str | None) -> None:
        """Keep nothing of a key, or of a `#` and a tag; of anything, if messages were missed."""
        self._heard += 1
        # The flights first: `LocalStore.put` asks whether its flight is stale, so that what is
        # stored before this is dropped here, and what comes later is not stored.
        if message is None:
            self.flights.call_off_all()
        elif message.startswith(TAG):
            self.flights.call_off_tag(message[len(TAG) :])
        else:
            self.flights.call_off(message)
        with self._lock:
            stores = list(self._stores.values())
        for store in stores:
            if message is None:
                store.doubt()
            elif message.startswith(TAG):
                store.drop_tag(message[len(TAG) :])
            else:
                store.drop(message)

    # --- as a transport

    def send(self, command: None) -> None:
        """Listen to the backend's broadcasts from now on."""
        with self._lock:
            new, self._registered = not self._registered, True
        if new:
            self._hub.listen(CHANNEL, self.hear, doubts=True)
        else:
            self._hub.start()

    def asend(self, command: None) -> asyncio.Future[Any]:
        """The same, not in the loop: connecting may block."""
        import asyncio

        from resilient.engine.drivers.aio import Reply

        return Reply.of(asyncio.to_thread(self.send, command))
