"""Signals between processes: rows of a table, and one thread that looks for new ones.

`PRAGMA data_version` tells in a few µs whether another connection has committed anything. The
thread runs only while somebody of this process waits or listens.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from resilient.backends.sqlite.database import Connection, Database
from resilient.backends.sqlite.forks import Forkable, outlive_forks
from resilient.backends.sqlite.transaction import Signal
from resilient.engine.drivers.sync import Flag
from resilient.engine.identity import new_owner
from resilient.errors import BackendError, ResilientError
from resilient.protocols.signals import Hub

__all__ = ["SqliteSignals"]

log = logging.getLogger("resilient")

SHORTEST, LONGEST = 0.0005, 0.002
"""Seconds between two looks while somebody waits."""
RELAXED = 0.02
"""Seconds between two looks while there are listeners only."""
LINGER = 1.0
"""Seconds for which the thread goes on with nobody to listen for."""
TROUBLE = 0.5
"""Seconds to the next try when the file cannot be read."""

NEWEST = "SELECT coalesce(max(id), 0) FROM event"
SINCE = "SELECT id, origin, prefix, channel, message FROM event WHERE id > ? ORDER BY id"


class Heard(NamedTuple):
    """What one look brought.

    Attributes:
        signals: For this process, in order.
        gap: Others may have been missed before them.
    """

    signals: list[Signal]
    gap: bool = False


NOTHING = Heard([])


class SqliteSignals(Forkable):
    """What is signalled through one file to one tenant.

    Args:
        database: The file.
        prefix: The tenant.
    """

    def __init__(self, database: Database, prefix: str) -> None:
        self._database = database
        self._prefix = prefix
        self._hub: Hub | None = None
        self._gap = False
        self._forget()
        outlive_forks(self)

    def _forget(self) -> None:
        self.origin = new_owner()  # names the process, so that others see when it is gone
        self._lock = threading.Lock()
        self._nudge = Flag()  # an event keeps its lock where a caller is interrupted as it sets it
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._file = (0, 0)
        self._last = 0
        self._version = -1

    # --- a source of signals

    @property
    def is_listening(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def start(self, hub: Hub) -> None:
        """Hear everything that is committed from now on."""
        self._hub = hub
        with self._lock:
            if self._thread is not None:
                self._nudge.set()
                return
            self._connect()
            gap, self._gap = self._gap, False
            self._thread = threading.Thread(
                target=self._listen, name="resilient-sqlite-signals", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError as error:
                self._thread, self._gap = None, gap
                self._disconnect()
                raise BackendError(f"{self._database.path}: nobody can listen: {error}") from error
        if gap:
            self._tell(hub, Heard([], gap=True))

    def address(self, waiter: str) -> str:
        """The process's address, and the waiter's in it."""
        return f"{self.origin}:{waiter}"

    def stop(self) -> None:
        """End the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._disconnect()
            self._gap = True
            self._nudge.set()
        if thread is not threading.current_thread():
            thread.join()

    def send(self, signals: Iterable[Signal]) -> None:
        """Tell this process at once of what it has committed; others read it in the table."""
        hub = self._hub
        if hub is not None:  # else nobody has ever waited or listened
            mine = [s for s in signals if s.channel is not None or self._is_ours(s.message)]
            self._tell(hub, Heard(mine))

    def _is_ours(self, address: str) -> bool:
        return address.startswith(f"{self.origin}:")

    # --- the thread

    def _listen(self) -> None:
        me, pause, quiet_since = threading.current_thread(), SHORTEST, time.monotonic()
        hub = self._hub
        assert hub is not None
        while self._thread is me:
            try:
                heard = self._look()
            except Exception as error:
                pause = TROUBLE
                if isinstance(error, (sqlite3.Error, ResilientError, OSError)):
                    log.warning("signals of %s are not heard: %s", self._database.path, error)
                else:  # what nobody has thought of: until it is over, everybody looks by itself
                    log.exception("signals of %s are not heard", self._database.path)
                    self._tell(hub, Heard([], gap=True))
            else:
                pause = self._pause(hub, pause if heard is NOTHING else SHORTEST)
                self._tell(hub, heard)
            if hub.has_waiters or hub.channels:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > LINGER and self._retire(hub):
                return
            if self._nudge.wait(pause):
                self._nudge.clear()
                pause = SHORTEST

    @staticmethod
    def _pause(hub: Hub, before: float) -> float:
        return min(2 * before, LONGEST) if hub.has_waiters else RELAXED

    def _retire(self, hub: Hub) -> bool:
        with self._lock:
            me, self._thread = self._thread, None
            # Only now: whoever came before saw that we listen, and does not start us again.
            if hub.has_waiters or hub.channels:
                self._thread = me
                return False
            self._disconnect()
            return True

    def _look(self) -> Heard:
        """Read what is new."""
        with self._lock:
            if self._thread is not threading.current_thread():
                return NOTHING
            if not self._is_connected() and not self._reconnect():
                return Heard([], gap=True)
            assert self._connection is not None
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
            if version == self._version:
                return NOTHING
            rows = self._connection.execute(SINCE, (self._last,)).fetchall()
            self._version = version
        if not rows:
            return NOTHING
        gap = rows[0][0] != self._last + 1
        self._last = rows[-1][0]
        signals = [
            Signal(channel, message)
            for _, origin, prefix, channel, message in rows
            if (self._is_ours(message) if channel is None else origin != self.origin)
            and prefix == self._prefix
        ]
        return Heard(signals, gap) if signals or gap else NOTHING

    def _connect(self) -> None:
        connection = self._connection = self._database.open()
        self._file = connection.file
        (self._version,) = connection.execute("PRAGMA data_version").fetchone()
        (self._last,) = connection.execute(NEWEST).fetchone()

    def _is_connected(self) -> bool:
        return self._connection is not None and self._connection.file == self._database.file()

    def _reconnect(self) -> bool:
        """Open the file again; false if it is another one now, so that signals were missed."""
        self._disconnect()
        file, last = self._file, self._last
        self._connect()
        if self._file != file:
            return False
        self._last, self._version = last, -1
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @staticmethod
    def _tell(hub: Hub, heard: Heard) -> None:
        try:
            if heard.gap:
                for channel in hub.channels:
                    hub.deliver(channel, None)
                hub.wake_all()
            for signal in heard.signals:
                if signal.channel is None:
                    hub.wake(signal.message.partition(":")[2])
                else:
                    hub.deliver(signal.channel, signal.message)
        except Exception:
            log.exception("a listener to signals failed")

    # --- forks

    def before_fork(self) -> None:
        """Close the connection, between two looks; the thread opens another one afterwards."""
        self._lock.acquire()
        self._disconnect()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Nobody listens here until somebody waits; until then everything is missed."""
        had_listened = self._thread is not None
        self._forget()
        self._gap = had_listened
