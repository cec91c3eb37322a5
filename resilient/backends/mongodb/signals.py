"""Signals on MongoDB: a change stream, heard by `resilient.engine.listening`.

https://www.mongodb.com/docs/manual/changeStreams/
"""

from __future__ import annotations

from resilient.backends.mongodb.keys import Keys
from resilient.backends.mongodb.settings import Settings
from resilient.backends.mongodb.subscription import MongoSubscription
from resilient.backends.mongodb.waking import unescaped
from resilient.engine.listening import ListeningSource, Subscription

__all__ = ["MongoSignals"]


class MongoSignals(ListeningSource):
    """The channels of one prefix in one database."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        super().__init__(settings.name, patience=2 * settings.connect_timeout)
        self._settings = settings
        self._keys = keys

    def heard(self, channel: str, message: str | None) -> None:
        """Hand on a message."""
        super().heard(channel, None if message is None else unescaped(message))

    def _subscription(self) -> Subscription:
        return MongoSubscription(self._settings)

    def _own_channel(self, process: str) -> str:
        return self._keys.own_channel(process)

    def _broadcast(self, channel: str) -> str:
        return self._keys.broadcast(channel)
