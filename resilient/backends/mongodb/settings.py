"""How to connect: from a URL, or as a ready client does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri, split_options

from resilient.engine.durations import seconds
from resilient.engine.urls import number_of, wrong_url
from resilient.errors import ConfigurationError

__all__ = ["Settings", "settings_of_client", "settings_of_url"]

TIMEOUT = 5.0
"""Seconds for which an operation may take, unless the URL says otherwise."""
DEFAULTS = {"serverSelectionTimeoutMS": 2000, "connectTimeoutMS": 2000, "maxPoolSize": 32}
"""Milliseconds for which a server, after a fail-over the new primary, is looked for at most, unless
the URL says otherwise. pymongo's own are 30 and 20 seconds: longer than any operation may take.
Who comes when all connections are in use waits for one."""
DATABASE = "resilient"
OURS = ("timeout", "listen")
LISTEN = ("auto", "off")


@dataclass(frozen=True)
class Settings:
    """What every client is made of.

    Attributes:
        name: The server for messages: `mongodb://host:27017/database`.
        database: Where the collections are.
        options: For pymongo's clients, of either kind.
        timeout: Seconds for one operation.
        connect_timeout: Seconds for finding and reaching a server.
        listen: `"off"`: waiters look by themselves.
    """

    name: str
    database: str
    options: Mapping[str, Any] = field(repr=False)
    timeout: float = TIMEOUT
    connect_timeout: float = 2.0
    listen: str = "auto"

    def client(self, **more: Any) -> MongoClient[dict[str, Any]]:
        """A new client for blocking callers, not connected yet."""
        return MongoClient(**{**self.options, **more})

    def async_client(self) -> AsyncMongoClient[dict[str, Any]]:
        """A new client for the running loop, not connected yet."""
        return AsyncMongoClient(**self.options)


def settings_of_url(url: str) -> Settings:
    """The settings in a URL with pymongo's options and ours; `ConfigurationError` for a wrong one.

    Nothing is looked up yet, for a `mongodb+srv://` URL neither.
    """
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in query if name in OURS}
    rest = [(name, value) for name, value in query if name not in OURS]
    theirs = urlencode(rest, quote_via=quote, safe=":,")
    plain = urlunsplit((parts.scheme.lower(), parts.netloc, parts.path or "/", theirs, ""))
    if not parts.netloc:
        raise wrong_url(url, "it names no host")
    asked = ""
    try:
        for name, value in rest:  # a client would only warn
            asked = f"{name}: "
            split_options(f"{name}={quote(value)}", validate=True, warn=False)
        asked = ""
        if not parts.scheme.endswith("+srv"):
            parse_uri(plain)
    except (PyMongoError, ValueError, TypeError) as error:
        raise wrong_url(url, f"{asked}{error}") from None
    given = {name.lower() for name, _ in rest}
    return _settings(
        {"host": plain, **{name: ms for name, ms in DEFAULTS.items() if name.lower() not in given}},
        database=unquote(parts.path.strip("/")) or DATABASE,
        **ours,
    )


def settings_of_client(client: Any) -> Settings:
    """The settings of a `MongoClient` or an `AsyncMongoClient`."""
    if not isinstance(client, MongoClient | AsyncMongoClient):
        raise ConfigurationError(
            f"{client!r} is neither a MongoClient nor an AsyncMongoClient of pymongo"
        )
    # What it was made with, as pymongo itself makes a client's duplicate.
    options = {name: value for name, value in client._init_kwargs.items() if value is not None}
    return _settings(options, database=client.get_default_database(DATABASE).name)


def _settings(
    options: dict[str, Any],
    database: str,
    timeout: str | float = TIMEOUT,
    listen: str = "auto",
) -> Settings:
    if listen not in LISTEN:
        raise ConfigurationError(f"listen={listen!r}: use one of {', '.join(LISTEN)}")
    options = {"appname": "resilient", **options, "connect": False}
    selection = options.get("serverSelectionTimeoutMS", DEFAULTS["serverSelectionTimeoutMS"])
    return Settings(
        name=f"mongodb://{_place(options)}/{database}",
        database=database,
        options=options,
        timeout=seconds(number_of(timeout), option="timeout"),
        connect_timeout=selection / 1000,
        listen=listen,
    )


def _place(options: Mapping[str, Any]) -> str:
    """The servers, without a password."""
    host = options.get("host") or "localhost"
    hosts = [host] if isinstance(host, str) else list(host)
    bare = [urlsplit(each).netloc.rpartition("@")[2] if "://" in each else each for each in hosts]
    port = options.get("port")
    return ",".join(each if port is None or ":" in each else f"{each}:{port}" for each in bare)
