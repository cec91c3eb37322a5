"""A subscribed connection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions as redis_errors

from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.settings import Settings
from resilient.engine.listening import Bell

__all__ = ["RedisSubscription"]

QUIET = 1.0
"""Seconds of silence after which the server is asked for a sign of life."""
ANSWER = 0.75
"""Seconds for it to give one: so a connection that leads nowhere is noticed well within two."""


class RedisSubscription:
    """`resilient.engine.listening.Subscription` over one of redis-py's connections."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Any = None
        self._asked: set[str] = set()
        self._pinged = False
        self._quiet_at = 0.0
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()

    def open(self, channels: set[str]) -> None:
        """Connect, subscribe and have that confirmed."""
        with self._translating():
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
            with self._translating():
                self._connection.send_command("SUBSCRIBE", *new)
            self._asked |= new

    def receive(self) -> Iterator[tuple[str, str]]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        with self._translating():
            if not self._connection.can_read(0):
                self._wait()
        while (message := self._next()) is not None:
            kind, *rest = message
            if kind == b"message":
                yield rest[0].decode(), rest[1].decode()
            elif kind == b"subscribe":
                self.confirmed |= {rest[0].decode()}

    def close(self) -> None:
        """Close the connection; redis-py does not shut down what another process opened."""
        connection, self._connection = self._connection, None
        self.confirmed = frozenset()
        self._asked = set()
        if connection is not None:
            connection.disconnect()

    def _next(self) -> list[Any] | None:
        with self._translating():
            if self._connection is None or not self._connection.can_read(0):
                return None
            message: list[Any] = self._connection.read_response()
            self._hear()
            return message

    def _wait(self) -> None:
        left = self._quiet_at - time.monotonic()
        if not self.bell.wait(left, self._connection._sock) and time.monotonic() >= self._quiet_at:
            self._ask_for_life()

    def _ask_for_life(self) -> None:
        if self._pinged:
            raise redis_errors.TimeoutError("the server gives no sign of life")
        self._connection.send_command("PING")
        self._pinged = True
        self._quiet_at = time.monotonic() + ANSWER

    def _hear(self) -> None:
        self._pinged = False
        self._quiet_at = time.monotonic() + QUIET

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (redis_errors.RedisError, OSError) as error:
            raise backend_error(self._settings.name, error) from error
