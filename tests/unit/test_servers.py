"""The servers that the tests start."""

from __future__ import annotations

import pytest
import redis

from tests.support.fixtures import TARGETS, Target
from tests.support.servers import Flavour, RedisAt, RedisServer, flavours, redis_server


@pytest.mark.parametrize("flavour", flavours())
def test_server_starts_and_ends(flavour: Flavour) -> None:
    """Each flavour answers on a port of its own, and is gone afterwards."""
    with redis_server(flavour, unix_socket=True) as server:
        with server.client() as client:
            assert client.ping()
        with redis.Redis.from_url(server.unix_url) as client:
            assert client.ping()
        directory = server.directory
    assert not server.running
    assert not directory.exists()


@pytest.mark.process
def test_killed_server_restarts_with_its_data(private_redis: RedisServer) -> None:
    """A write that was acknowledged survives SIGKILL, on the same port."""
    with private_redis.client() as client:
        client.set("k", "v")
        port, pid = private_redis.port, private_redis.pid
        private_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("k")
        private_redis.start()
        assert (private_redis.port, client.get("k")) == (port, b"v")
        assert private_redis.pid != pid


@pytest.mark.process
def test_paused_server_does_not_answer(private_redis: RedisServer) -> None:
    """A paused server lets its clients wait, and answers when it goes on."""
    with private_redis.client(socket_timeout=0.1, retry=None) as client:
        client.set("k", "v")
        with private_redis.paused(), pytest.raises(redis.TimeoutError):
            client.get("k")
        assert client.get("k") == b"v"


def test_round_trips_are_counted(redis_server: RedisAt) -> None:
    """One command is one round trip, and so is one script of many commands."""
    with redis_server.client() as client:
        client.ping()
        with redis_server.round_trips() as trips:
            client.get("nothing")
            client.eval("for i = 1, 10 do redis.call('GET', KEYS[1]) end", 1, "nothing")
        assert trips.count == 2


def test_session_servers_answer(every_redis: RedisAt, prefix: str) -> None:
    """The session's servers are there, for each flavour."""
    with every_redis.client() as client:
        assert client.set(f"{prefix}k", "v", px=1000)


def test_targets_are_complete(target: Target, shared_target: Target) -> None:
    """Each target names a URL and a prefix that is a test's own."""
    assert target.url.startswith(target.kind)
    assert target.prefix == shared_target.prefix
    assert shared_target.kind in TARGETS
