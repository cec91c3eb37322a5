"""Signals on PostgreSQL: LISTEN and NOTIFY, heard by `resilient.engine.listening`.

https://www.postgresql.org/docs/current/sql-notify.html
"""

from __future__ import annotations

from resilient.backends.postgres.keys import Keys
from resilient.backends.postgres.settings import Settings
from resilient.backends.postgres.subscription import PostgresSubscription
from resilient.backends.postgres.texts import unescaped
from resilient.engine.listening import ListeningSource, Subscription

__all__ = ["PostgresSignals"]


class PostgresSignals(ListeningSource):
    """The channels of one prefix in one database."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        super().__init__(settings.name, patience=2 * settings.connect_timeout)
        self._settings = settings
        self._keys = keys

    def heard(self, channel: str, message: str | None) -> None:
        """Hand on a message; an empty one stands for one that was too long to be sent."""
        if message:
            super().heard(channel, unescaped(message))
        else:
            self.missed()

    def _subscription(self) -> Subscription:
        return PostgresSubscription(self._settings, self.is_relied_on)

    def _own_channel(self, process: str) -> str:
        return self._keys.own_channel(process)

    def _broadcast(self, channel: str) -> str:
        return self._keys.broadcast(channel)
