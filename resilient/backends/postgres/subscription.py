"""A connection that listens."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from resilient.backends.postgres.blocked import driven
from resilient.backends.postgres.failures import ConnectionLost, Refused, raised
from resilient.backends.postgres.keys import is_shared
from resilient.backends.postgres.line import READ, Line
from resilient.backends.postgres.settings import Settings
from resilient.engine.listening import ANSWER, Bell, CannotListen, Silence
from resilient.errors import BackendError

__all__ = ["PostgresSubscription"]

ECHO = 1.0
"""Seconds for what another session sends to arrive, through a pooler."""


class PostgresSubscription:
    """`resilient.engine.listening.Subscription` over one connection.

    It holds a lock of the name of its process's channel, by which the server knows that somebody is
    there to be woken (`is_there` in `sql/prelude.sql`), and which goes with the connection.
    """

    def __init__(self, settings: Settings, is_relied_on: Callable[[], bool]) -> None:
        self._settings = settings
        self._line: Line | None = None
        self._process = os.getpid()
        self._present: set[str] = set()
        self._silence = Silence(is_relied_on)
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()
        self.unheard: frozenset[str] = frozenset()

    def open(self, channels: set[str]) -> None:
        """Connect and listen."""
        with self._translating():
            self._line = self._settings.line(self._settings.connect_timeout)
            if self._settings.listen == "auto" and self._is_pooled() and not self._hears():
                raise CannotListen(
                    f"{self._settings.name} is a pooler that shares sessions", transient=False
                )
        self.add(channels)

    def add(self, channels: set[str]) -> None:
        """Listen to what is not listened to yet."""
        new = channels - self.confirmed
        if new:
            names = "; ".join(f"LISTEN {channel}" for channel in sorted(new))
            with self._translating():
                self._ask(names, self._settings.timeout)
                self._be_present(new)
            self.confirmed |= new
            self.bell.ring()  # who waits for this is told when `receive` returns

    def receive(self) -> Iterator[tuple[str, str]]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        line = self._line
        if line is None:
            raise BackendError(f"{self._settings.name}: the subscription is closed")
        with self._translating():
            found = list(self._arrived(line))
            if not found:
                self.bell.wait(self._silence.left(), line.fileno())
                line.hear()
                found = list(self._arrived(line))
            if found:
                self._silence.broken()
            elif self._silence.is_suspicious():
                self._ask("SELECT 1", ANSWER)
                self._be_present(self.confirmed)
            if line.is_lost:
                raise ConnectionLost("the server closed the connection")
        yield from found

    def close(self) -> None:
        """Close the connection; in a forked child without a farewell to the server."""
        line, self._line = self._line, None
        self.confirmed = frozenset()
        self._present = set()
        if line is not None:
            if os.getpid() == self._process:
                line.close()
            else:
                line.forget()

    def _be_present(self, channels: Iterable[str]) -> None:
        """Hold the lock of this process's own channel, as far as it is among these."""
        for channel in channels:
            if is_shared(channel) or channel in self._present:
                continue
            taken = f"SELECT pg_try_advisory_lock(hashtextextended('{channel}', 7))"
            # The server may not have noticed the end of an earlier connection yet, or somebody
            # looks for us just now: then once more a little later.
            for pause in (0.0, 0.005, 0.02):
                time.sleep(pause)
                if self._ask(taken, self._settings.timeout) == b"t":
                    self._present.add(channel)
                    break

    def _is_pooled(self) -> bool:
        """Whether a pooler answers: it makes up a process of its own, by which to cancel."""
        assert self._line is not None
        pid = self._ask("SELECT pg_backend_pid()", self._settings.timeout)
        return pid != b"%d" % self._line.pgconn.backend_pid

    def _hears(self) -> bool:
        """Whether what another session sends arrives, while nothing is asked here.

        A pooler gives a session to each client, or to each transaction: then a notification finds
        nobody, and that silently.
        """
        assert self._line is not None
        channel = f"rsl_echo_{secrets.token_hex(8)}"
        self._ask(f"LISTEN {channel}", self._settings.timeout)
        deadline = time.monotonic() + ECHO
        other = self._settings.line(ECHO)
        try:
            # One answer suffices; with a crowd of clients the first may come late.
            driven(other, other.execute(f"NOTIFY {channel}"), ECHO)
            while not any(heard == channel for heard, _ in self._arrived(self._line)):
                left = deadline - time.monotonic()
                if left <= 0 or not self._line.ready(READ, left):
                    return False
                self._line.hear()
        except (TimeoutError, ConnectionLost):  # there is no second session to be had
            return False
        finally:
            other.close()
            self._ask(f"UNLISTEN {channel}", self._settings.timeout)
        return True

    def _ask(self, text: str, seconds: float) -> bytes | None:
        assert self._line is not None
        result = driven(self._line, self._line.execute(text), seconds)
        self._silence.broken()
        return result.get_value(0, 0) if result.ntuples else None

    def _arrived(self, line: Line) -> Iterator[tuple[str, str]]:
        while (notice := line.pgconn.notifies()) is not None:
            yield notice.relname.decode(), notice.extra.decode()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (Refused, ConnectionLost, TimeoutError, OSError) as error:
            raise raised(self._settings.name, error) from error
