"""A subscribed connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser

from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.resp import UNFINISHED, new_reader, pack
from resilient.backends.redis.settings import Settings
from resilient.engine.listening import ANSWER, Bell, Silence

__all__ = ["RedisSubscription"]

READ_SIZE = 65_536


class RedisSubscription:
    """`resilient.engine.listening.Subscription` over one of redis-py's connections.

    That one connects; then its socket is spoken to directly, since whoever waits for a lock waits
    for all that is done here.
    """

    def __init__(self, settings: Settings, is_relied_on: Callable[[], bool]) -> None:
        self._settings = settings
        self._connection: Any = None
        self._socket: Any = None
        self._reader = new_reader(BaseParser.parse_error)
        self._asked: set[str] = set()
        self._pinged = False
        self._silence = Silence(is_relied_on)
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()

    def open(self, channels: set[str]) -> None:
        """Connect, subscribe and have that confirmed."""
        with self._translating():
            self._connection = self._settings.connection()
            self._connection.connect()
            self._socket = self._connection._sock
            self._reader = new_reader(BaseParser.parse_error)
            self._hear()
            self.add(channels)
            deadline = time.monotonic() + self._settings.connect_timeout
            while not self.confirmed >= channels:
                for _ in self.receive():
                    pass  # meant for those who were told that something may be missed
                if time.monotonic() > deadline:
                    raise redis_errors.TimeoutError("the subscription was not confirmed")

    def add(self, channels: set[str]) -> None:
        """Subscribe what is not subscribed yet; the confirmation comes with `receive`."""
        if channels <= self._asked:
            return
        with self._translating():
            self._socket.sendall(pack(("SUBSCRIBE", *(channels - self._asked))))
        self._asked |= channels

    def receive(self) -> Iterator[tuple[str, str]]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        try:  # not `_translating`: whoever waits for a lock waits for this
            self._reader.feed(self._arrived())
        except (redis_errors.RedisError, OSError) as error:
            raise backend_error(self._settings.name, error) from error
        while (message := self._reader.gets()) is not UNFINISHED:
            if isinstance(message, Exception):
                raise backend_error(self._settings.name, message) from message
            if message[0] == b"message":
                yield message[1].decode(), message[2].decode()
            elif message[0] == b"subscribe":
                self.confirmed |= {message[1].decode()}

    def close(self) -> None:
        """Close the connection; redis-py does not shut down what another process opened."""
        connection, self._connection = self._connection, None
        self._socket = None
        self.confirmed = frozenset()
        self._asked = set()
        if connection is not None:
            connection.disconnect()

    def _arrived(self) -> bytes:
        """Wait for what arrives; nothing, if it was the bell."""
        if not self._has_decrypted():
            what = self.bell.wait(self._silence.left(), self._socket.fileno())
            if what != "file":
                if not what and self._silence.is_suspicious():
                    self._ask_for_life()
                return b""
        data: bytes = self._socket.recv(READ_SIZE)
        if not data:
            raise redis_errors.ConnectionError("Connection closed by server.")
        self._hear()
        return data

    def _has_decrypted(self) -> bool:
        """Whether TLS keeps something for us, which no waiting on the socket would show."""
        pending = getattr(self._socket, "pending", None)
        return pending is not None and pending() > 0

    def _ask_for_life(self) -> None:
        if self._pinged:
            raise redis_errors.TimeoutError("the server gives no sign of life")
        self._socket.sendall(pack(("PING",)))
        self._pinged = True
        self._silence.expect(ANSWER)

    def _hear(self) -> None:
        self._pinged = False
        self._silence.broken()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (redis_errors.RedisError, OSError) as error:
            raise backend_error(self._settings.name, error) from error
