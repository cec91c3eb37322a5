"""The store's clock: the same for every process of the machine, and moved by no step of the wall's.

It is the boot clock plus an offset that the file keeps for each boot: so it starts out as the time
of day, goes on evenly whatever becomes of that, and after a reboot continues where it was or later.
"""

from __future__ import annotations

import os
import sqlite3

from resilient.engine import clock
from resilient.engine.identity import new_owner, parse

__all__ = ["StoreClock"]

RESERVE = 1_000_000
"""Ticks that are set aside at once, in µs: the file is told once a second, not at every tick."""
BOOTS = 16
"""How many boots the file remembers."""

RESERVE_UP_TO = "UPDATE state SET reserved = max(reserved, ?)"
COUNT = "UPDATE state SET counted = max(counted + 1, ?)"
COUNT_ABOVE_ALL = "UPDATE state SET counted = max(counted + 1, reserved + 1, ?)"


class StoreClock:
    """The clock of one file, as one process reads it."""

    def __init__(self) -> None:
        self._boot_offset = 0.0
        self._clock: clock.Clock | None = None
        self._is_system = True
        self._offset = 0.0
        self._seen = 0.0
        self._last_tick = 0
        self._reserved = 0

    def load(self, connection: sqlite3.Connection) -> bool:
        """Read this boot's offset; false if nobody has drawn it yet."""
        row = connection.execute("SELECT offset FROM clock WHERE boot = ?", (boot_id(),)).fetchone()
        if row is None:
            return False
        (self._boot_offset,) = row
        self._clock = None
        return True

    def begin(self, connection: sqlite3.Connection) -> None:
        """Draw the offset of this boot if nobody has, inside a write transaction."""
        if self.load(connection):
            return
        (tick,) = connection.execute("SELECT max(counted, reserved) FROM state").fetchone()
        offset = max(clock.SystemClock.wall(), tick / 1e6) - clock.SystemClock.now()
        connection.execute("INSERT INTO clock VALUES (?, ?)", (boot_id(), offset))
        connection.execute(
            "DELETE FROM clock WHERE rowid <= (SELECT max(rowid) FROM clock) - ?", (BOOTS,)
        )
        self.load(connection)

    def now(self) -> float:
        """Seconds since the epoch."""
        if clock.current is not self._clock:
            self._follow(clock.current)
        self._seen = clock.now() + self._offset
        return self._seen

    def _follow(self, current: clock.Clock) -> None:
        # A test's clock in the system's place goes on from what was seen last.
        self._clock = current
        self._is_system = isinstance(current, clock.SystemClock)
        if self._is_system:
            self._offset = self._boot_offset
        else:
            self._offset = max(self._seen, current.wall()) - current.now()
        self._reserved = 0

    def tick(self, cursor: sqlite3.Cursor, now: float) -> int:
        """A number larger than any that was drawn from this file, inside a write transaction.

        Transactions follow each other, each takes longer than a µs, and all processes read one
        clock: the time alone is such a number. The file only keeps a bound above them, from which
        the next boot goes on. Under a test's clock, which may stand still, and until the time has
        passed what was drawn under one, the file counts.
        """
        tick = max(int(now * 1e6), self._last_tick + 1)
        if tick >= self._reserved:
            tick = self._reserve(cursor, tick)
        self._last_tick = tick
        return tick

    def _reserve(self, cursor: sqlite3.Cursor, tick: int) -> int:
        if not self._is_system:
            return _counted(cursor, COUNT_ABOVE_ALL, tick)
        counted = _counted(cursor, RESERVE_UP_TO, tick + RESERVE)
        if counted >= tick:
            return _counted(cursor, COUNT, tick)
        self._reserved = tick + RESERVE
        return tick

    def rolled_back(self) -> None:
        """What was reserved since the last commit was not."""
        self._reserved = 0


def boot_id() -> str:
    """Tells this boot of this machine from others, and clocks that containers have of their own."""
    identity = parse(new_owner())
    assert identity is not None
    try:
        namespace = os.readlink("/proc/self/ns/time")
    except OSError:
        namespace = ""
    return f"{identity.boot}|{namespace}"


def _counted(cursor: sqlite3.Cursor, update: str, value: int) -> int:
    cursor.execute(update, (value,))
    (counted,) = cursor.execute("SELECT counted FROM state").fetchone()
    return int(counted)
