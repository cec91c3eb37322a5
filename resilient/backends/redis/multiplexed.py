"""One connection an event loop, shared by all of its tasks.

What is asked in one turn of the loop leaves as one write, but for what others wait for, which
leaves at once; the answers come back in the same order and need no task. Between them come the
signals for the tasks that wait, once the first of them has: so a lock that is handed over reaches
its task without another thread. An asynchronous generator owns the connection: the loop's own
shutdown closes it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, cast

from redis import exceptions as redis_errors
from redis._parsers.base import BaseParser

from resilient.backends.redis.commands import Command, Plain
from resilient.backends.redis.failures import backend_error, is_demoted
from resilient.backends.redis.hearing import Hearing
from resilient.backends.redis.resp import PUSHED, UNFINISHED, new_reader
from resilient.backends.redis.settings import Settings
from resilient.engine.budget import remaining
from resilient.engine.drivers.aio import Reply

__all__ = ["Multiplexed"]

LOOK_AFTER = 1.0
"""Seconds without use after which a connection is looked at before it is used."""


class _Flight:
    """One command under way."""

    __slots__ = (
        "answers",
        "command",
        "deadline",
        "in_full",
        "packed",
        "patience",
        "repeated",
        "reply",
    )

    def __init__(
        self, command: Command, reply: asyncio.Future[Any], deadline: float, patience: float
    ) -> None:
        self.command = command
        self.packed = command.packed
        self.reply = reply
        self.deadline = deadline
        self.patience = patience  # when the caller gives up, which may be earlier
        self.answers: list[Any] = []
        self.in_full = False
        self.repeated = False


class _Wire(asyncio.Protocol):
    """One connection, and the commands that wait for their answers on it, in order."""

    def __init__(self, owner: Multiplexed, connection: Any) -> None:
        self._owner = owner
        self._reader = new_reader(BaseParser.parse_error)
        self.writable = True
        self._used = owner.now()
        self.hears = False
        self.under_way: deque[_Flight] = deque()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # From here on the connection is ours: redis-py neither reads, closes nor reports it. The
        # writer stays referred to, because it closes its transport when it is collected.
        self._writer: asyncio.StreamWriter = connection._writer
        connection._reader = connection._writer = None
        self._transport = cast(asyncio.Transport, self._writer.transport)
        self._transport.set_protocol(self)

    def is_at_rest(self, now: float) -> bool:
        """Whether no answer is due, and it need not be looked at before it is used."""
        return not self.under_way and now - self._used < LOOK_AFTER

    def is_alive(self) -> bool:
        """Whether, after a while without use, nothing has arrived: the connection's end, mostly.

        The loop would notice by itself, but may have been blocked.
        """
        if self.under_way or self._owner.now() - self._used < LOOK_AFTER:
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self._transport.get_extra_info("socket"), selectors.EVENT_READ)
            return not selector.select(0)

    def send(self, flights: list[_Flight]) -> None:
        self._used = self._owner.now()
        self.under_way.extend(flights)
        self._transport.write(b"".join([flight.packed for flight in flights]))

    def abort(self) -> None:
        self._transport.abort()

    def close(self) -> None:
        """Close it in an orderly way; `closed` is done a moment later."""
        self._transport.close()

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not UNFINISHED:
                if type(answer) is PUSHED and answer[0] == b"message":
                    self._owner.hearing.heard(answer[2])
                    continue
                flight = self.under_way[0]
                flight.answers.append(answer)
                if len(flight.answers) == flight.command.replies:
                    self.under_way.popleft()
                    self._owner.answered(flight)
        except Exception as error:  # what arrives is no answer to what was asked
            self._owner.lost(self, error)
            self._transport.abort()
        else:
            self._owner.rest()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._owner.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        self._owner.lost(self, exc)


class Multiplexed:
    """The connection of one loop; used in that loop's thread only."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._settings = settings
        self._loop = loop
        self.now = loop.time
        self._waiting: deque[_Flight] = deque()
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._owner: AsyncGenerator[None] | None = None
        self._ending = False
        self.hearing = Hearing()

    def ask(self, command: Command) -> Reply:
        """Send a command at the end of this turn; the reply is always answered.

        An urgent one leaves now, with whatever was asked before it in this turn; while answers are
        due at the end of the turn, as any other.
        """
        reply = Reply(loop=self._loop)
        now, left = self.now(), remaining()
        deadline = now + self._settings.timeout
        patience = deadline if left is None else min(now + left, deadline)
        self._waiting.append(_Flight(command, reply, deadline, patience))
        if self._timer is not None and patience < self._timer.when():
            self._timer.cancel()
            self._timer = None  # the flush sets another
        if command.urgent and self._wire is not None and self._wire.is_at_rest(now):
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)
        return reply

    def flush(self) -> None:
        """Send what waits, or see to it that there is a connection."""
        self._flushing = False
        if not self._waiting:
            self.rest()
            return
        if self._timer is None:
            self._watch()
        if self._wire is not None and not self._wire.is_alive():
            self._wire.abort()
            self.lost(self._wire, None)
        elif self._wire is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(
                    self._connect(), name="resilient-redis-connect"
                )
                self._connecting.add_done_callback(self._connected)
        elif self._wire.writable:
            # Whose caller has been told that it failed is not sent after that.
            flights = [flight for flight in self._waiting if not flight.reply.done()]
            self._waiting.clear()
            if flights:
                self._wire.send(flights)
            else:
                self.rest()

    @property
    def channel(self) -> str:
        """The channel of which whatever is sent, after what is asked next, is heard; or none."""
        wire = self._wire
        return self.hearing.channel if wire is None or wire.hears else ""

    async def hear(self, channel: str, tell: Callable[[str | None], None]) -> str:
        """Hear what is sent to a channel, over this connection and each later one.

        Args:
            channel: The channel.
            tell: Called with each message; with `None` when some may have been missed.

        Returns:
            The channel; nothing where the server does not let a connection do both.
        """
        if self.hearing.is_refused:
            return ""
        self.hearing.want(channel, tell)
        if self._wire is None:
            await self.ask(Plain("PING"))  # once that is answered, there is one
        else:
            await self._hear_on(self._wire)
        return self.channel

    async def close(self) -> None:
        """Close the connection once what is under way is answered."""
        if self._owner is not None:
            await self._owner.aclose()
        else:
            await self._close()
        self._owner, self._ending = None, False  # it may be used again
        if self.hearing.channel:
            self.hearing.missed()

    # --- what the wire reports

    def answered(self, flight: _Flight) -> None:
        """All replies to a command are there."""
        answers = flight.answers
        for answer in answers:
            if isinstance(answer, Exception):
                if type(answer) is redis_errors.NoScriptError and not flight.in_full:
                    self._again(flight)
                elif is_demoted(answer) and self._wire is not None:
                    self._look_elsewhere(self._wire, flight, answer)
                else:
                    self._fail(flight, answer)
                return
        if not flight.reply.done():  # its caller may have given it up
            flight.reply.set_result(flight.command.value(answers))

    def rest(self) -> None:
        """Once the loop is shutting down, a connection that nobody needs does not linger."""
        wire = self._wire
        if self._ending and wire is not None and not wire.under_way and not self._waiting:
            self._wire = None
            wire.close()

    def lost(self, wire: _Wire, error: Exception | None) -> None:
        """The connection is gone: what was under way is sent once more, or fails."""
        cause = redis_errors.ConnectionError(str(error or "the server closed the connection"))
        if wire is not self._wire:  # it was given up, or never used
            while wire.under_way:
                self._fail(wire.under_way.popleft(), cause)
            return
        self._wire = None
        # Who hears is closed by the server once 32 MB of answers wait for it: twice is enough.
        is_limited = wire.hears and any(flight.repeated for flight in wire.under_way)
        if is_limited:
            self.hearing.refuse()
        again = []
        for flight in wire.under_way:
            if (flight.repeated and not is_limited) or not flight.command.repeatable:
                self._fail(flight, cause)
            else:
                flight.repeated = True
                flight.answers = []
                again.append(flight)
        wire.under_way.clear()
        self._waiting.extendleft(reversed(again))
        self.flush()
        if wire.hears:
            self.hearing.missed()  # they ask, so that there is a connection again

    # --- inside

    def _again(self, flight: _Flight) -> None:
        """Send the text of a script that the server does not know."""
        flight.in_full = True
        flight.packed = flight.command.in_full()
        flight.answers = []
        self._waiting.append(flight)
        self.flush()

    def _look_elsewhere(self, wire: _Wire, flight: _Flight, error: Exception) -> None:
        """Leave a server that has become a replica: what it has not done is sent once more."""
        if flight.repeated:
            self._fail(flight, error)
        else:
            wire.under_way.appendleft(flight)
        self.lost(wire, error)
        wire.abort()

    def _fail(self, flight: _Flight, error: BaseException) -> None:
        if not flight.reply.done():
            flight.reply.set_exception(backend_error(self._settings.name, error))
            flight.reply.exception()  # a task that was cancelled meanwhile never asks for it

    def _fail_waiting(self, error: BaseException) -> None:
        while self._waiting:
            self._fail(self._waiting.popleft(), error)

    async def _connect(self) -> None:
        connection = self._settings.async_connection()
        wire = None
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await connection.connect()
                wire = _Wire(self, connection)
                if self.hearing.channel:
                    # First of all: of what is asked then, some may be by who waits there.
                    await self._hear_on(wire)
        except BaseException as error:
            if wire is not None:
                wire.abort()
                if isinstance(error, TimeoutError):
                    self.hearing.fell_silent()
            await connection.disconnect(nowait=True)
            raise
        self._wire = wire
        if self._owner is None and not self._ending:
            self._owner = self._own()
            await anext(self._owner)

    async def _hear_on(self, wire: _Wire) -> None:
        wire.hears = await self.hearing.begin(partial(self._said, wire))

    def _said(self, wire: _Wire, *words: str) -> asyncio.Future[Any]:
        """The answer to what concerns this very connection, and is never sent over another."""
        command = Plain(*words)
        command.repeatable = False
        # May be given up: nobody but `asyncio.timeout` watches over a connection not in use yet.
        reply = self._loop.create_future()
        deadline = self.now() + self._settings.timeout
        wire.send([_Flight(command, reply, deadline, deadline)])
        if self._timer is None:
            self._watch()
        return reply

    def _connected(self, attempt: asyncio.Task[None]) -> None:
        """An attempt has ended, perhaps before it began."""
        self._connecting = None
        error = None if attempt.cancelled() else attempt.exception()
        if error is not None:
            self._fail_waiting(error)
        # Cancelled: with all tasks of a loop that shuts down. Whoever waits is cleaning up, and
        # gets another attempt.
        self.flush()

    async def _own(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            # The loop is shutting down, or the transport is being closed. Whoever still asks
            # something gets a connection that is closed with the last answer.
            await self._close()

    async def _close(self) -> None:
        self._ending = True
        while self._connecting is not None or self._wire is not None:
            if self._connecting is not None:
                if not self._waiting:
                    self._connecting.cancel()
                await asyncio.wait([self._connecting])
            elif self._wire is not None:
                closed = self._wire.closed
                self.rest()
                await closed
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """Fail what is too late, and look again when the next one may be."""
        self._timer = None
        now = self.now()
        late = redis_errors.TimeoutError(f"no answer within {self._settings.timeout:g} s")
        wire = self._wire
        if wire is not None and wire.under_way and wire.under_way[0].deadline <= now:
            # Replies come in order: nothing that is behind it will be answered either.
            while wire.under_way and wire.under_way[0].deadline <= now:
                self._fail(wire.under_way.popleft(), late)
            self.lost(wire, late)
            wire.abort()
        while self._waiting and self._waiting[0].deadline <= now:
            self._fail(self._waiting.popleft(), late)
        moments = []
        for flight in (*self._waiting, *(() if self._wire is None else self._wire.under_way)):
            if flight.patience <= now < flight.deadline:
                # Only this caller gives up: the connection may be as good as ever.
                self._fail(flight, redis_errors.TimeoutError("the caller's budget is spent"))
                flight.patience = flight.deadline
            moments.append(flight.patience)
        if moments and self._timer is None:
            self._timer = self._loop.call_at(min(moments), self._watch)
