"""PostgreSQL, through psycopg 3 (`resilient-decorators[postgres]`)."""

from __future__ import annotations

from typing import Any

try:
    import psycopg  # noqa: F401 - only to say in time what is missing
except ImportError as error:
    raise ImportError(
        "the PostgreSQL backend needs psycopg 3: pip install 'resilient-decorators[postgres]'"
    ) from error

from resilient.backends.postgres.cache import PostgresCache
from resilient.backends.postgres.checkpoints import PostgresCheckpoints
from resilient.backends.postgres.circuits import PostgresCircuits
from resilient.backends.postgres.idempotency import PostgresIdempotency
from resilient.backends.postgres.keys import Keys
from resilient.backends.postgres.locks import PostgresLocks
from resilient.backends.postgres.schema import ddl
from resilient.backends.postgres.settings import Settings, settings_of_client, settings_of_url
from resilient.backends.postgres.signals import PostgresSignals
from resilient.backends.postgres.transport import PostgresTransport
from resilient.engine.backend import ServerBackend, Traits

__all__ = ["PostgresBackend", "ddl", "from_client", "from_url"]


class PostgresBackend(ServerBackend[PostgresTransport]):
    """All capabilities in one PostgreSQL database (13 or newer), in a schema of their own."""

    traits = Traits(
        shared_by="machines",
        survives="the server; cached values do not",
        waking="LISTEN/NOTIFY (looking every 50 ms behind a transaction pooler)",
    )

    def __init__(self, settings: Settings, *, prefix: str = "") -> None:
        keys = Keys(prefix, settings.server.schema)
        self.prefix = prefix
        self._settings = settings
        self._transport = PostgresTransport(settings)
        super().__init__(
            settings.name,
            locks=PostgresLocks(self._transport, keys),
            circuits=PostgresCircuits(self._transport, keys, self._longest),
            cache=PostgresCache(self._transport, keys, self._longest),
            idempotency=PostgresIdempotency(self._transport, keys),
            checkpoints=PostgresCheckpoints(self._transport, keys, self._longest),
            source=None if settings.listen == "off" else PostgresSignals(settings, keys),
        )

    @property
    def statements(self) -> int:
        """How many statements this process has sent, for those who count them."""
        return self._settings.server.statements


def from_url(url: str, *, prefix: str = "") -> PostgresBackend:
    """A backend for `postgresql://user:password@host:5432/database`.

    The options of the query are libpq's (`sslmode`, `connect_timeout`, ...), and three of ours:
    `schema` (`resilient` by default) is where the tables are made; `timeout` (5 seconds by default)
    bounds an operation; `listen=off` lets waiters look by themselves every 50 ms. So they do where
    nothing can be heard, as through a transaction-pooling PgBouncer, which is found out by the
    first who waits (`listen=on` believes that it can). Nothing is connected yet.

    Raises:
        ConfigurationError: The URL or one of its options is wrong.
    """
    return PostgresBackend(settings_of_url(url), prefix=prefix)


def from_client(client: Any, *, prefix: str = "") -> PostgresBackend:
    """A backend that connects as a psycopg pool or an SQLAlchemy engine does.

    Args:
        client: Either, for blocking or async callers. Its connections are not used, only its
            settings: so it serves both.
        prefix: Put before every key.

    Raises:
        ConfigurationError: It is neither, or its settings are not known before it connects.
    """
    return PostgresBackend(settings_of_client(client), prefix=prefix)
