"""How to connect: from a URL, or as a ready pool or engine does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from resilient.backends.postgres.blocked import connected
from resilient.backends.postgres.line import Line
from resilient.backends.postgres.schema import SCHEMA, checked_name
from resilient.backends.postgres.server import Server
from resilient.engine.durations import seconds
from resilient.engine.urls import number_of, wrong_url
from resilient.errors import ConfigurationError

__all__ = ["Settings", "settings_of_client", "settings_of_url"]

TIMEOUT = 5.0
"""Seconds for which an operation may take, unless the URL says otherwise."""
CONNECT_TIMEOUT = 2.0
"""Seconds for which connecting may take."""
OURS = ("schema", "timeout", "listen")
LISTEN = ("auto", "on", "off")
SQLALCHEMY = ("postgresql", "postgres")


@dataclass(frozen=True)
class Settings:
    """What every connection is made of.

    Attributes:
        name: The server for messages: `postgresql://host:5432/database`.
        conninfo: How to connect, as libpq reads it.
        server: What is known of it.
        timeout: Seconds for one operation.
        connect_timeout: Seconds for connecting.
        listen: `"on"`, `"off"`, or `"auto"`: on, unless a pooler lets nothing be heard.
    """

    name: str
    conninfo: str
    server: Server = field(compare=False)
    timeout: float = TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    listen: str = "auto"

    def line(self, patience: float) -> Line:
        """A new connection, made in at most so many seconds."""
        pgconn = connected(self.conninfo, min(patience, self.connect_timeout))
        return Line(pgconn, self.server)


def settings_of_url(url: str) -> Settings:
    """The settings in a URL with libpq's options and ours; `ConfigurationError` for a wrong one."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in query if name in OURS}
    rest = [(name, value) for name, value in query if name not in OURS]
    theirs = urlencode(rest, quote_via=quote)  # to libpq a plus is a plus
    plain = urlunsplit((parts.scheme, parts.netloc, parts.path, theirs, ""))
    try:
        options = conninfo_to_dict(plain)
        for port in str(options.get("port", "")).split(","):
            int(port or "0")  # libpq would find out when it connects
    except (psycopg.Error, ValueError) as error:
        raise wrong_url(url, error) from None
    return _settings(options, **ours)


def settings_of_client(client: Any) -> Settings:
    """The settings of a psycopg pool or an SQLAlchemy engine, of either kind."""
    root = type(client).__module__.partition(".")[0]
    if root == "psycopg_pool":
        conninfo, options = client.conninfo, client.kwargs or {}
        if callable(conninfo) or callable(options):
            raise ConfigurationError(f"{client!r} makes up its settings: give a URL instead")
        known = conninfo_to_dict(conninfo, **_of_libpq(options))
        return _settings(known)
    url = getattr(client, "url", None)
    if root == "sqlalchemy" and url is not None:
        if url.get_backend_name() not in SQLALCHEMY:
            raise ConfigurationError(f"{client!r} is no engine on PostgreSQL")
        return _settings(_of_engine(client, url))
    raise ConfigurationError(
        f"{client!r} is neither a psycopg pool nor an SQLAlchemy engine: "
        "a single connection cannot serve several callers"
    )


def _of_engine(engine: Any, url: Any) -> dict[str, Any]:
    """What libpq is told by an engine's URL; what else its driver is told cannot be seen."""
    query = {name: value for name, value in url.query.items() if name != "host"}
    strange = sorted(query.keys() - _of_libpq(query).keys())
    if strange:
        raise ConfigurationError(
            f"{engine!r}: {strange[0]!r} in its URL is an option of its own driver: "
            "give a URL with libpq's options instead"
        )
    hosts = url.query.get("host", ())  # several, as SQLAlchemy writes them: host=a:1&host=b:2
    places = [place.partition(":") for place in ((hosts,) if isinstance(hosts, str) else hosts)]
    named = {
        "host": ",".join(host for host, _, _ in places) or url.host,
        "port": ",".join(port for _, _, port in places).strip(",") or url.port,
        "user": url.username,
        "password": url.password,
        "dbname": url.database,
    }
    return {name: value for name, value in {**named, **query}.items() if value is not None}


def _of_libpq(options: dict[str, Any]) -> dict[str, Any]:
    """What of a client's options libpq knows; the others are about the client's own objects."""
    known = {each.keyword.decode() for each in psycopg.pq.Conninfo.get_defaults()}
    return {name: value for name, value in options.items() if name in known}


def _settings(
    options: dict[str, Any],
    schema: str = SCHEMA,
    timeout: str | float = TIMEOUT,
    listen: str = "auto",
) -> Settings:
    if listen not in LISTEN:
        raise ConfigurationError(f"listen={listen!r}: use one of {', '.join(LISTEN)}")
    given = options.pop("connect_timeout", None)
    connect_timeout = CONNECT_TIMEOUT if given is None else seconds(float(given), option="timeout")
    options = {"application_name": "resilient", "client_encoding": "UTF8", **options}
    host, port = options.get("host") or "localhost", options.get("port") or 5432
    return Settings(
        name=f"postgresql://{host}:{port}/{options.get('dbname') or ''}",
        conninfo=make_conninfo("", **options),
        server=Server(checked_name(schema)),
        timeout=seconds(number_of(timeout), option="timeout"),
        connect_timeout=connect_timeout,
        listen=listen,
    )
