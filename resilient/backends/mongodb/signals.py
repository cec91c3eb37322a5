"""Signals on MongoDB: a change stream, heard by `resilient.engine.listening`.

https://www.mongodb.com/docs/manual/changeStreams/
"""

from __future__ import annotations

import time

from resilient.backends.mongodb.keys import Keys
from resilient.backends.mongodb.settings import Settings
from resilient.backends.mongodb.subscription import PERHAPS, MongoSubscription
from resilient.backends.mongodb.waking import unescaped
from resilient.engine.listening import ListeningSource, Subscription

__all__ = ["MongoSignals"]

UNHEARD = 0.25
"""Seconds for which what others say may stay unheard, where the server has no change streams: then
nothing that a process keeps at hand is trusted any longer."""


class MongoSignals(ListeningSource):
    """The channels of one prefix in one database."""

    is_readable = False

    def __init__(self, settings: Settings, keys: Keys) -> None:
        super().__init__(settings.name, patience=settings.connect_timeout + settings.timeout)
        self._settings = settings
        self._keys = keys
        self._doubtful_at = 0.0

    def heard(self, channel: str, message: str | None) -> None:
        """Hand on a message."""
        if channel != PERHAPS:
            super().heard(channel, None if message is None else unescaped(message))
        elif self._hub is not None and self._hub.has_waiters:
            self._hub.wake_all()
        if channel == PERHAPS and time.monotonic() >= self._doubtful_at:
            self._doubtful_at = time.monotonic() + UNHEARD
            self.missed()

    def _subscription(self) -> Subscription:
        return MongoSubscription(self._settings)

    def _own_channel(self, process: str) -> str:
        return self._keys.own_channel(process)

    def _broadcast(self, channel: str) -> str:
        return self._keys.broadcast(channel)
