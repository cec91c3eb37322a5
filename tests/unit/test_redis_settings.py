"""How the Redis backend is told where to connect."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import redis
import redis.asyncio

from resilient.backends.redis import from_client, from_url
from resilient.backends.redis.settings import settings_of_client, settings_of_url
from resilient.errors import BackendError, ConfigurationError
from resilient.testing.conformance import Run
from tests.support.servers import RedisAt, free_port, redis_server


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://user:secret@host:1234/5", "redis://host:1234/5"),
        ("rediss://:secret@host/2", "rediss://host:6379/2"),
        ("valkey://host", "valkey://host:6379/0"),
        ("valkeys://host", "valkeys://host:6379/0"),
        ("unix:///tmp/redis.sock?db=3", "unix:///tmp/redis.sock/3"),
        ("redis+sentinel://a,b:1/main", "redis+sentinel://a:26379,b:1/main/0"),
        ("valkeys+sentinel://u:secret@a/main/2", "valkeys+sentinel://a:26379/main/2"),
    ],
)
def test_urls(url: str, name: str) -> None:
    """Every scheme makes a backend that is called after its server, without the password."""
    assert from_url(url, prefix="p:").name == name


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:/localhost",
        "http://localhost",
        "redis://secret@host:port/0",
        "redis://user:secret@host/zero",
        "redis://:secret@host:70000",
        "redis://:secret@host?socket_timeout=soon",
        "redis://:secret@host?socket_timeout=0",
        "redis://:secret@host?socket_timeout=-1",
        "redis://:secret@host?no_such_option=1",
        "rediss://:secret@host?ssl_cert_reqs=perhaps",
        "redis://host?password=secret&no_such_option=1",
        "redis+sentinel://:secret@host",
        "redis+sentinel://:secret@host,/main",
        "redis+sentinel://:secret@host/main/zero",
        "redis+sentinel://:secret@host:port/main",
        "redis+sentinel://host/main?sentinel_password=secret&min_other_sentinels=few",
        "redis+sentinels://:secret@host/main",
        "unix+sentinel:///tmp/redis.sock",
        "redis://:secret?secret@host:6379/0",
        "redis://u:secret/secret@host/0",
        "redis+cluster://:secret#secret@host,other",
    ],
)
def test_wrong_urls(url: str) -> None:
    """A wrong URL is an error at once, that names it and keeps its password."""
    with pytest.raises(ConfigurationError) as caught:
        from_url(url, prefix="")

    assert "secret" not in str(caught.value)
    assert url.partition(":")[0] in str(caught.value)


def test_time_outs() -> None:
    """Five seconds an operation and two for connecting, unless the URL says otherwise."""
    usual = settings_of_url("redis://host")
    chosen = settings_of_url("redis://host?socket_timeout=1.5&socket_connect_timeout=0.5")

    assert (usual.timeout, usual.connect_timeout) == (5.0, 2.0)
    assert (chosen.timeout, chosen.connect_timeout) == (1.5, 0.5)


def test_nothing_is_connected_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a backend does no I/O: the server may come later."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    backend = from_url("redis://localhost:1", prefix="")
    backend.close()


CLIENTS = ["blocking", "async", "pair", "decoding"]


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://host?no_such_option=1", "wrong: there is no option no_such_option$"),
        ("redis://host/zero", "wrong: 'zero' is no number of a database"),
    ],
)
def test_what_is_wrong_is_named(url: str, named: str) -> None:
    """In the words of the URL, not in those of the library that reads it."""
    with pytest.raises(ConfigurationError, match=named):
        settings_of_url(url)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_clients(kind: str, mode: Any, every_redis: RedisAt, prefix: str) -> None:
    """Any ready client serves both kinds of callers, whatever it does with its own replies."""
    blocking = redis.Redis.from_url(every_redis.url)
    asynchronous = redis.asyncio.Redis.from_url(every_redis.url)
    client: Any = {
        "blocking": blocking,
        "async": asynchronous,
        "pair": (asynchronous, blocking),
        "decoding": redis.Redis.from_url(every_redis.url, decode_responses=True, protocol=3),
    }[kind]
    run = Run(mode)
    backend = from_client(client, prefix=prefix)

    with run.closing(backend):
        locks = backend.require("locks")
        grant = run(locks.acquire("k", ttl=30, owner="ann"))
        assert run(locks.holder("k")).owner == "ann"
        assert run(locks.acquire("k", ttl=30, owner="bob")).fence == grant.fence
    run.close()


@pytest.mark.parametrize("client", [object(), (), (1, 2), redis.Redis, None])
def test_what_is_no_client(client: Any) -> None:
    """Anything else is refused at once."""
    with pytest.raises(ConfigurationError, match=r"no redis\.Redis"):
        settings_of_client(client)


def test_a_client_for_one_kind_of_callers() -> None:
    """A handshake of the user's own cannot be guessed for the other kind."""
    client = redis.Redis(redis_connect_func=print)

    with pytest.raises(ConfigurationError, match="redis_connect_func"):
        from_client(client, prefix="")


def test_passwords_and_databases(run: Run) -> None:
    """Credentials and database of URL and client reach the server; a wrong one is for good."""
    with redis_server() as server:
        with server.client() as client:
            client.config_set("requirepass", "s3cret")
        place = f"127.0.0.1:{server.port}"
        good = from_url(f"redis://:s3cret@{place}/3", prefix="p:")
        bad = from_url(f"redis://:wrong@{place}/3", prefix="p:")
        with run.closing(good), run.closing(bad):
            run(good.require("locks").acquire("k", ttl=30))
            with redis.Redis(port=server.port, password="s3cret", db=3) as client:
                assert client.exists("p:lock:k")
            with pytest.raises(BackendError, match="refused access") as caught:
                run(bad.require("locks").acquire("k", ttl=30))
        assert not caught.value.transient
        assert "wrong" not in str(caught.value)
        none = from_url(f"redis://{place}", prefix="p:")
        with run.closing(none), pytest.raises(BackendError, match="refused access") as caught:
            run(none.require("locks").acquire("k", ttl=30))
        assert not caught.value.transient


def test_unix_sockets(run: Run) -> None:
    """The shortest way to a server on this machine."""
    with redis_server(unix_socket=True) as server:
        backend = from_url(server.unix_url, prefix="")
        with run.closing(backend):
            locks = backend.require("locks")
            run(locks.acquire("k", ttl=30, owner="ann"))
            waiter, address = run.listen(backend)
            run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
            run(locks.release("k", owner="ann"))
            assert run.wait(waiter, 5)


def test_an_unreachable_server(run: Run) -> None:
    """The error says which server, may pass, and has the client's own error as its cause."""
    port = free_port()
    backend = from_url(f"redis://:secret@localhost:{port}/0", prefix="")
    with run.closing(backend):
        with pytest.raises(BackendError, match=f"localhost:{port}/0 could not be re") as caught:
            run(backend.require("locks").acquire("k", ttl=30))
        assert caught.value.transient
        assert isinstance(caught.value.__cause__, redis.RedisError)
        assert "secret" not in str(caught.value)


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Any:
    """Runs plans for both kinds of callers."""
    run = Run(request.param)
    yield run
    run.close()
