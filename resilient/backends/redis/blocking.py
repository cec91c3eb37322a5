"""Connections for blocking callers: a stack of idle ones, the warmest on top.

redis-py's own client spends more time in Python than the server and the network together; its
connections, spoken to directly, do not. There is no limit to how many are in use, so that nobody is
refused, and a small one to how many lie idle.
"""

from __future__ import annotations

import time
from typing import Any

from redis import exceptions as redis_errors

from resilient.backends.redis.failures import is_connection_lost
from resilient.backends.redis.settings import Connection, Settings
from resilient.engine.budget import remaining
from resilient.engine.forks import forget_in_child

__all__ = ["Blocking"]

MAX_IDLE = 32
LOOK_AFTER = 1.0
"""Seconds of idleness after which a connection is looked at before it is used."""


class Blocking:
    """Sends packed commands and blocks for their replies. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[tuple[Connection, float]] = []
        forget_in_child(self._forget)

    def exchange(self, packed: bytes, replies: int, repeatable: bool) -> list[Any]:
        """The replies to what is sent; an error reply is an exception among them.

        Raises:
            redis.RedisError: The connection failed, or there was no answer in time.
        """
        connection = self._warm()
        if connection is not None:
            try:
                return self._speak(connection, packed, replies)
            except (redis_errors.ConnectionError, redis_errors.TimeoutError) as error:
                # It may have led nowhere for long, and the others with it.
                self.close()
                if not (repeatable and is_connection_lost(error)):
                    raise
        connection = self._settings.connection()
        try:
            _limit_connecting(connection)
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return self._speak(connection, packed, replies)

    def close(self) -> None:
        """Close the idle connections; those in use are closed or kept by their users."""
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.disconnect()

    def _warm(self) -> Connection | None:
        while self._idle:
            try:
                connection, since = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - since < LOOK_AFTER or _is_quiet(connection):
                return connection
            connection.disconnect()
        return None

    def _speak(self, connection: Connection, packed: bytes, replies: int) -> list[Any]:
        answers: list[Any] = []
        try:
            self._limit(connection)
            connection.send_packed_command([packed], check_health=False)
            for _ in range(replies):
                try:
                    answers.append(connection.read_response())
                except redis_errors.ResponseError as error:
                    answers.append(error)
        except BaseException:
            # Interrupted between question and answer: the next user would get this answer.
            connection.disconnect()
            raise
        if len(self._idle) < MAX_IDLE:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.disconnect()
        return answers

    def _limit(self, connection: Any) -> None:
        """Wait for each reply no longer than the caller's budget allows."""
        left = _left()
        seconds = self._settings.timeout if left is None else min(left, self._settings.timeout)
        if connection._sock.gettimeout() != seconds:
            connection._sock.settimeout(seconds)

    def _forget(self) -> None:
        # redis-py closes, and does not shut down, what another process opened.
        self._idle = []


def _limit_connecting(connection: Any) -> None:
    """Connect within the caller's budget."""
    left = _left()
    if left is not None:
        connection.socket_connect_timeout = min(left, connection.socket_connect_timeout)
        connection.socket_timeout = min(left, connection.socket_timeout)


def _left() -> float | None:
    left = remaining()
    if left == 0:
        raise redis_errors.TimeoutError("the caller's budget is spent")
    return left


def _is_quiet(connection: Connection) -> bool:
    """Whether nothing has arrived unasked: the end of the connection, mostly."""
    try:
        return not connection.can_read(0)
    except (redis_errors.RedisError, OSError):
        return False
