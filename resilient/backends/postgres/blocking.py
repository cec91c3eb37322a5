"""Connections for blocking callers: a stack of idle ones, the warmest on top.

A server has room for a hundred or so: whoever comes when all of this process's are in use waits for
one, within its own time.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any
from weakref import WeakSet

from resilient.backends.postgres.blocked import asked, driven
from resilient.backends.postgres.commands import Call, Several
from resilient.backends.postgres.failures import ConnectionLost, Refused
from resilient.backends.postgres.line import LOOK_AFTER, Line
from resilient.backends.postgres.settings import Settings
from resilient.engine.budget import remaining
from resilient.engine.forks import forget_in_child

__all__ = ["Blocking"]

MOST = 32
LOOK_AGAIN = 1.0
"""Seconds after which a waiter looks by itself: who was to tell it may have been interrupted."""


class _Right:
    """To open a connection. It goes with its owner, wherever that one is interrupted."""


class Blocking:
    """Calls functions and blocks for their answers. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._begin()
        forget_in_child(self._forget)

    def _begin(self) -> None:
        self._idle: list[Line] = []
        # Entered by itself: to enter a condition is a call, after which it may be interrupted.
        self._counting = threading.RLock()
        self._freed = threading.Condition(self._counting)
        # What is open and what is about to be, for as long as somebody has it: whoever is
        # interrupted drops it, and does not come to count anything.
        self._taken: WeakSet[Line | _Right] = WeakSet()
        self._wanted = 0

    def call(self, call: Call | Several) -> Any:
        """The answer to a call; to several, a list of answers and of what was `Refused`.

        Raises:
            Refused: The server answered with an error.
            ConnectionLost: The server could not be reached.
            TimeoutError: There was no answer in time.
        """
        left = remaining()
        patience = self._settings.timeout if left is None else self._at_most(left)
        found = self._warm() or self._waited_for(patience)
        if not isinstance(found, _Right):
            try:
                return self._speak(found, call, patience)
            except (ConnectionLost, TimeoutError) as error:
                self.close()  # it may have led nowhere for long, and the others with it
                if not (call.repeatable and isinstance(error, ConnectionLost)):
                    raise
            found = self._waited_for(patience)
        line = self._opened(found) if isinstance(found, _Right) else found
        return self._speak(line, call, self._time_for(line))

    def close(self) -> None:
        """Close the idle connections; those in use are kept by their users."""
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._close(self._idle.pop())

    def _speak(self, line: Line, call: Call | Several, patience: float) -> Any:
        try:
            if type(call) is Several:
                answer = driven(line, line.run_all(call.calls), patience)
            else:
                assert type(call) is Call
                answer = asked(line, call, patience)
        except Refused:
            self._rest(line)
            raise
        except BaseException:
            # Interrupted between question and answer: the next user would get this answer.
            self._close(line)
            raise
        self._idle.append(line)
        if self._wanted:
            self._told()
        return answer

    def _rest(self, line: Line) -> None:
        self._idle.append(line)
        if self._wanted:
            self._told()

    def _told(self) -> None:
        """Tell one of those who wait that there is a connection for it."""
        with self._counting:
            self._freed.notify()

    def _close(self, line: Line) -> None:
        line.close()
        with self._counting:
            self._taken.discard(line)
            self._freed.notify()

    def _warm(self) -> Line | None:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - line.used < LOOK_AFTER or line.is_alive():
                return line
            self._close(line)
        return None

    def _waited_for(self, patience: float) -> Line | _Right:
        """A connection that somebody has given back, or the right to open one."""
        deadline = time.monotonic() + patience
        with self._counting:
            self._wanted += 1
            try:
                while len(self._taken) >= MOST:
                    with contextlib.suppress(IndexError):
                        return self._idle.pop()
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise TimeoutError(f"all {MOST} connections are in use")
                    self._freed.wait(min(left, LOOK_AGAIN))
            finally:
                self._wanted -= 1
            right = _Right()
            self._taken.add(right)
            return right

    def _opened(self, right: _Right) -> Line:
        try:
            line = self._settings.line(self._patience())
            self._taken.add(line)
            return line
        finally:
            with self._counting:
                self._taken.discard(right)
                self._freed.notify()

    def _time_for(self, line: Line) -> float:
        """Seconds to use a connection in; if there are none, somebody else shall have it."""
        try:
            return self._patience()
        except TimeoutError:
            self._rest(line)
            raise

    def _patience(self) -> float:
        left = remaining()
        return self._settings.timeout if left is None else self._at_most(left)

    def _at_most(self, left: float) -> float:
        if left == 0:
            raise TimeoutError("the caller's budget is spent")
        return min(left, self._settings.timeout)

    def _forget(self) -> None:
        idle = self._idle
        self._begin()
        for line in idle:
            line.forget()
