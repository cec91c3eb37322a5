"""Connections for blocking callers: a stack of idle ones, the warmest on top.

redis-py's own client spends more time in Python than the server and the network together. So its
connections connect, and from then on their sockets are spoken to directly. There is no limit to how
many are in use, so that nobody is refused, and a small one to how many lie idle.
"""

from __future__ import annotations

import time
from contextlib import suppress
from socket import socket
from typing import Any

from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser

from resilient.backends.redis.failures import is_connection_lost, is_demoted
from resilient.backends.redis.resp import UNFINISHED, new_reader
from resilient.backends.redis.settings import Connection, Settings
from resilient.engine.budget import remaining
from resilient.engine.forks import forget_in_child

__all__ = ["Blocking"]

MAX_IDLE = 32
LOOK_AFTER = 1.0
"""Seconds of idleness after which a connection is looked at before it is used."""
READ_SIZE = 65_536


class _Line:
    """One connection, and what has arrived on it."""

    __slots__ = ("_connection", "_reader", "_socket", "_timeout", "used")

    def __init__(self, connection: Any) -> None:
        self._connection: Connection = connection
        self._socket: socket = connection._sock
        self._timeout = self._socket.gettimeout()
        self._reader = new_reader(BaseParser.parse_error)
        self.used = 0.0

    def exchange(self, packed: bytes, replies: int, patience: float) -> list[Any]:
        """Send, and wait for each reply no longer than so many seconds."""
        answers: list[Any] = []
        reader = self._reader
        try:
            if self._timeout != patience:
                self._socket.settimeout(patience)
                self._timeout = patience
            self._socket.sendall(packed)
            while len(answers) < replies:
                reader.feed(self._arrived())
                while (answer := reader.gets()) is not UNFINISHED:
                    if isinstance(answer, Exception) and _is_useless(answer):
                        raise answer
                    answers.append(answer)
            if len(answers) > replies:
                raise redis_errors.ConnectionError("more replies than questions")
        except TimeoutError as error:
            raise redis_errors.TimeoutError("Timeout reading from socket") from error
        except OSError as error:
            raise redis_errors.ConnectionError(str(error)) from error
        self.used = time.monotonic()
        return answers

    def is_warm(self) -> bool:
        """Whether it was used a moment ago."""
        return time.monotonic() - self.used < LOOK_AFTER

    def is_alive(self) -> bool:
        """Whether, after a while without use, nothing has arrived: the connection's end, mostly."""
        try:
            return not self._connection.can_read(0)
        except (redis_errors.RedisError, OSError):
            return False

    def close(self) -> None:
        """Close the socket; in a forked child without shutting it down."""
        self._connection.disconnect()

    def _arrived(self) -> bytes:
        data = self._socket.recv(READ_SIZE)
        if not data:
            raise redis_errors.ConnectionError("Connection closed by server.")
        return data


class Blocking:
    """Sends packed commands and blocks for their replies. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[_Line] = []
        forget_in_child(self._forget)

    def exchange(self, packed: bytes, replies: int, repeatable: bool) -> list[Any]:
        """The replies to what is sent; an error reply is an exception among them.

        Raises:
            redis.RedisError: The connection failed, or there was no answer in time.
        """
        line = self._warm()
        if line is not None:
            try:
                return self._speak(line, packed, replies)
            except redis_errors.RedisError as error:
                # It may have led nowhere for long, and the others with it.
                self.close()
                if not (repeatable and (is_connection_lost(error) or is_demoted(error))):
                    raise
        return self._speak(self._connected(), packed, replies)

    def relax(self, *, keep: int) -> None:
        """Close the connections that were idle for a while, but for so many."""
        with suppress(IndexError):  # another thread has taken it
            while len(self._idle) > keep and not self._idle[0].is_warm():
                self._idle.pop(0).close()

    def close(self) -> None:
        """Close the idle connections; those in use are closed or kept by their users."""
        idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _warm(self) -> _Line | None:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            # Warm, which most are, without a call: whoever waits for a lock waits for its release.
            if time.monotonic() - line.used < LOOK_AFTER or line.is_alive():
                return line
            line.close()
        return None

    def _connected(self) -> _Line:
        connection = self._settings.connection()
        try:
            _limit_connecting(connection)
            connection.connect()
            return _Line(connection)
        except BaseException:
            connection.disconnect()
            raise

    def _speak(self, line: _Line, packed: bytes, replies: int) -> list[Any]:
        try:
            left, patience = remaining(), self._settings.timeout
            if left is not None:
                patience = min(_some(left), patience)
            answers = line.exchange(packed, replies, patience)
        except BaseException:
            # Interrupted between question and answer: the next user would get this answer.
            line.close()
            raise
        if len(self._idle) < MAX_IDLE:
            self._idle.append(line)
        else:
            line.close()
        return answers

    def _forget(self) -> None:
        # redis-py closes, and does not shut down, what another process opened.
        self._idle = []


def _is_useless(answer: Exception) -> bool:
    """Whether it is the answer of a server that starts, or is no primary any more."""
    return isinstance(answer, redis_errors.ConnectionError) or is_demoted(answer)


def _limit_connecting(connection: Any) -> None:
    """Connect within the caller's budget."""
    left = remaining()
    if left is not None:
        left = _some(left)
        connection.socket_connect_timeout = min(left, connection.socket_connect_timeout)
        connection.socket_timeout = min(left, connection.socket_timeout)


def _some(left: float) -> float:
    """What is left of the caller's budget, if anything is."""
    if left == 0:
        raise redis_errors.TimeoutError("the caller's budget is spent")
    return left
