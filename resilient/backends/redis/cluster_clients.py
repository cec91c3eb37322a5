"""How to find a cluster: from a URL, or as a ready cluster client does."""

from __future__ import annotations

from typing import Any

from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

from resilient.backends.redis.settings import settings_of_nodes, settings_of_url
from resilient.backends.redis.topology import ClusterSettings
from resilient.backends.redis.urls import Url, checked
from resilient.errors import ConfigurationError

__all__ = ["cluster_of_client", "cluster_of_url", "is_cluster_client"]

KINDS = (RedisCluster, AsyncRedisCluster)


def cluster_of_url(url: Url) -> ClusterSettings:
    """The cluster that a URL names by some of its servers."""
    return ClusterSettings(settings_of_url(url), url.places)


def is_cluster_client(client: Any) -> bool:
    """Whether it is a cluster client, or a pair with one."""
    given = client if isinstance(client, tuple) else (client,)
    return any(isinstance(each, KINDS) for each in given)


def cluster_of_client(client: Any) -> ClusterSettings:
    """The cluster of a `RedisCluster`, one of `redis.asyncio`, or a pair of both."""
    given = client if isinstance(client, tuple) else (client,)
    of_blocking = next((each for each in given if isinstance(each, RedisCluster)), None)
    of_async = next((each for each in given if isinstance(each, AsyncRedisCluster)), None)
    found: list[Any] = [each for each in (of_blocking, of_async) if each is not None]
    if len(found) != len(given):
        raise ConfigurationError(f"{client!r} is no pair of a RedisCluster and an async one")
    if len(found) == 1 and getattr(of_blocking, "user_on_connect_func", None) is not None:
        raise ConfigurationError(
            f"{client!r} has a redis_connect_func, which serves one kind of callers only: "
            "give a pair of a redis.RedisCluster and a redis.asyncio.RedisCluster"
        )
    options = [_options(each) for each in found]
    manager = found[0].nodes_manager
    places = [(each.host, int(each.port)) for each in manager.startup_nodes.values()]
    with checked(f"{client!r} has settings that cannot serve both kinds of callers"):
        node = settings_of_nodes(options[0], options[-1], places)
    return ClusterSettings(node, places, manager.address_remap)


def _options(client: Any) -> dict[str, Any]:
    options = dict(client.nodes_manager.connection_kwargs)
    own = getattr(client, "user_on_connect_func", None)
    options.pop("response_callbacks", None)
    options.pop("redis_connect_func", None)  # of the cluster client itself
    return options if own is None else {**options, "redis_connect_func": own}
