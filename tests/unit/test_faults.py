"""The proxy for network faults, in front of an echo server and of a real one."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from resilient.testing.faults import FaultProxy
from tests.support.servers import RedisAt, free_port
from tests.support.waiting import until


class Echo(socketserver.BaseRequestHandler):
    """Says `got ` and what it got."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                self.server.seen.append(data)  # type: ignore[attr-defined]  # ours
                self.request.sendall(b"got " + data)


class EchoServer(socketserver.ThreadingTCPServer):
    """An echo server that remembers what it was told."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.seen: list[bytes] = []

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    """A server that answers at once."""
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[FaultProxy]:
    """A proxy in front of it."""
    with FaultProxy(echo.address) as proxy:
        yield proxy


@contextlib.contextmanager
def connection(proxy: FaultProxy, timeout: float = 5) -> Iterator[socket.socket]:
    """A client of the proxy."""
    with socket.create_connection((proxy.host, proxy.port), timeout=timeout) as client:
        yield client


def ask(client: socket.socket, data: bytes) -> bytes:
    """One request and its reply."""
    client.sendall(data)
    return client.recv(65536)


def test_passes_bytes_both_ways_and_counts(proxy: FaultProxy) -> None:
    """Without a fault it is a wire, and it counts what passes."""
    with connection(proxy) as client:
        assert ask(client, b"one") == b"got one"
        assert ask(client, b"two") == b"got two"
        counts = proxy.counts
        assert (counts.connections, counts.open, counts.requests) == (1, 1, 2)
        assert (counts.request_bytes, counts.reply_bytes, counts.dropped) == (6, 14, 0)
    until(lambda: proxy.counts.open == 0)


def test_carries_much_data(proxy: FaultProxy) -> None:
    """Megabytes arrive whole and in order."""
    sent = bytes(range(256)) * 8192
    with connection(proxy) as client:
        threading.Thread(target=client.sendall, args=(sent,)).start()
        received = bytearray()
        while len(received.replace(b"got ", b"")) < len(sent):
            received += client.recv(1 << 20)
    assert received.replace(b"got ", b"") == sent


def test_dropped_reply_reached_the_server(proxy: FaultProxy, echo: EchoServer) -> None:
    """The server gets the request and the client a reset; the next request is well again."""
    proxy.drop_replies(1)
    with connection(proxy) as client, pytest.raises(ConnectionResetError):
        ask(client, b"lost")
    assert echo.seen == [b"lost"]
    assert proxy.counts.dropped == 1
    with connection(proxy) as client:
        assert ask(client, b"kept") == b"got kept"


def test_drops_as_many_replies_as_asked(proxy: FaultProxy) -> None:
    """Two replies are lost, the third arrives."""
    proxy.drop_replies(2)
    for _ in range(2):
        with connection(proxy) as client, pytest.raises(ConnectionResetError):
            ask(client, b"x")
    with connection(proxy) as client:
        assert ask(client, b"x") == b"got x"


def test_drops_only_what_the_predicate_names(proxy: FaultProxy, echo: EchoServer) -> None:
    """Other requests pass, before and between."""
    proxy.drop_reply_when(lambda request: request.startswith(b"release"))
    with connection(proxy) as client:
        assert ask(client, b"acquire") == b"got acquire"
        with pytest.raises(ConnectionResetError):
            ask(client, b"release")
    assert echo.seen == [b"acquire", b"release"]


def test_late_reply(proxy: FaultProxy, echo: EchoServer) -> None:
    """With latency on replies the server is done at once, and the client waits."""
    proxy.latency(0.2)
    with connection(proxy) as client:
        began = time.monotonic()
        client.sendall(b"x")
        until(lambda: echo.seen == [b"x"], seconds=0.15)
        assert client.recv(100) == b"got x"
        assert time.monotonic() - began >= 0.19


def test_late_request_outlives_its_client(proxy: FaultProxy, echo: EchoServer) -> None:
    """A request under way reaches the server, although the client has given up and closed."""
    proxy.latency(0.2, direction="request")
    with connection(proxy, timeout=0.05) as client, pytest.raises(TimeoutError):
        ask(client, b"late")
    assert echo.seen == []
    until(lambda: echo.seen == [b"late"])


def test_latency_keeps_the_order(proxy: FaultProxy) -> None:
    """What is sent after the latency ended does not overtake what is still under way."""
    proxy.latency(0.1)
    with connection(proxy) as client:
        client.sendall(b"1")
        until(lambda: proxy.counts.reply_bytes == 5)
        proxy.latency(0)
        client.sendall(b"2")
        received = b""
        while len(received) < 10:
            received += client.recv(100)
        assert received == b"got 1got 2"


def test_refuses_and_accepts_on_the_same_port(proxy: FaultProxy) -> None:
    """A refused connection is refused, open ones are reset, and later the port is the same."""
    port = proxy.port
    with connection(proxy) as client:
        assert ask(client, b"x") == b"got x"
        proxy.refuse()
        with pytest.raises(ConnectionError):
            ask(client, b"y")
            ask(client, b"z")
    with pytest.raises(ConnectionRefusedError), connection(proxy):
        pass
    proxy.accept()
    assert proxy.port == port
    with connection(proxy) as client:
        assert ask(client, b"x") == b"got x"


def test_refuses_only_new_connections(proxy: FaultProxy) -> None:
    """With `reset=False` those that are open go on."""
    with connection(proxy) as client:
        ask(client, b"x")
        proxy.refuse(reset=False)
        assert ask(client, b"y") == b"got y"


def test_blackhole_is_silence(proxy: FaultProxy, echo: EchoServer) -> None:
    """Nothing comes back; afterwards the connections that lost bytes are reset."""
    with connection(proxy) as untouched, connection(proxy, timeout=0.1) as silent:
        assert ask(untouched, b"x") == b"got x"
        proxy.blackhole()
        with pytest.raises(TimeoutError):
            ask(silent, b"y")
        proxy.restore()
        assert ask(untouched, b"z") == b"got z"
        with pytest.raises(ConnectionError):
            ask(silent, b"y")
            ask(silent, b"y")
    assert echo.seen == [b"x", b"z"]


def test_reset_all(proxy: FaultProxy) -> None:
    """Open connections are reset, new ones are accepted."""
    with connection(proxy) as client:
        ask(client, b"x")
        proxy.reset_all()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connection(proxy) as client:
        assert ask(client, b"x") == b"got x"


def test_restore_ends_every_fault(proxy: FaultProxy) -> None:
    """After `restore` the proxy is a wire again."""
    proxy.latency(5)
    proxy.drop_replies(9)
    proxy.refuse()
    proxy.restore()
    with connection(proxy) as client:
        assert ask(client, b"x") == b"got x"


def test_no_server_behind_it() -> None:
    """A client whose server is gone is reset."""
    with (
        FaultProxy(f"127.0.0.1:{free_port()}") as proxy,
        # Around the connection as well: the reset may come before `connect` has returned.
        pytest.raises(ConnectionResetError),
        connection(proxy) as client,
    ):
        client.recv(1)


def test_leaves_nothing_behind(echo: EchoServer) -> None:
    """After the block the thread is gone and the port is closed; stopping twice is fine."""
    with FaultProxy(echo.address) as proxy, connection(proxy) as client:
        ask(client, b"x")
        name = f"fault-proxy-{echo.server_address[1]}"
        assert name in {thread.name for thread in threading.enumerate()}
    proxy.stop()
    assert name not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError), connection(proxy):
        pass


def test_wrong_use_is_told() -> None:
    """An address without a port, an unknown direction, and a proxy that does not run."""
    with pytest.raises(ValueError, match="host and port"):
        FaultProxy("redis://localhost")
    proxy = FaultProxy("localhost:1")
    with pytest.raises(RuntimeError, match="not running"):
        proxy.reset_all()
    with pytest.raises(ValueError, match="direction"):
        proxy.latency(1, direction="sideways")  # type: ignore[arg-type]  # to be refused


def test_url_keeps_everything_but_the_address() -> None:
    """User, password, database and options stay; a client needs nothing else."""
    with FaultProxy("redis://me:s%40cret@localhost:1/3?socket_timeout=2") as proxy:
        expected = f"redis://me:s%40cret@127.0.0.1:{proxy.port}/3?socket_timeout=2"
        assert proxy.url == expected


def test_in_front_of_a_real_server(redis_server: RedisAt, prefix: str) -> None:
    """The write took effect although its reply was lost, and the client may try again."""
    key = f"{prefix}n"
    with FaultProxy(redis_server.url) as proxy:
        once = Retry(NoBackoff(), 0)
        with redis.Redis.from_url(proxy.url, retry=once) as client:
            client.set(key, 0, ex=60)
            proxy.drop_reply_when(lambda request: b"INCR" in request)
            with pytest.raises(redis.ConnectionError):
                client.incr(key)
            assert client.get(key) == b"1"
