"""A connection that is made, and spoken on, by a thread that blocks for it."""

from __future__ import annotations

import select
import time
from typing import Any, TypeVar

from psycopg import pq
from psycopg.pq.abc import PGconn

from resilient.backends.postgres.commands import Call
from resilient.backends.postgres.failures import ConnectionLost
from resilient.backends.postgres.line import READ, UNFINISHED, Dialogue, Line

__all__ = ["asked", "connected", "driven"]

T = TypeVar("T")
LATE = "no answer within the time there was"


def connected(conninfo: str, timeout: float) -> PGconn:
    """A new connection, within so many seconds.

    Raises:
        ConnectionLost: It could not be made.
        TimeoutError: It was not made in time.
    """
    deadline = time.monotonic() + timeout
    pgconn: PGconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        while True:
            status = pgconn.connect_poll()
            if pgconn.status == pq.ConnStatus.BAD or status == pq.PollingStatus.FAILED:
                raise ConnectionLost(pgconn.get_error_message())
            if status == pq.PollingStatus.OK:
                return pgconn
            wanted = select.POLLIN if status == pq.PollingStatus.READING else select.POLLOUT
            poll = select.poll()
            poll.register(pgconn.socket, wanted)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError("no connection within the time there was")
    except BaseException:
        pgconn.finish()
        raise


def asked(line: Line, call: Call, seconds: float) -> Any:
    """Have a function called, blocking, within so many seconds, or `TimeoutError`."""
    wanted = line.send(call)
    if wanted == READ:
        began = time.monotonic()
        if not line.ready(READ, seconds):
            raise TimeoutError(LATE)
        answer = line.taken(call)
        if answer is not UNFINISHED:
            return answer
        seconds -= time.monotonic() - began
    return driven(line, line.run(call, sent=wanted != 0), seconds)


def driven(line: Line, dialogue: Dialogue[T], seconds: float) -> T:
    """Hold a dialogue, blocking, within so many seconds; `TimeoutError` if it takes longer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            wanted = next(dialogue)
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        left = deadline - time.monotonic()
        if left <= 0 or not line.ready(wanted, left):
            raise TimeoutError(LATE)
