"""Connections for blocking callers: a stack of idle ones, the warmest on top.

A server has room for a hundred or so: whoever comes when all of this process's are in use waits for
one, within its own time.
"""

from __future__ import annotations

import select
import threading
import time
from typing import Any

from resilient.backends.postgres.commands import Call
from resilient.backends.postgres.failures import ConnectionLost, Refused
from resilient.backends.postgres.line import Line, driven
from resilient.backends.postgres.settings import Settings
from resilient.engine.budget import remaining
from resilient.engine.forks import forget_in_child

__all__ = ["Blocking"]

MOST = 32
LOOK_AFTER = 1.0
"""Seconds of idleness after which a connection is looked at before it is used."""


class Blocking:
    """Calls functions and blocks for their answers. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: list[Line] = []
        self._turns = threading.Semaphore(MOST)
        forget_in_child(self._forget)

    def call(self, call: Call) -> Any:
        """The answer to a call.

        Raises:
            Refused: The server answered with an error.
            ConnectionLost: The server could not be reached.
            TimeoutError: There was no answer in time.
        """
        turns = self._turns
        if not turns.acquire(timeout=self._patience()):
            raise TimeoutError(f"all {MOST} connections are in use")
        try:
            line = self._warm()
            if line is not None:
                try:
                    return self._speak(line, call)
                except (ConnectionLost, TimeoutError) as error:
                    self.close()  # it may have led nowhere for long, and the others with it
                    if not (call.repeatable and isinstance(error, ConnectionLost)):
                        raise
            return self._speak(self._settings.line(self._patience()), call)
        finally:
            turns.release()

    def close(self) -> None:
        """Close the idle connections; those in use are closed or kept by their users."""
        idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _speak(self, line: Line, call: Call) -> Any:
        try:
            answer = driven(line, line.run(call), self._patience())
        except Refused:
            self._idle.append(line)
            raise
        except BaseException:
            # Interrupted between question and answer: the next user would get this answer.
            line.close()
            raise
        self._idle.append(line)
        return answer

    def _warm(self) -> Line | None:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - line.used < LOOK_AFTER or _is_alive(line):
                return line
            line.close()
        return None

    def _patience(self) -> float:
        left = remaining()
        if left == 0:
            raise TimeoutError("the caller's budget is spent")
        return self._settings.timeout if left is None else min(left, self._settings.timeout)

    def _forget(self) -> None:
        idle, self._idle = self._idle, []
        self._turns = threading.Semaphore(MOST)
        for line in idle:
            line.forget()


def _is_alive(line: Line) -> bool:
    """Whether nothing that has arrived meanwhile is the connection's end."""
    poll = select.poll()
    poll.register(line.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    try:
        line.hear()
    except ConnectionLost:
        return False
    return not line.is_lost
