"""How to reach MongoDB: URLs and clients. Nothing is connected by saying so."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

import resilient
from resilient.backends.mongodb import from_client, from_url
from resilient.backends.mongodb.settings import settings_of_client, settings_of_url
from resilient.engine.drivers.sync import drive
from resilient.errors import ConfigurationError
from resilient.protocols.locks import Grant
from resilient.resolving import resolve
from tests.support.mongodb import MongoAt


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("mongodb://host/db?replicaSte=x", "replicaSte"),
        ("mongodb://host/db?tls=perhaps", "tls"),
        ("mongodb://host:port/db", "Port"),
        ("mongodb:///db", "host"),
        ("mongodb://host/db?timeout=soon", "timeout"),
        ("mongodb://host/db?timeout=0", "timeout"),
        ("mongodb://host/db?listen=maybe", "auto, off"),
        ("mongodb+srv://host.example/db?replicaSte=x", "replicaSte"),
    ],
)
def test_a_wrong_url(url: str, match: str) -> None:
    """It is said what is wrong, before anything is connected or looked up."""
    with pytest.raises(ConfigurationError, match=match):
        from_url(url)


def test_no_password_in_messages() -> None:
    """Names and errors show no password."""
    backend = from_url("mongodb://me:secret@host:7/db?replicaSet=rs")
    assert backend.name == "mongodb://host:7/db"
    assert "secret" not in repr(settings_of_url("mongodb://me:secret@host:7/db"))
    with pytest.raises(ConfigurationError) as caught:
        from_url("mongodb://me:secret@host/db?replicaSte=x")
    assert "secret" not in str(caught.value)


def test_what_a_url_says() -> None:
    """The database is in the path, pymongo's options are its own, and its patience is cut."""
    settings = settings_of_url("mongodb+srv://cluster.example/?timeout=3&readPreference=nearest")
    assert settings.database == "resilient"
    assert settings.timeout == 3.0
    assert settings.options["serverSelectionTimeoutMS"] == 2000
    assert "timeout=" not in settings.options["host"]
    patient = settings_of_url("mongodb://a:1,b:2/state?serverSelectionTimeoutMS=9000")
    assert (patient.database, patient.name) == ("state", "mongodb://a:1,b:2/state")
    assert patient.connect_timeout == 2.0
    with patient.client() as client:
        assert client.options.server_selection_timeout == 9.0


@pytest.mark.parametrize("kind", [MongoClient, AsyncMongoClient])
def test_a_client_object(kind: Any, mongo: MongoAt, prefix: str) -> None:
    """Its settings are used, for blocking and async callers alike, and it is never opened."""
    client = kind(mongo.url, connect=False)
    backend = resolve(client, prefix)
    assert backend.name == mongo.url
    assert isinstance(drive(backend.require("locks").acquire("k", ttl=30)), Grant)
    backend.close()


def test_a_client_without_a_database() -> None:
    """Where it names none, the database is `resilient`."""
    client: Any = MongoClient("host", 7, connect=False)
    assert settings_of_client(client).name == "mongodb://host:7/resilient"
    client.close()


def test_another_object() -> None:
    """What is neither is refused."""
    with pytest.raises(ConfigurationError, match="neither"):
        from_client(object())


def test_the_url_alone_changes(mongo: MongoAt, prefix: str) -> None:
    """A function runs on MongoDB as it is."""
    with resilient.using(mongo.url):

        @resilient.distributed_lock("k", ttl=30)
        def locked() -> int:
            lease = resilient.current_lease()
            assert lease is not None
            return lease.fence

        assert 0 < locked() < locked()
