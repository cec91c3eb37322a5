"""How to connect: from a URL, or as a ready client object does.

Connections are redis-py's own, so that TLS, ACLs, unix sockets and the handshake are its business.
Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis
import redis.asyncio
from redis import connection as blocking
from redis import sentinel as blocking_sentinel
from redis.asyncio import connection as asynchronous
from redis.asyncio import sentinel as async_sentinel

from resilient.backends.redis.sentinels import AsyncPrimary, Primary, Sentinels
from resilient.backends.redis.urls import Url, checked, parsed
from resilient.errors import ConfigurationError

__all__ = ["Connection", "Settings", "settings_of_client", "settings_of_nodes", "settings_of_url"]

TIMEOUT = 5.0
"""Seconds for which an operation may take, unless the URL or the client says otherwise."""
CONNECT_TIMEOUT = 2.0
"""Seconds for which connecting may take."""

_OF_BOTH_MODES: list[tuple[type[Any], type[Any]]] = [
    (blocking.Connection, asynchronous.Connection),
    (blocking.SSLConnection, asynchronous.SSLConnection),
    (blocking.UnixDomainSocketConnection, asynchronous.UnixDomainSocketConnection),
    (
        blocking_sentinel.SentinelManagedConnection,
        async_sentinel.SentinelManagedConnection,
    ),
    (
        blocking_sentinel.SentinelManagedSSLConnection,
        async_sentinel.SentinelManagedSSLConnection,
    ),
]
_PLAIN, _TLS, _UNIX, _SENTINEL, _SENTINEL_TLS = (pair[0] for pair in _OF_BOTH_MODES)
_SCHEMES = {
    _PLAIN: "redis",
    _TLS: "rediss",
    _UNIX: "unix",
    _SENTINEL: "redis+sentinel",
    _SENTINEL_TLS: "rediss+sentinel",
}
_POOLS = (blocking_sentinel.SentinelConnectionPool, async_sentinel.SentinelConnectionPool)

_CHOSEN = {"decode_responses": False, "protocol": 2, "health_check_interval": 0}
"""Version 2 of the protocol has no unasked replies. Health is looked after by the transport."""
_OF_THE_POOL = {"max_connections", "timeout", "connection_class", "cache", "cache_config"}
_OF_THE_POOL |= {"connection_pool"}
_OF_THE_CLIENT = {
    "ssl",  # said by the class
    # Repeating is the transport's business, within its own time.
    *("retry", "retry_on_error", "retry_on_timeout"),
    *("encoding", "encoding_errors", "legacy_responses", "parser_class", "command_packer"),
    *("event_dispatcher", "himport_registry", "maint_notifications_config"),
    *("maint_notifications_pool_handler", "oss_cluster_maint_notifications_handler"),
    *("orig_host_address", "orig_socket_timeout", "orig_socket_connect_timeout"),
    *("maintenance_state", "maintenance_notification_hash"),
}


class Connection(Protocol):
    """What is used of redis-py's blocking connections."""

    def connect(self) -> None:
        """Connect and shake hands."""
        ...

    def disconnect(self) -> None:
        """Close the socket; in a forked child without shutting it down."""
        ...

    def can_read(self, timeout: float) -> bool:
        """Whether there is something to read, or the end of the connection."""
        ...


@dataclass(frozen=True)
class Settings:
    """What both kinds of connections are made of.

    Attributes:
        name: The server for messages: `redis://host:6379/0`.
        timeout: Seconds for one operation.
        connect_timeout: Seconds for connecting.
    """

    name: str
    timeout: float
    connect_timeout: float
    blocking_class: type[Any]
    blocking_options: dict[str, Any]
    async_class: type[Any]
    async_options: dict[str, Any]

    @property
    def is_secure(self) -> bool:
        """Whether it is TLS."""
        return issubclass(self.blocking_class, blocking.SSLConnection)

    def connection(self) -> Connection:
        """A new connection for blocking callers, not connected yet."""
        made: Connection = self.blocking_class(**self.blocking_options)
        return made

    def async_connection(self) -> Any:
        """A new connection for the running loop, not connected yet."""
        return self.async_class(**self.async_options)


def settings_of_url(url: str | Url) -> Settings:
    """The settings in a URL with redis-py's options; `ConfigurationError` for a wrong one.

    Of a cluster they are those of each server, whichever that is.
    """
    found = parsed(url) if isinstance(url, str) else url
    options = found.options
    with checked(f"the URL {found.text!r} is wrong"):
        if found.kind == "sentinel":
            chosen = _SENTINEL_TLS if found.is_secure else _SENTINEL
            sentinels = _sentinels_of_url(found)
            settings = _settings(found.scheme, options, options, chosen, sentinels)
        else:
            chosen = options.get("connection_class", _PLAIN)
            settings = _settings(found.scheme, options, options, chosen, places=found.places)
        _try(settings)
    return settings


def settings_of_client(client: Any) -> Settings:
    """The settings of a `redis.Redis`, a `redis.asyncio.Redis`, or a pair of both."""
    given = client if isinstance(client, tuple) else (client,)
    of_blocking = next((c for c in given if isinstance(c, redis.Redis)), None)
    of_async = next((c for c in given if isinstance(c, redis.asyncio.Redis)), None)
    found = [each for each in (of_blocking, of_async) if each is not None]
    if len(found) != len(given) or not found:
        raise ConfigurationError(
            f"{client!r} is no redis.Redis, no redis.asyncio.Redis and no pair of both "
            "(of sentinels: what Sentinel.master_for() makes)"
        )
    one, other = found[0].connection_pool, found[-1].connection_pool
    blocking_class, _ = _classes(one.connection_class)
    if _classes(other.connection_class)[0] is not blocking_class:
        raise ConfigurationError(f"the clients of the pair {client!r} connect in different ways")
    if len(found) == 1 and one.connection_kwargs.get("redis_connect_func") is not None:
        raise ConfigurationError(
            f"{client!r} has a redis_connect_func, which serves one kind of callers only: "
            "give a pair of a redis.Redis and a redis.asyncio.Redis"
        )
    with checked(f"{client!r} has settings that cannot serve both kinds of callers"):
        sentinels = _sentinels_of_pool(one) if isinstance(one, _POOLS) else None
        settings = _settings(
            _SCHEMES[blocking_class],
            one.connection_kwargs,
            other.connection_kwargs,
            blocking_class,
            sentinels,
        )
        _try(settings)
    return settings


def _settings(
    scheme: str,
    of_blocking: dict[str, Any],
    of_async: dict[str, Any],
    connection_class: type[Any],
    sentinels: Sentinels | None = None,
    places: Sequence[tuple[str, int]] = (),
) -> Settings:
    blocking_class, async_class = _classes(connection_class)
    timeout, connect_timeout = _timeouts(of_blocking)
    ours = {**_CHOSEN, "socket_timeout": timeout, "socket_connect_timeout": connect_timeout}
    blocking_options = {**_neutral(of_blocking), **ours}
    async_options = {**_neutral(of_async), **ours}
    if sentinels is not None:
        places = sentinels.places
    elif not places:
        places = [(of_blocking.get("host") or "localhost", of_blocking.get("port") or 6379)]
    place = ",".join(f"{host}:{port}" for host, port in places)
    if blocking_class is _UNIX:
        place = str(of_blocking.get("path", ""))
    if sentinels is not None:
        place = f"{place}/{sentinels.service}"
        blocking_options["connection_pool"] = Primary(sentinels)
        async_options["connection_pool"] = AsyncPrimary(sentinels)
    return Settings(
        name=f"{scheme}://{place}/{of_blocking.get('db') or 0}",
        timeout=timeout,
        connect_timeout=connect_timeout,
        blocking_class=blocking_class,
        blocking_options=blocking_options,
        async_class=async_class,
        async_options=async_options,
    )


def settings_of_nodes(
    of_blocking: dict[str, Any], of_async: dict[str, Any], places: Sequence[tuple[str, int]]
) -> Settings:
    """The settings of each server of a cluster, from the options of cluster clients."""
    chosen = _TLS if of_blocking.get("ssl") or _is_tls(of_async) else _PLAIN
    scheme = f"{_SCHEMES[chosen]}+cluster"
    settings = _settings(scheme, of_blocking, of_async, chosen, places=places)
    _try(settings)
    return settings


def _is_tls(options: dict[str, Any]) -> bool:
    chosen = options.get("connection_class")
    return chosen is not None and _classes(chosen)[0] is _TLS


def _sentinels_of_url(url: Url) -> Sentinels:
    """Sentinels have users and passwords of their own, and TLS if the servers have it."""
    options = {name: value for name, value in url.options.items() if name.startswith("ssl_")}
    options["ssl"] = url.is_secure
    for name in ("username", "password"):
        options[name] = url.own.get(f"sentinel_{name}")
    others = int(url.own.get("min_other_sentinels", 0))
    _, patience = _timeouts(url.options)
    return Sentinels(url.places, url.service, options, others, None, patience)


def _sentinels_of_pool(pool: Any) -> Sentinels:
    """Those of a client that `Sentinel.master_for` has made."""
    manager = pool.sentinel_manager
    if not pool.is_master:
        raise ValueError(f"it reads from replicas: use Sentinel.master_for({pool.service_name!r})")
    places = [each.connection_pool.connection_kwargs for each in manager.sentinels]
    _, patience = _timeouts(pool.connection_kwargs)
    return Sentinels(
        places=[(each["host"], each["port"]) for each in places],
        service=pool.service_name,
        options={k: v for k, v in manager.sentinel_kwargs.items() if v is not None},
        min_others=manager.min_other_sentinels,
        force_ip=manager._force_master_ip,
        patience=patience,
    )


def _neutral(options: dict[str, Any]) -> dict[str, Any]:
    """The options that say where and as whom to connect."""
    left_out = _OF_THE_POOL | _OF_THE_CLIENT
    return {k: v for k, v in options.items() if k not in left_out and v is not None}


def _timeouts(options: dict[str, Any]) -> tuple[float, float]:
    """Seconds for one operation, and for connecting."""
    timeout = _seconds(options, "socket_timeout", TIMEOUT)
    return timeout, _seconds(options, "socket_connect_timeout", CONNECT_TIMEOUT)


def _seconds(options: dict[str, Any], name: str, default: float) -> float:
    value = options.get(name)
    if value is None:
        return default
    if not value > 0:
        raise ValueError(f"{name}={value!r}: seconds must be positive")
    return float(value)


def _try(settings: Settings) -> None:
    """Make one connection object of each kind: that checks every option, and connects nowhere."""
    settings.connection()
    settings.async_connection()


def _classes(connection_class: type[Any]) -> tuple[type[Any], type[Any]]:
    for pair in _OF_BOTH_MODES:
        if connection_class in pair:
            return pair
    raise ConfigurationError(
        f"clients whose connections are {connection_class.__qualname__} objects are not supported"
    )
