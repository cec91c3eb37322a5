"""MongoDB, through pymongo and its async client (`resilient-decorators[mongodb]`)."""

from __future__ import annotations

from typing import Any

try:
    from pymongo import AsyncMongoClient  # noqa: F401 - only to say in time what is missing
except ImportError as error:
    raise ImportError(
        "the MongoDB backend needs pymongo 4.13 or newer: "
        "pip install 'resilient-decorators[mongodb]'"
    ) from error

from resilient.backends.mongodb.cache import MongoCache
from resilient.backends.mongodb.checkpoints import MongoCheckpoints
from resilient.backends.mongodb.circuits import MongoCircuits
from resilient.backends.mongodb.idempotency import MongoIdempotency
from resilient.backends.mongodb.keys import Keys
from resilient.backends.mongodb.locks import MongoLocks
from resilient.backends.mongodb.settings import Settings, settings_of_client, settings_of_url
from resilient.backends.mongodb.signals import MongoSignals
from resilient.backends.mongodb.transport import MongoTransport
from resilient.engine.backend import ServerBackend, Traits

__all__ = ["MongoBackend", "from_client", "from_url"]


class MongoBackend(ServerBackend[MongoTransport]):
    """Capabilities in one MongoDB database (5.0 or newer), in collections of their own."""

    traits = Traits(
        shared_by="machines",
        survives="a majority of the servers",
        waking="change streams (looking every 50 ms on a standalone server)",
        several_locks="a transaction (on a standalone server: in turn)",
    )

    def __init__(self, settings: Settings, *, prefix: str = "") -> None:
        keys = Keys(prefix, settings.database)
        self.prefix = prefix
        self._transport = MongoTransport(settings)
        super().__init__(
            settings.name,
            locks=MongoLocks(self._transport, keys),
            circuits=MongoCircuits(self._transport, keys, self._longest),
            cache=MongoCache(self._transport, keys, self._longest),
            idempotency=MongoIdempotency(self._transport, keys),
            checkpoints=MongoCheckpoints(self._transport, keys, self._longest),
            source=None if settings.listen == "off" else MongoSignals(settings, keys),
        )

    @property
    def commands(self) -> int:
        """How many commands this process has sent, for those who count them."""
        return self._transport.commands


def from_url(url: str, *, prefix: str = "") -> MongoBackend:
    """A backend for `mongodb://user:password@host:27017/database`, or `mongodb+srv://`.

    The options of the query are pymongo's (`replicaSet`, `tls`, ...), and two of ours: `timeout` (5
    seconds by default) bounds an operation; `listen=off` lets waiters look by themselves every
    50 ms. A server is looked for 2 seconds unless `serverSelectionTimeoutMS` says otherwise. The
    database is `resilient` by default. Nothing is connected yet.

    Raises:
        ConfigurationError: The URL or one of its options is wrong.
    """
    return MongoBackend(settings_of_url(url), prefix=prefix)


def from_client(client: Any, *, prefix: str = "") -> MongoBackend:
    """A backend that connects as a `MongoClient` or an `AsyncMongoClient` does.

    Args:
        client: Either, for blocking or async callers. Its connections are not used, only its
            settings: so it serves both. Its default database is used, or one named `resilient`.
        prefix: Put before every key.

    Raises:
        ConfigurationError: It is neither.
    """
    return MongoBackend(settings_of_client(client), prefix=prefix)
