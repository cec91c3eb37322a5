"""URLs: redis-py reads the options; what it does not know is several hosts, and what they are.

One server, several sentinels (`redis+sentinel://host1:26379,host2:26379/service/0`), or nodes of a
cluster (`redis+cluster://host1:6379,host2:6379`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
from redis import connection

from resilient.engine.urls import without_secrets, wrong_url
from resilient.errors import ConfigurationError

__all__ = ["Url", "checked", "parsed"]

_AS_REDIS = {"redis": "redis", "rediss": "rediss", "unix": "unix"}
_AS_REDIS |= {"valkey": "redis", "valkeys": "rediss"}
_DEFAULT_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
_EXAMPLES = {
    "": "redis://localhost:6379/0",
    "sentinel": "redis+sentinel://sentinel1:26379,sentinel2:26379/mymaster/0",
    "cluster": "redis+cluster://node1:6379,node2:6379",
}
_OWN = {"": set[str](), "cluster": set[str]()}
_OWN["sentinel"] = {"sentinel_username", "sentinel_password", "min_other_sentinels"}


@dataclass(frozen=True)
class Url:
    """What a URL says.

    Attributes:
        text: The URL for messages, without what may be secret.
        kind: `""` (one server), `"sentinel"` or `"cluster"`.
        scheme: As it was given: `"valkey+sentinel"`.
        is_secure: Whether it is for TLS.
        places: The hosts and ports, of one server or of several.
        service: What sentinels call the primary.
        options: redis-py's options.
        own: Options that redis-py's connections do not have.
    """

    text: str
    kind: str
    scheme: str
    is_secure: bool
    places: list[tuple[str, int]]
    service: str
    options: dict[str, Any]
    own: dict[str, str]


@contextmanager
def checked(what: str) -> Iterator[None]:
    """What redis-py finds wrong with options, as a `ConfigurationError`."""
    try:
        yield
    except (ValueError, TypeError, redis.RedisError) as error:
        # It is redis-py's constructor that knows the options, and names itself.
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        reason = f"there is no option {unknown[1]}" if unknown else error
        raise ConfigurationError(f"{what}: {reason}") from error


def parsed(url: str) -> Url:
    """Read a URL; `ConfigurationError` for a wrong one."""
    try:
        return _read(url)
    except (ValueError, TypeError, redis.RedisError) as error:
        raise wrong_url(url, error) from None


def _read(url: str) -> Url:
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if base not in _AS_REDIS or kind not in _EXAMPLES or (base == "unix" and kind):
        raise ValueError(f"use one of {', '.join(_AS_REDIS)}, as in {_EXAMPLES['']}")
    if not rest:
        raise ValueError(f"it names no server, as does {_EXAMPLES[kind]}")
    parts = urlsplit(f"//{rest}")
    credentials, at, hosts = parts.netloc.rpartition("@")
    service, database = "", unquote(parts.path.strip("/"))
    if kind == "sentinel":
        service, _, database = database.partition("/")
        if not service:
            raise ValueError(f"it names no service, as does {_EXAMPLES[kind]}")
    elif kind == "cluster" and database.strip("0"):
        raise ValueError("a cluster has database 0 only")
    if base != "unix" and database and not database.isdecimal():
        # redis-py would take database 0.
        raise ValueError(f"{database!r} is no number of a database, as in {_EXAMPLES[kind]}")
    query = parse_qsl(parts.query, keep_blank_values=True)
    own = {name: value for name, value in query if name in _OWN[kind]}
    places: list[tuple[str, int]] = []
    if kind:
        places = [_place(each, _DEFAULT_PORTS[kind]) for each in hosts.split(",")]
        for_redis = urlencode([each for each in query if each[0] not in own])
        rest = f"{credentials}{at}localhost/{database}?{for_redis}"
    parse: Any = connection.parse_url
    options = dict(parse(f"{_AS_REDIS[base]}://{rest}"))
    if not kind:
        places = [(options.get("host") or "localhost", options.get("port") or 6379)]
    is_secure = _AS_REDIS[base] == "rediss"
    return Url(without_secrets(url), kind, scheme, is_secure, places, service, options, own)


def _place(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no host")
    return parts.hostname, port if parts.port is None else parts.port
