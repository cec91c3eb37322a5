"""Values at hand of a process that the server tells of every change, whoever made it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import resilient
from resilient import LocalCache, cached
from resilient.backends.redis import from_url
from resilient.engine.drivers.sync import drive
from resilient.testing.faults import FaultProxy
from tests.support.modes import Mode
from tests.support.servers import RedisAt, RedisServer, binary, flavours, free_port
from tests.support.waiting import soon

OPTIONS: dict[str, Any] = {
    "ttl": 600,
    "local": LocalCache(ttl=600),
    "backend_timeout": "10s",  # a busy machine is no backend that is away
}


class Source:
    """What the cached functions of these tests return, and how often they were called."""

    def __init__(self) -> None:
        self.value = "old"
        self.calls = 0

    async def read(self, n: int) -> str:
        """The function."""
        self.calls += 1
        return self.value


@pytest.fixture
def source() -> Source:
    """A new one."""
    return Source()


@pytest.fixture(autouse=True)
def _backend(every_redis: RedisAt, prefix: str) -> Iterator[None]:
    with resilient.using(every_redis.url, prefix=prefix):
        yield


def kept(mode: Mode, source: Source, **options: Any) -> Callable[..., Any]:
    """A cached function whose value is at hand, and stays there."""
    f = mode.decorate(cached("{n}", namespace="f", **OPTIONS, **options), source.read)
    assert [mode.call(f, 1), mode.call(f, 1)] == ["old", "old"]
    source.value = "new"
    return f


def settled(f: Callable[..., Any]) -> None:
    """Wait until the changes that were made so far have been heard of."""
    stats = cached.of(f).stats()
    assert stats.coherence == "tracking"
    time.sleep(0.05)


WAYS: dict[str, Callable[[Any, str], object]] = {
    "SET": lambda client, name: client.set(name, "x"),
    "SET of as much": lambda client, name: client.set(name, b"1" * 200),
    "DEL": lambda client, name: client.delete(name),
    "another type": lambda client, name: (client.delete(name), client.hset(name, "a", "b")),
    "expiry": lambda client, name: expired(client, name),
}


def expired(client: Any, name: str) -> None:
    """Let a record expire, and the server notice: among many others that takes its time."""
    client.pexpire(name, 1)
    while client.exists(name):
        time.sleep(0.001)


@pytest.mark.parametrize("way", WAYS)
def test_what_others_do_is_heard(
    mode: Mode, source: Source, every_redis: RedisAt, prefix: str, way: str
) -> None:
    """A record that another client writes, removes or lets expire is at hand no more."""
    f = kept(mode, source)
    settled(f)
    name = f"{prefix}cache:{cached.of(f).key(1)}"
    with every_redis.client() as client:
        assert client.exists(name) == 1
        WAYS[way](client, name)
    assert soon(lambda: cached.of(f).stats().local_size == 0)
    assert mode.call(f, 1) == "new"
    assert cached.of(f).stats().backend_errors == 0


@pytest.mark.parametrize("command", ["FLUSHDB", "FLUSHALL"])
def test_a_flush_is_heard(private_redis: RedisServer, source: Source, command: str) -> None:
    """A server that has lost everything is believed to have lost everything."""
    with resilient.using(private_redis.url), Mode("sync") as mode:
        f = kept(mode, source)
        settled(f)
        with private_redis.client() as client:
            client.execute_command(command)
        assert soon(lambda: cached.of(f).stats().local_size == 0)
        assert mode.call(f, 1) == "new"


def test_a_lost_tag_is_heard(mode: Mode, source: Source, every_redis: RedisAt, prefix: str) -> None:
    """What was evicted with a tag may have been its invalidation: a miss."""
    f = kept(mode, source, tags=("t",))
    settled(f)
    with every_redis.client() as client:
        assert client.delete(f"{prefix}cache-tag:t") == 1
    assert soon(lambda: cached.of(f).stats().local_size == 0)
    assert mode.call(f, 1) == "new"


def test_what_we_compute_is_no_news(mode: Mode, source: Source) -> None:
    """A value that was computed here stays at hand, though the server tells of it."""
    numbers = range(50)
    f = mode.decorate(cached("{n}", tags=("t:{n}",), **OPTIONS), source.read)
    for n in numbers:
        mode.call(f, n)
    settled(f)
    before = cached.of(f).stats()
    assert (before.local_size, before.computed) == (len(numbers), len(numbers))
    for n in numbers:
        mode.call(f, n)
    assert cached.of(f).stats().local_hits - before.local_hits == len(numbers)


def test_what_a_batch_computes_is_no_news(mode: Mode, every_redis: RedisAt) -> None:
    """The same for its values, which are asked of nobody afterwards."""

    async def f(ids: list[int]) -> dict[int, str]:
        return dict.fromkeys(ids, "value")

    f = mode.decorate(cached.batch("{ids}", key_arg="ids", **OPTIONS), f)
    mode.call(f, [0])
    mode.call(f, list(range(20)))
    time.sleep(0.05)
    with every_redis.round_trips() as trips:
        assert len(mode.call(f, list(range(20)))) == 20
    assert trips.count == 0


@pytest.mark.parametrize("key", ["{acme}:7", "50%{", "ü \n", "x" * 300])
def test_whatever_the_key(every_redis: RedisAt, prefix: str, key: str) -> None:
    """A record's name is read as it was written: with hash tags, escapes, or hashed."""

    @cached("{key}", namespace="f", **OPTIONS)
    def f(key: str) -> str:
        return key

    assert [f(key), f(key)] == [key, key]
    settled(f)
    assert cached.of(f).stats().local_size == 1, "its own fill is no news"
    with every_redis.client() as client:
        [name] = client.keys(f"{prefix}cache:*")
        client.delete(name)
    assert soon(lambda: cached.of(f).stats().local_size == 0)


def hears_broadcasts(url: str, prefix: str, source: Source) -> None:
    """A process that is not told of changes hears what this library broadcasts."""
    with resilient.using(url, prefix=prefix), Mode("sync") as mode:
        f = kept(mode, source)
        stats = cached.of(f).stats()
        assert (stats.coherence, stats.max_staleness) == ("broadcast", 2.0)
        other = from_url(url, prefix=prefix)
        drive(other.require("cache").delete(cached.of(f).key(1)))
        other.close()
        assert soon(lambda: cached.of(f).stats().local_size == 0)
        assert mode.call(f, 1) == "new"


def test_a_user_who_may_not_be_told(every_redis: RedisAt, prefix: str, source: Source) -> None:
    """Who may not run `CLIENT TRACKING` is served as before."""
    user = f"user-{prefix[:-1]}"
    with every_redis.client() as client:
        client.acl_setuser(
            user, enabled=True, passwords=["+pw"], keys=["*"], channels=["*"],
            commands=["+@all", "-client|tracking"],
        )  # fmt: skip
    hears_broadcasts(every_redis.url.replace("redis://", f"redis://{user}:pw@"), prefix, source)


def test_a_server_of_another_age(tmp_path: Path, prefix: str, source: Source) -> None:
    """A server, or a proxy before it, that knows no `HELLO` speaks version 2 of the protocol."""
    port, program = free_port(), binary(flavours()[0])
    options = ("--port", str(port), "--save", "", "--rename-command", "HELLO", "")
    with subprocess.Popen([str(program), *options], cwd=tmp_path, stdout=subprocess.DEVNULL) as own:
        try:
            with redis.Redis(port=port, protocol=2) as client:
                assert soon(lambda: answers(client), 10)
            hears_broadcasts(f"redis://localhost:{port}", prefix, source)
        finally:
            own.terminate()


def test_a_proxy_that_ends_who_says_hello(
    every_redis: RedisAt, prefix: str, source: Source
) -> None:
    """The next connection does not say it, nor does any later one: all else is heard."""
    greetings: list[bytes] = []

    def is_greeting(request: bytes) -> bool:
        if b"HELLO" in request:
            greetings.append(request)
        return b"HELLO" in request

    with FaultProxy(every_redis.url) as proxy:
        proxy.drop_reply_when(is_greeting, times=1_000_000)
        hears_broadcasts(proxy.url, prefix, source)
        assert len(greetings) == 1
        with resilient.using(proxy.url, prefix=prefix) as backend:
            heard: list[str | None] = []
            for number in range(3):
                backend.hub.listen("cache", heard.append)
                drive(backend.require("cache").delete(str(number)))
                assert soon(lambda: heard[-1:] == [str(number)])  # noqa: B023 - called at once
                proxy.reset_all()
                assert soon(lambda: heard[-1:] == [None])
    assert len(greetings) == 2


def test_a_server_that_has_been_greeted_is_greeted_again(
    mode: Mode, source: Source, every_redis: RedisAt, prefix: str
) -> None:
    """A connection that ends in that moment is only lost: the next one tells of changes again."""
    with FaultProxy(every_redis.url) as proxy, resilient.using(proxy.url, prefix=prefix):
        f = kept(mode, source)
        settled(f)
        proxy.drop_reply_when(lambda request: b"HELLO" in request)
        proxy.reset_all()
        assert soon(lambda: proxy.counts.dropped == 1)
        assert soon(lambda: cached.of(f).stats().coherence == "tracking")


def answers(client: redis.Redis) -> bool:
    """Whether a server has started."""
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_one_connection_hears_all(every_redis: RedisAt, prefix: str, source: Source) -> None:
    """Wake-ups, broadcasts and changes come on one; no changes where no values are at hand."""
    with every_redis.client() as client, Mode("sync") as mode:

        def listening() -> list[bool]:
            """Of each connection that has subscribed, whether it is told of changes."""
            found: Any = client.client_list()
            return ["t" in each["flags"] for each in found if int(each["sub"]) > 0]

        before = len(listening())
        f = mode.decorate(cached("{n}", ttl=600, local=None), source.read)
        mode.call(f, 1)
        source.value, source.calls = "old", 0
        assert listening().count(True) == 0
        assert len(listening()) == before + 1
        kept(mode, source)
        assert listening().count(True) == 1
        assert len(listening()) == before + 1
