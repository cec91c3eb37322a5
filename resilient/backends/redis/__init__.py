"""Redis and Valkey: the reference backend."""

from __future__ import annotations

from typing import Any

from resilient.backends.redis.cache import RedisCache
from resilient.backends.redis.checkpoints import RedisCheckpoints
from resilient.backends.redis.circuits import RedisCircuits
from resilient.backends.redis.cluster import ClusterTransport
from resilient.backends.redis.cluster_clients import (
    cluster_of_client,
    cluster_of_url,
    is_cluster_client,
)
from resilient.backends.redis.idempotency import RedisIdempotency
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.locks import RedisLocks
from resilient.backends.redis.settings import Settings, settings_of_client, settings_of_url
from resilient.backends.redis.signals import ClusterSignals, RedisSignals
from resilient.backends.redis.topology import ClusterSettings, Topology
from resilient.backends.redis.transport import RedisTransport
from resilient.backends.redis.urls import parsed
from resilient.engine.backend import ServerBackend, Traits
from resilient.engine.listening import ListeningSource

__all__ = ["RedisBackend", "from_client", "from_url"]


class RedisBackend(ServerBackend[RedisTransport | ClusterTransport]):
    """All capabilities on Redis (6.2 or newer) or Valkey: one server, or a primary of sentinels."""

    traits = Traits(
        shared_by="machines",
        survives="what the server's persistence does",
        waking="pub/sub",
        several_locks="one operation (on a cluster: within a slot)",
        replicas=True,
    )

    def __init__(self, settings: Settings | ClusterSettings, *, prefix: str = "") -> None:
        keys = Keys(prefix, clustered=isinstance(settings, ClusterSettings))
        self.prefix = prefix
        source: ListeningSource
        if isinstance(settings, ClusterSettings):
            topology = Topology(settings)
            self._transport = ClusterTransport(settings, topology)
            source = ClusterSignals(settings, topology, keys)
        else:
            self._transport = RedisTransport(settings)
            source = RedisSignals(settings, keys, self._transport)
        super().__init__(
            settings.name,
            locks=RedisLocks(self._transport, keys),
            circuits=RedisCircuits(self._transport, keys, self._longest),
            cache=RedisCache(self._transport, keys, self._longest),
            idempotency=RedisIdempotency(self._transport, keys),
            checkpoints=RedisCheckpoints(self._transport, keys, self._longest),
            source=source,
        )

    def relax(self) -> None:
        """Nothing was done in the background for some seconds: keep one connection for callers."""
        self._transport.relax()


def from_url(url: str, *, prefix: str = "") -> RedisBackend:
    """A backend for `redis://`, `rediss://`, `valkey://`, `valkeys://` or `unix://`.

    With `redis+sentinel://host1:26379,host2:26379/service/0` (and `rediss+sentinel://`, ...) it is
    the primary of that service, for which the sentinels are asked with each new connection; the
    options `sentinel_username`, `sentinel_password` and `min_other_sentinels` are for them.

    The other options of the query are redis-py's: `socket_timeout` (5 seconds by default) bounds an
    operation, `socket_connect_timeout` (2 seconds) connecting. Nothing is connected yet.

    Raises:
        ConfigurationError: The URL or one of its options is wrong.
    """
    found = parsed(url)
    if found.kind == "cluster":
        return RedisBackend(cluster_of_url(found), prefix=prefix)
    return RedisBackend(settings_of_url(found), prefix=prefix)


def from_client(client: Any, *, prefix: str = "") -> RedisBackend:
    """A backend that connects as a ready `redis.Redis` or `redis.asyncio.Redis` does.

    Args:
        client: One of the two, or a pair of both; also what `Sentinel.master_for` makes. Its
            connections are not used, only its settings: so either serves sync and async callers.
        prefix: Put before every key.

    Raises:
        ConfigurationError: It is neither, or its settings cannot serve both.
    """
    if is_cluster_client(client):
        return RedisBackend(cluster_of_client(client), prefix=prefix)
    return RedisBackend(settings_of_client(client), prefix=prefix)
