"""The connections of one event loop: a few, each for one call at a time.

Whoever asks gets a reply at once and no task; the loop tells when a socket has something to read.
An asynchronous generator owns the connections: the loop's own shutdown closes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from resilient.backends.postgres.commands import Call
from resilient.backends.postgres.failures import ConnectionLost, Refused, raised
from resilient.backends.postgres.line import LOOK_AFTER, READ, UNFINISHED, WRITE, Dialogue, Line
from resilient.backends.postgres.settings import Settings
from resilient.engine.budget import remaining
from resilient.engine.crew import Crew
from resilient.engine.drivers.aio import Reply

__all__ = ["Looped"]

MOST = 8
"""Connections a loop: whoever comes when all are in use waits for its turn."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before another connection is tried after one was refused while others are open."""


class _Flight:
    """One call under way."""

    __slots__ = ("call", "deadline", "repeated", "reply", "timer", "wire")

    def __init__(self, call: Call, reply: Reply, deadline: float) -> None:
        self.call = call
        self.reply = reply
        self.deadline = deadline
        self.repeated = False
        self.timer: asyncio.TimerHandle | None = None
        self.wire: _Wire | None = None


class _Wire:
    """One connection, and the call that it is used for."""

    def __init__(self, owner: Looped, loop: asyncio.AbstractEventLoop, line: Line) -> None:
        self._owner = owner
        self._loop = loop
        self._dialogue: Dialogue[Any] | None = None
        self._sent = False
        self._writes = False
        self._fileno = line.fileno()
        self.line = line
        self.flight: _Flight | None = None
        loop.add_reader(self._fileno, self._ready)

    def begin(self, flight: _Flight) -> None:
        self.flight = flight
        flight.wire = self
        try:
            wanted = self.line.send(flight.call)
        except ConnectionLost as error:
            self._owner.lost(self, error)
            return
        self._sent = wanted == READ
        if not self._sent:
            self._dialogue = self.line.run(flight.call, sent=wanted != 0)
            self._step()

    def close(self) -> None:
        self._loop.remove_reader(self._fileno)
        if self._writes:
            self._loop.remove_writer(self._fileno)
        self.line.close()

    def _ready(self) -> None:
        if self._dialogue is not None:
            self._step()
            return
        if self._sent:
            self._take()
            return
        try:
            self.line.hear()
        except ConnectionLost as error:
            self._owner.lost(self, error)
        else:
            if self.line.is_lost:
                self._owner.lost(self, ConnectionLost("the server closed the connection"))

    def _take(self) -> None:
        """Take the answer to a call that was sent at once."""
        self._sent = False
        assert self.flight is not None
        try:
            answer = self.line.taken(self.flight.call)
        except Exception as error:  # also of what arrives and is no answer
            self._owner.lost(self, error)
            return
        if answer is UNFINISHED:
            self._dialogue = self.line.run(self.flight.call, sent=True)
            self._step()
        else:
            self._end(answer, None)

    def _step(self) -> None:
        assert self._dialogue is not None
        try:
            wanted = next(self._dialogue)
        except StopIteration as stop:
            self._end(stop.value, None)
        except Refused as error:
            self._end(None, error)
        except Exception as error:  # also of what arrives and is no answer
            self._dialogue = None
            self._owner.lost(self, error)
        else:
            if (wanted == WRITE) != self._writes:
                self._writes = not self._writes
                if self._writes:
                    self._loop.add_writer(self._fileno, self._ready)
                else:
                    self._loop.remove_writer(self._fileno)

    def _end(self, answer: Any, error: Exception | None) -> None:
        flight, self.flight, self._dialogue = self.flight, None, None
        assert flight is not None
        self._owner.ended(self, flight, answer, error)


class Looped:
    """The connections of one loop; used in that loop's thread only.

    Args:
        settings: How to connect.
        loop: That loop.
        crew: Who connects, since libpq looks names up before it lets anybody wait for it.
    """

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, crew: Crew) -> None:
        self._settings = settings
        self._loop = loop
        self._crew = crew
        self._waiting: deque[_Flight] = deque()
        self._wires: set[_Wire] = set()
        self._idle: list[_Wire] = []
        self._connecting = 0
        self._pause = 0.0
        self._connects_from = 0.0
        self._owner: AsyncGenerator[None] | None = None
        self._ending = False

    def ask(self, call: Call) -> Reply:
        """Have a call made; the reply is always answered."""
        reply = Reply(loop=self._loop)
        now, left = self._loop.time(), remaining()
        flight = _Flight(call, reply, now + self._settings.timeout)
        patience = flight.deadline if left is None else min(now + left, flight.deadline)
        flight.timer = self._loop.call_at(patience, self._late, flight)
        while self._idle:
            wire = self._idle.pop()
            line = wire.line  # the loop would notice its end by itself, but may have been blocked
            if time.monotonic() - line.used < LOOK_AFTER or line.is_alive():
                wire.begin(flight)
                return reply
            self._drop(wire)
        self._waiting.append(flight)
        self._connect()
        return reply

    async def close(self) -> None:
        """Close the connections; those in use once what is under way is answered."""
        if self._owner is not None:
            await self._owner.aclose()
        self._end()

    # --- what the wires report

    def ended(self, wire: _Wire, flight: _Flight, answer: Any, error: Exception | None) -> None:
        """A call has its answer."""
        if error is None:
            self._settle(flight, answer)
        else:
            self._fail(flight, error)
        self._rest(wire)

    def lost(self, wire: _Wire, error: Exception) -> None:
        """A connection is gone: what was under way is sent once more, or fails."""
        flight, wire.flight = wire.flight, None
        self._drop(wire)
        if flight is not None:
            if flight.repeated or not flight.call.repeatable or not _is_lost(error):
                self._fail(flight, error)
            else:
                flight.repeated, flight.wire = True, None
                # The idle ones have led to the same server.
                for other in list(self._idle):
                    self._drop(other)
                self._waiting.appendleft(flight)
        self._connect()

    # --- inside

    def _connect(self) -> None:
        """Open one more connection, if somebody waits for it."""
        wanted = len(self._waiting) - self._connecting
        if wanted <= 0 or len(self._wires) + self._connecting >= MOST:
            return
        if self._loop.time() < self._connects_from:
            return
        self._connecting += 1
        if self._owner is None and not self._ending:
            self._own()
        connect = partial(self._settings.line, self._settings.connect_timeout)
        try:
            opening = self._crew.ask(self._loop, connect)
        except RuntimeError as over:  # the interpreter ends: no thread starts any more
            self._connecting -= 1
            while self._waiting:
                self._fail(self._waiting.popleft(), over)
            return
        opening.add_done_callback(self._connected)

    def _connected(self, opening: asyncio.Future[Line]) -> None:
        self._connecting -= 1
        error = None if opening.cancelled() else opening.exception()
        if error is not None:
            if self._wires:  # whose turn it is has one of these; a server that is full is let be
                self._pause = min(2 * self._pause or FIRST_PAUSE, LONGEST_PAUSE)
                self._connects_from = self._loop.time() + self._pause
                self._loop.call_later(self._pause, self._connect)
            while self._waiting and not self._wires:
                self._fail(self._waiting.popleft(), error)
        elif not opening.cancelled():
            self._pause = 0.0
            wire = _Wire(self, self._loop, opening.result())
            self._wires.add(wire)
            self._rest(wire)
        self._connect()

    def _rest(self, wire: _Wire) -> None:
        """Give a connection that is free to who waits longest."""
        while self._waiting:
            flight = self._waiting.popleft()
            if not flight.reply.done():
                wire.begin(flight)
                return
        if self._ending:
            self._drop(wire)
        else:
            self._idle.append(wire)

    def _drop(self, wire: _Wire) -> None:
        self._wires.discard(wire)
        if wire in self._idle:
            self._idle.remove(wire)
        wire.close()

    def _late(self, flight: _Flight) -> None:
        """The caller gives up; the connection is given up only when its own time is over."""
        late = TimeoutError("no answer within the time there was")
        self._fail(flight, late)
        if flight.wire is None or flight.wire.flight is not flight:
            return
        if self._loop.time() >= flight.deadline:
            self.lost(flight.wire, late)
        else:
            flight.timer = self._loop.call_at(flight.deadline, self._late, flight)

    def _settle(self, flight: _Flight, answer: Any) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        if not flight.reply.done():
            flight.reply.set_result(answer)

    def _fail(self, flight: _Flight, error: BaseException) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        if not flight.reply.done():
            flight.reply.set_exception(raised(self._settings.name, error))
            flight.reply.exception()  # a task that was cancelled meanwhile never asks for it

    def _own(self) -> None:
        """Let the loop know of a generator that it will close before it is closed itself."""
        self._owner = self._owning()
        with contextlib.suppress(StopIteration):
            self._owner.__anext__().send(None)  # it waits for nothing

    async def _owning(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._end()

    def _end(self) -> None:
        """From now on a connection is closed as soon as nobody uses it."""
        self._ending = True
        for wire in list(self._idle):
            self._drop(wire)


def _is_lost(error: Exception) -> bool:
    return isinstance(error, ConnectionLost)
