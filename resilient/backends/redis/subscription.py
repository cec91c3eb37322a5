"""A subscribed connection, and a bell that others ring to interrupt its waiting."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from redis import exceptions as redis_errors

from resilient.backends.redis.settings import Settings

__all__ = ["Subscription"]

QUIET = 1.0
"""Seconds of silence after which the server is asked for a sign of life, and to give one: so a
connection that leads nowhere is noticed within two."""


class Subscription:
    """Used by one thread, but for `ring` and `confirmed`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Any = None
        self._asked: set[str] = set()
        self._pinged = False
        self._quiet_at = 0.0
        self._lock = threading.Lock()
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self.confirmed: frozenset[str] = frozenset()

    def ring(self) -> None:
        """Interrupt the waiting, from any thread."""
        with self._lock, contextlib.suppress(OSError):
            self._rope.send(b"!")  # full: it rings already; closed: nobody waits

    def open(self, channels: set[str]) -> None:
        """Connect, subscribe and have that confirmed."""
        self._connection = self._settings.connection()
        self._connection.connect()
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
        new = channels - self._asked
        if new:
            self._connection.send_command("SUBSCRIBE", *new)
            self._asked |= new

    def receive(self) -> Iterator[tuple[str, str]]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        if not self._connection.can_read(0):
            self._wait()
        while self._connection is not None and self._connection.can_read(0):
            kind, *rest = self._connection.read_response()
            self._hear()
            if kind == b"message":
                yield rest[0].decode(), rest[1].decode()
            elif kind == b"subscribe":
                self.confirmed |= {rest[0].decode()}

    def sleep(self, seconds: float) -> None:
        """Wait without a connection, or until the bell rings."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            if selector.select(seconds):
                self._silence()

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        self.confirmed = frozenset()
        self._asked = set()
        if connection is not None:
            connection.disconnect()

    def drop(self) -> None:
        """Close everything, for good."""
        self.close()
        with self._lock:
            self._bell.close()
            self._rope.close()

    def forget(self) -> None:
        """Close what a forked child has inherited, and its parent goes on with."""
        self._lock = threading.Lock()  # the parent may have held it in the moment of the fork
        self.drop()

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._bell, selectors.EVENT_READ)
            selector.register(self._connection._sock, selectors.EVENT_READ)
            ready = selector.select(max(0.0, self._quiet_at - time.monotonic()))
        if any(key.fileobj is self._bell for key, _ in ready):
            self._silence()
        if not ready and time.monotonic() >= self._quiet_at:
            self._ask_for_life()

    def _ask_for_life(self) -> None:
        if self._pinged:
            raise redis_errors.TimeoutError("the server gives no sign of life")
        self._connection.send_command("PING")
        self._pinged = True
        self._quiet_at = time.monotonic() + QUIET

    def _hear(self) -> None:
        self._pinged = False
        self._quiet_at = time.monotonic() + QUIET

    def _silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)
