"""A subscribed connection."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser

from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.lanes import is_sharded
from resilient.backends.redis.resp import UNFINISHED, new_reader, pack
from resilient.backends.redis.settings import Settings
from resilient.backends.redis.tracking import Tracking
from resilient.engine.listening import ANSWER, Bell, Silence
from resilient.errors import BackendError

__all__ = ["Heard", "RedisSubscription"]

READ_SIZE = 65_536
_MESSAGE = (b"message", b"smessage")
_SUBSCRIBED = (b"subscribe", b"ssubscribe")

Heard = tuple[str, str | None]


class RedisSubscription:
    """`resilient.engine.listening.Subscription` over one of redis-py's connections.

    That one connects; then its socket is spoken to directly, since whoever waits for a lock waits
    for all that is done here.

    Attributes:
        tracks: Whether the server tells of the changes of what is followed.

    Args:
        settings: How to connect.
        is_relied_on: Whether a connection that leads nowhere must be noticed soon.
        tracking: What to follow; where the server does not know how, its channel is confirmed and
            stays silent.
        bell: What interrupts the waiting; by default one of its own.
    """

    def __init__(
        self,
        settings: Settings,
        is_relied_on: Callable[[], bool],
        tracking: Tracking | None = None,
        bell: Bell | None = None,
    ) -> None:
        self._settings = settings
        self._tracking = tracking
        self.tracks = False
        self._can_ask: bool | None = None
        self._greets = False
        self._asking: deque[Callable[[Any], Heard | None]] = deque()  # who gets the answers
        self._connection: Any = None
        self._socket: Any = None
        self._reader = new_reader(BaseParser.parse_error)
        self._asked: set[str] = set()
        self._pinged = False
        self._silence = Silence(is_relied_on)
        self.bell = Bell() if bell is None else bell
        self.confirmed: frozenset[str] = frozenset()
        self.unheard: frozenset[str] = frozenset()

    def open(self, channels: set[str]) -> None:
        """Connect, subscribe and have that confirmed."""
        self._greets = self._tracking is not None and self._tracking.greets
        try:
            self._open(channels)
        except BackendError as error:
            if not self._ended_with_the_greeting(error):
                raise
            self.close()
            self._greets = False
            self._open(channels)
            if self._tracking is not None:
                self._tracking.greets = False

    def _open(self, channels: set[str]) -> None:
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
        new = channels - self._asked
        if not new:
            return
        asked = b""
        if self._tracking is not None:
            if self._greets and not self._asked:
                asked += self._greeting(self._tracking)
            if self._tracking.channel in new:
                if self._greets:
                    asked += self._following(self._tracking)
                else:
                    self.confirmed |= {self._tracking.channel}
                new.discard(self._tracking.channel)
        # Last: an error that answers no question is this one's.
        for channel in filter(is_sharded, new):  # each of another slot
            asked += pack(("SSUBSCRIBE", channel))
        if plain := [channel for channel in new if not is_sharded(channel)]:
            asked += pack(("SUBSCRIBE", *plain))
        if asked:
            with self._translating():
                self._socket.sendall(asked)
        self._asked |= channels

    def receive(self, *, waits: bool = True) -> Iterator[Heard]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        try:  # not `_translating`: whoever waits for a lock waits for this
            self._reader.feed(self._arrived(waits))
        except (redis_errors.RedisError, OSError) as error:
            raise backend_error(self._settings.name, error) from error
        while (message := self._reader.gets()) is not UNFINISHED:
            if not isinstance(message, list):  # of all questions, none is answered by a list
                if (heard := self._answered(message)) is not None:
                    yield heard
            elif message[0] in _MESSAGE:
                # Whoever may publish may send anything; of our own nothing has to be replaced.
                yield message[1].decode(), message[2].decode(errors="replace")
            elif message[0] in _SUBSCRIBED:
                self.confirmed |= {message[1].decode()}
            elif message[0] == b"sunsubscribe":
                raise BackendError(f"{self._settings.name}: the channel's slot has moved")
            elif message[0] == b"invalidate" and self._tracking is not None:
                if message[1] is None:
                    yield self._tracking.emptied, None
                else:
                    self._ask_about(self._tracking, message[1])

    def close(self) -> None:
        """Close the connection; redis-py does not shut down what another process opened."""
        connection, self._connection = self._connection, None
        self._socket = None
        self.confirmed = frozenset()
        self._asked = set()
        self._asking.clear()
        self.tracks = False
        if connection is not None:
            connection.disconnect()

    def _greeting(self, tracking: Tracking) -> bytes:
        """Asks to speak version 3: in version 2 who has subscribed can ask for nothing else."""

        def greeted(answer: Any) -> None:
            self._can_ask = not isinstance(answer, Exception)
            tracking.was_greeted = True

        self._can_ask = None
        self._asking.append(greeted)
        return pack(("HELLO", "3"))

    def _ended_with_the_greeting(self, error: BackendError) -> bool:
        """Whether a proxy may be the cause, which ends each connection that says `HELLO`."""
        is_unanswered = bool(self._asking) and self._can_ask is None
        is_late = isinstance(error.__cause__, (redis_errors.TimeoutError, TimeoutError))
        tracking = self._tracking
        return is_unanswered and not is_late and tracking is not None and not tracking.was_greeted

    def _following(self, tracking: Tracking) -> bytes:
        """Asks to be told of changes; an error, of whatever kind: that cannot be."""

        def begun(answer: Any) -> None:
            # In version 2 the server agrees, and says nothing ever.
            self.tracks = bool(self._can_ask) and not isinstance(answer, Exception)
            self.confirmed |= {tracking.channel}

        self._asking.append(begun)
        return pack(tracking.begin)

    def _ask_about(self, tracking: Tracking, names: Iterable[bytes]) -> None:
        asked = b""
        for name in names:
            subject = tracking.subject(name)
            if subject is not None:
                self._asking.append(partial(tracking.told, subject))
                asked += pack(tracking.question(name))
        if asked:
            with self._translating():
                self._socket.sendall(asked)

    def _answered(self, answer: Any) -> Heard | None:
        if self._asking:
            return self._asking.popleft()(answer)
        if isinstance(answer, Exception):
            raise backend_error(self._settings.name, answer) from answer
        return None

    def fileno(self) -> int:
        """The file on which something arrives."""
        number: int = self._socket.fileno()
        return number

    def patience(self) -> float:
        """Seconds for which nothing may arrive."""
        return self._silence.left()

    def _arrived(self, waits: bool) -> bytes:
        """Wait for what arrives; nothing, if it was the bell."""
        if not self.has_unread():
            what = self.bell.wait(self.patience() if waits else 0.0, self._socket.fileno())
            if what != "file":
                if not what and self._silence.is_suspicious():
                    self._ask_for_life()
                return b""
        return self._received()

    def _received(self) -> bytes:
        data: bytes = self._socket.recv(READ_SIZE)
        if not data:
            raise redis_errors.ConnectionError("Connection closed by server.")
        self._hear()
        return data

    def has_unread(self) -> bool:
        """Whether TLS keeps something for us, which no waiting on the socket would show."""
        pending = getattr(self._socket, "pending", None)
        return pending is not None and pending() > 0

    def _ask_for_life(self) -> None:
        if self._pinged:
            raise redis_errors.TimeoutError("the server gives no sign of life")
        if self._asking and self._can_ask is None:  # `open` waits for the greeting
            return
        if self._can_ask:  # else the answer is a list
            self._asking.append(lambda answer: None)
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
