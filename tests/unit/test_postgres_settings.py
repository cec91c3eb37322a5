"""How to reach PostgreSQL: URLs, pools and engines. Nothing is connected by saying so."""

from __future__ import annotations

from typing import Any

import psycopg_pool
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import create_async_engine

import resilient
from resilient.backends.postgres import from_client, from_url
from resilient.backends.postgres.settings import settings_of_client
from resilient.engine.drivers.sync import drive
from resilient.errors import ConfigurationError
from resilient.protocols.locks import Grant
from resilient.resolving import resolve
from tests.support.postgres import PostgresAt


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("postgresql://host/db?shcema=x", "shcema"),
        ("postgresql://host:port/db", "port"),
        ("postgresql://host/db?schema=Upper", "lower-case"),
        ("postgresql://host/db?schema=a;b", "lower-case"),
        ("postgresql://host/db?timeout=soon", "timeout"),
        ("postgresql://host/db?timeout=0", "timeout"),
        ("postgresql://host/db?listen=maybe", "auto, on, off"),
    ],
)
def test_a_wrong_url(url: str, match: str) -> None:
    """It is said what is wrong, before anything is connected."""
    with pytest.raises(ConfigurationError, match=match):
        from_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/db?shcema=x",
        "postgresql://me:secret?secret@host/db",
        "postgresql://me:secret/secret@host/db",
        "postgresql://me:se%zzsecret@host/db",
    ],
)
def test_no_password_in_messages(url: str) -> None:
    """Names and errors show no password, nor what a parser takes one for that is not escaped."""
    assert "secret" not in from_url("postgresql://me:secret@host:7/db").name
    with pytest.raises(ConfigurationError) as caught:
        from_url(url)
    assert "secret" not in str(caught.value)


def test_both_schemes(postgres: PostgresAt) -> None:
    """`postgres://` is the same; the function is unchanged, the URL is another."""
    url = postgres.url.replace("postgresql://", "postgres://")

    @resilient.distributed_lock("k", backend=resolve(url))
    def locked() -> int:
        lease = resilient.current_lease()
        assert lease is not None
        return lease.fence

    assert 0 < locked() < locked()


CLIENTS = ["pool", "async pool", "engine", "async engine"]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_object(kind: str, postgres: PostgresAt, prefix: str) -> None:
    """Its settings are used, for blocking and async callers alike, and it is never opened."""
    url = postgres.url.replace("postgresql://", "postgresql+psycopg://")
    client: Any
    if kind == "pool":
        client = psycopg_pool.ConnectionPool(postgres.url, open=False)
    elif kind == "async pool":
        client = psycopg_pool.AsyncConnectionPool(postgres.url, open=False)
    elif kind == "engine":
        client = sqlalchemy.create_engine(url)
    else:
        client = create_async_engine(url)
    backend = resolve(client, prefix)
    assert isinstance(drive(backend.require("locks").acquire("k", ttl=30)), Grant)
    backend.close()


@pytest.mark.parametrize("client", [object(), sqlalchemy.create_engine("sqlite://")])
def test_another_object(client: Any) -> None:
    """What is neither is refused."""
    with pytest.raises(ConfigurationError, match=r"neither|PostgreSQL"):
        from_client(client)


def test_what_an_engine_says() -> None:
    """Several hosts are libpq's list; an option of another driver is not dropped but refused."""
    several = "postgresql+psycopg://u:p@/db?host=h1:5432&host=h2:5433&sslmode=verify-full"
    said = conninfo_to_dict(settings_of_client(sqlalchemy.create_engine(several)).conninfo)
    assert (said["host"], said["port"], said["sslmode"]) == ("h1,h2", "5432,5433", "verify-full")
    other = sqlalchemy.create_engine("postgresql+psycopg://h/db?prepare_threshold=2")
    with pytest.raises(ConfigurationError, match="'prepare_threshold'"):
        settings_of_client(other)


def test_a_pool_that_makes_up_its_settings() -> None:
    """What is not known before it connects cannot be used."""
    pool: Any = psycopg_pool.ConnectionPool(lambda: "host=nowhere", open=False)
    with pytest.raises(ConfigurationError, match="URL"):
        from_client(pool)
