"""What carries the bytes of a proxied connection: each piece in its order, and when it is due."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable

__all__ = ["Link"]

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: `close` sends RST instead of FIN."""


class Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = (reader, writer)
        self._server_writer: asyncio.StreamWriter | None = None
        self.to_client = Lane(writer)
        self.to_server: Lane
        self.lost_bytes = False
        self.dropping = False

    async def run(
        self,
        host: str | None,
        port: int | None,
        requested: Callable[[Link, bytes], None],
        replied: Callable[[Link, bytes], None],
    ) -> None:
        """Carry bytes until one side ends, then what is still under way, then end the other.

        Args:
            host: Where the server is.
            port: And its port.
            requested: What becomes of a piece from the client.
            replied: What becomes of a piece from the server.
        """
        client_reader, _ = self._client
        server_reader, self._server_writer = await asyncio.open_connection(host, port)
        self.to_server = Lane(self._server_writer)
        forth = asyncio.ensure_future(self._carry(client_reader, requested, self.to_server))
        back = asyncio.ensure_future(self._carry(server_reader, replied, self.to_client))
        try:
            done, _ = await asyncio.wait((forth, back), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            forth.cancel()
            back.cancel()
            await asyncio.gather(forth, back, return_exceptions=True)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        received: Callable[[Link, bytes], None],
        lane: Lane,
    ) -> None:
        delivery = asyncio.ensure_future(lane.deliver())
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(CHUNK):
                    received(self, data)
            # What was sent before the end arrives, as it would: a client that gave up and closed
            # its connection does not take back a request that is still under way.
            lane.end()
            with contextlib.suppress(OSError):
                await delivery
        finally:
            delivery.cancel()

    def reset(self) -> None:
        """RST to the client; what is under way is lost."""
        _, writer = self._client
        raw: socket.socket | None = writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        if self._server_writer is not None:
            self._server_writer.transport.abort()

    def close(self) -> None:
        """End both connections in an orderly way; nothing happens after `reset`."""
        self._client[1].close()
        if self._server_writer is not None:
            self._server_writer.close()


class Lane:
    """One direction of a link: delivers in order, each piece when it is due."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    def send(self, data: bytes, delay: float) -> None:
        """Deliver it `delay` seconds from now, or when those before it have been delivered."""
        self._under_way.append((asyncio.get_running_loop().time() + delay, data))
        self._changed.set()

    def end(self) -> None:
        """Nothing more comes: `deliver` returns when it has delivered what is under way."""
        self._ended = True
        self._changed.set()

    async def deliver(self) -> None:
        """Write what is due, until the end."""
        loop = asyncio.get_running_loop()
        while True:
            while self._under_way:
                due, data = self._under_way.popleft()
                if (wait := due - loop.time()) > 0:
                    await asyncio.sleep(wait)
                self._writer.write(data)
                await self._writer.drain()
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()
