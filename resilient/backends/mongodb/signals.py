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
from resilient.engine.signals import RECHECK
from resilient.protocols.signals import Hub

__all__ = ["MongoSignals"]

UNHEARD = 0.25
"""Seconds for which what others say may stay unheard, where the server has no change streams: then
nothing that a process keeps at hand is trusted any longer."""
LOOKED_AT = {"circuits": RECHECK}
"""The same for channels that are not doubted as often: each circuit in use is asked for then."""


class MongoSignals(ListeningSource):
    """The channels of one prefix in one database."""

    is_readable = False

    def __init__(self, settings: Settings, keys: Keys) -> None:
        super().__init__(settings.name, patience=settings.connect_timeout + settings.timeout)
        self._settings = settings
        self._keys = keys
        self._doubtful_at: dict[str, float] = {}

    def heard(self, channel: str, message: str | None) -> None:
        """Hand on a message."""
        if channel != PERHAPS:
            super().heard(channel, None if message is None else unescaped(message))
        elif self._hub is not None:
            if self._hub.has_waiters:
                self._hub.wake_all()
            self._doubt(self._hub, time.monotonic())

    def _doubt(self, hub: Hub, now: float) -> None:
        for channel in hub.channels:
            if now >= self._doubtful_at.get(channel, now):
                self._doubtful_at[channel] = now + LOOKED_AT.get(channel, UNHEARD)
                self._tell(channel, hub.deliver, channel, None)

    def _subscription(self) -> Subscription:
        return MongoSubscription(self._settings)

    def _own_channel(self, process: str) -> str:
        return self._keys.own_channel(process)

    def _broadcast(self, channel: str) -> str:
        return self._keys.broadcast(channel)
