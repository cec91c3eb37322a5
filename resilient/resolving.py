"""Which backends serve URLs and client objects; each is imported when it is asked for first."""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeAlias

from resilient.engine.backend import Backend, Capability, adopt
from resilient.engine.durations import Duration, seconds
from resilient.engine.urls import without_secrets
from resilient.errors import ConfigurationError

__all__ = ["BackendLike", "Configuration", "configuration_of", "resolve"]

BackendLike: TypeAlias = Any
"""A URL, a `Backend` (or an object with its attributes), or a ready client object."""

_REDIS, _POSTGRES = "resilient.backends.redis", "resilient.backends.postgres"
_MONGODB = "resilient.backends.mongodb"
_REDIS_SCHEMES = ("redis", "rediss", "valkey", "valkeys")
MODULES = {
    "memory": "resilient.backends.memory",
    "sqlite": "resilient.backends.sqlite",
    **dict.fromkeys((*_REDIS_SCHEMES, "unix"), _REDIS),
    **{f"{scheme}+{kind}": _REDIS for scheme in _REDIS_SCHEMES for kind in ("sentinel", "cluster")},
    **dict.fromkeys(("postgresql", "postgres"), _POSTGRES),
    **dict.fromkeys(("mongodb", "mongodb+srv"), _MONGODB),
}
CLIENTS = {
    "redis": _REDIS,
    "valkey": _REDIS,
    "psycopg_pool": _POSTGRES,
    "pymongo": _MONGODB,
    "sqlalchemy": _POSTGRES,
}


class Configuration:
    """One choice of backends.

    Attributes:
        default: That of every capability that has none of its own; `None` while disabled.
        special: Those that have.
        disabled: Whether every call is passed through.
    """

    def __init__(
        self, default: Backend | None, special: dict[Capability, Backend], *, disabled: bool = False
    ) -> None:
        self.default = default
        self.special = special
        self.disabled = disabled

    def get(self, capability: Capability) -> Backend | None:
        """The backend of a capability."""
        return self.special.get(capability, self.default)

    def backends(self) -> list[Backend]:
        """All of them, each once."""
        both = [*self.special.values(), *([self.default] if self.default is not None else [])]
        return list({id(backend): backend for backend in both}.values())


def configuration_of(
    backend: BackendLike, prefix: object, given: dict[Any, BackendLike | None], max_ttl: Duration
) -> Configuration:
    """The backends that were chosen, with one for each URL, however often it is named.

    Args:
        backend: The default one.
        prefix: Put before every key.
        given: Those of single capabilities; `None`: the default.
        max_ttl: How long a record is kept whose own TTL is `None`.

    Raises:
        ConfigurationError: One of them is wrong, or lacks its capability.
    """
    longest = seconds(max_ttl, option="max_ttl")
    if not isinstance(prefix, str):
        raise ConfigurationError(f"prefix={prefix!r} is not a text")
    made: dict[Any, Backend] = {}

    def once(each: BackendLike, option: str) -> Backend:
        known = each if isinstance(each, str) else id(each)
        if known not in made:
            made[known] = resolve(each, prefix, option=option)
            made[known].max_ttl = longest
        return made[known]

    default = once(backend, "backend")
    special = {name: once(each, name) for name, each in given.items() if each is not None}
    for capability, chosen in special.items():
        chosen.require(capability)
    return Configuration(default, special)


def resolve(backend: BackendLike, prefix: str = "", *, option: str = "backend") -> Backend:
    """A new backend for a URL or a client; a backend object itself.

    Args:
        backend: What was given
        prefix: with this prefix
        option: as this option, for messages.

    Raises:
        ConfigurationError: It is none of the three, or the URL is wrong.
    """
    if isinstance(backend, str):
        return _from_url(backend, prefix)
    client = backend[0] if isinstance(backend, tuple) and backend else backend
    root = type(client).__module__.partition(".")[0]
    if root in CLIENTS:
        made: Backend = import_module(CLIENTS[root]).from_client(backend, prefix=prefix)
        return made
    return adopt(backend, option)


def _from_url(url: str, prefix: str) -> Backend:
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme in MODULES:
        made = import_module(MODULES[scheme]).from_url(url, prefix=prefix)
    else:
        from importlib import metadata  # costs more to import than all of the rest here

        found = {point.name: point for point in metadata.entry_points(group="resilient.backends")}
        if scheme not in found:
            known = ", ".join(f"{name}://" for name in sorted({*MODULES, *found}))
            raise ConfigurationError(
                f"the backend URL {without_secrets(url)!r} has no known scheme; known: {known}"
            )
        made = found[scheme].load()(url, prefix=prefix)
    return adopt(made)
