"""A TCP proxy that does to a connection what networks do.

    with FaultProxy("redis://localhost:6379/0") as proxy:
        client = redis.Redis.from_url(proxy.url)
        proxy.drop_reply_when(lambda request: b"EVALSHA" in request)
        ...

It knows nothing of the protocol that passes through it. A *request* is what arrives from the client
in one piece: the whole of a command, or of a pipeline, that is not much longer than 64 KiB.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from resilient.testing.links import Link

__all__ = ["Direction", "FaultProxy", "ProxyCounts"]

Direction = Literal["request", "reply"]


@dataclass(frozen=True)
class ProxyCounts:
    """What has passed through a `FaultProxy` since it was started."""

    connections: int
    """Connections that were accepted."""
    open: int
    """Those of them that are open now."""
    requests: int
    """Pieces received from clients."""
    request_bytes: int
    """Bytes received from clients."""
    reply_bytes: int
    """Bytes received from the server, lost ones included."""
    dropped: int
    """Replies that were swallowed."""


T = TypeVar("T")


@dataclass
class _Drop:
    """A standing order to lose the replies of the next `times` requests that match."""

    matches: Callable[[bytes], bool]
    times: int


class FaultProxy:
    """Stands in front of one server, on a port of its own, until the block is left.

    The proxy runs in a daemon thread. Its controls may be called from any thread, and from
    coroutines: they return when they have taken effect, after microseconds.

    Args:
        upstream: the server: a URL (`"redis://localhost:6379/0"`) or `"host:port"`.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream if "://" in upstream else f"//{upstream}")
        if self._upstream.hostname is None or self._upstream.port is None:
            raise ValueError(f"a server's URL with host and port is needed, not {upstream!r}")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._server: asyncio.Server | None = None
        self._reservation: socket.socket | None = None
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._port = 0
        # The faults in force; read and written in the proxy's thread only.
        self._delay = {"request": 0.0, "reply": 0.0}
        self._drops: list[_Drop] = []
        self._swallowing = False
        # The counters.
        self._accepted = self._requests = self._request_bytes = 0
        self._reply_bytes = self._dropped = 0

    # --- start and stop

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to accept connections; `with` does it."""
        if self._loop is not None:
            raise RuntimeError("the proxy is running already")
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=loop.run_forever, name=f"fault-proxy-{self._upstream.port}", daemon=True
        )
        self._thread.start()
        try:
            self._do(self._listen())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Reset what is open and end; a second call does nothing."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._do(self._shut_down())
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    # --- where it is

    @property
    def host(self) -> str:
        """Where the proxy listens: `"127.0.0.1"`."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The proxy's own port; the same from `start` to `stop`."""
        return self._port

    @property
    def url(self) -> str:
        """The server's URL with the proxy's address in it."""
        user, at, _ = self._upstream.netloc.rpartition("@")
        return urlunsplit(self._upstream._replace(netloc=f"{user}{at}{self.host}:{self.port}"))

    # --- faults

    def latency(self, seconds: float, *, direction: Direction = "reply") -> None:
        """Deliver every request or reply later; it does not lower the bandwidth.

        Args:
            seconds: how much later; 0 ends it.
            direction: `"reply"`: the server is done long before the client knows. `"request"`: the
                server gets to see the request only then.
        """
        if direction not in self._delay:
            raise ValueError(f"direction is 'request' or 'reply', not {direction!r}")
        self._do(self._set_delay(direction, float(seconds)))

    def drop_replies(self, n: int = 1) -> None:
        """Lose the replies of the next `n` requests, whatever they are.

        Each of them reaches the server. When its reply comes back it is thrown away and the
        connection is reset: the client never learns that the server did what it asked. A handshake
        is a request too; `drop_reply_when` is more exact.
        """
        self.drop_reply_when(lambda request: True, times=n)

    def drop_reply_when(self, predicate: Callable[[bytes], bool], *, times: int = 1) -> None:
        """Lose the replies of the next requests for which the predicate holds.

        Args:
            predicate: called in the proxy's thread with the bytes of each request.
            times: how many replies are lost before all goes on as usual.
        """
        self._do(self._add_drop(_Drop(predicate, times)))

    def blackhole(self) -> None:
        """Accept connections and bytes, and lose them all, until `restore`.

        Clients notice nothing but silence: their time-outs are what is tested.
        """
        self._do(self._swallow())

    def refuse(self, *, reset: bool = True) -> None:
        """Refuse new connections, as a stopped server does, until `accept` or `restore`.

        Args:
            reset: also reset the connections that are open.
        """
        self._do(self._refuse(reset))

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        self._do(self._listen())

    def reset_all(self) -> None:
        """Reset (RST) every connection that is open now; new ones are accepted."""
        self._do(self._reset_links())

    def restore(self) -> None:
        """End all faults. Connections that have lost bytes are reset, others stay open."""
        self._do(self._restore())

    # --- what happened

    @property
    def counts(self) -> ProxyCounts:
        """What has passed through so far."""
        return ProxyCounts(
            connections=self._accepted,
            open=len(self._links),
            requests=self._requests,
            request_bytes=self._request_bytes,
            reply_bytes=self._reply_bytes,
            dropped=self._dropped,
        )

    # --- inside, all in the proxy's thread

    def _do(self, step: Coroutine[Any, Any, T]) -> T:
        if self._loop is None or threading.current_thread() is self._thread:
            step.close()
            raise RuntimeError(
                "the proxy is not running: use it in a with statement"
                if self._loop is None
                else "a predicate may not use the proxy's controls"
            )
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        if self._port == 0 and sys.platform == "linux":
            self._port = self._reserve()
        self._server = await asyncio.start_server(
            self._serve, self.host, self._port, reuse_address=True
        )
        self._port = self._server.sockets[0].getsockname()[1]

    def _reserve(self) -> int:
        # A socket that is bound and does not listen keeps the port ours while connections are
        # refused: without it, any outgoing connection on this machine may be given the port.
        # Elsewhere than on Linux two sockets cannot share a port like this; there we take the risk.
        self._reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind((self.host, 0))
        return int(self._reservation.getsockname()[1])

    async def _refuse(self, reset: bool) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if reset:
            await self._reset_links()

    async def _set_delay(self, direction: Direction, seconds: float) -> None:
        self._delay[direction] = seconds

    async def _add_drop(self, drop: _Drop) -> None:
        self._drops.append(drop)

    async def _swallow(self) -> None:
        self._swallowing = True

    async def _restore(self) -> None:
        self._swallowing = False
        self._drops.clear()
        for link in self._links:
            link.dropping = False
        self._delay.update(request=0.0, reply=0.0)
        for link in [link for link in self._links if link.lost_bytes]:
            link.reset()
        await self._listen()

    async def _reset_links(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _shut_down(self) -> None:
        await self._refuse(reset=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._accepted += 1
        link = Link(reader, writer)
        self._links.add(link)
        try:
            await link.run(
                self._upstream.hostname, self._upstream.port, self._requested, self._replied
            )
        except OSError:
            link.reset()  # the server is not there: as near to a refusal as we can still come
        except asyncio.CancelledError:
            pass  # only `stop` cancels; asyncio's streams would log it
        finally:
            self._links.discard(link)
            link.close()

    def _requested(self, link: Link, data: bytes) -> None:
        self._requests += 1
        self._request_bytes += len(data)
        if self._swallowing:
            link.lost_bytes = True
            return
        if link.dropping:
            return  # it would have been sent after the reset
        for drop in self._drops:
            if drop.matches(data):
                link.dropping = True
                drop.times -= 1
                if drop.times <= 0:
                    self._drops.remove(drop)
                break
        link.to_server.send(data, self._delay["request"])

    def _replied(self, link: Link, data: bytes) -> None:
        self._reply_bytes += len(data)
        if self._swallowing:
            link.lost_bytes = True
        elif link.dropping:
            self._dropped += 1
            link.reset()
        else:
            link.to_client.send(data, self._delay["reply"])
