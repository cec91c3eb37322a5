"""How commands reach the servers of a cluster: each the one that has its slot.

Every server has connections as a single one has them; where a slot is, is `topology.py`'s business.
What is asked together is split by servers, and what a server refuses goes where it says.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, NamedTuple

from redis import exceptions as redis_errors

from resilient.backends.redis.commands import Asking, Command, Everywhere, OfNode, slot_of
from resilient.backends.redis.failures import backend_error, is_connection_lost, is_demoted
from resilient.backends.redis.topology import LATE, ClusterSettings, Place, Topology
from resilient.backends.redis.transport import RedisTransport
from resilient.engine.budget import remaining
from resilient.engine.crew import Crew, aside
from resilient.engine.drivers.aio import Reply
from resilient.engine.forks import forget_in_child

__all__ = ["ClusterTransport"]

HOPS = 32
"""Servers that a command is sent to at most."""
CREW = 8
"""Threads that ask several servers at once for blocking callers."""
PAUSE = 0.02
"""Seconds after which a command is sent again whose keys are about to move."""


class Hop(NamedTuple):
    """What is to be done about an error.

    Attributes:
        place: The server to ask; `None`: that of the slot.
        pause: Seconds before.
        lost: Whether the map is to be asked for first: a server is gone.
    """

    place: Place | None = None
    pause: float = 0.0
    lost: bool = False


class Leg:
    """A command of one slot on its way."""

    __slots__ = ("answer", "command", "deadline", "hop", "hops", "place", "slot")

    def __init__(self, command: Command, deadline: float, slot: int | None) -> None:
        self.command = command
        self.deadline = deadline
        self.slot = slot
        self.hop = Hop()
        self.hops = 0
        self.place: Place = ("", 0)
        self.answer: Any = None

    def to_send(self) -> Command:
        """The command as the next server takes it."""
        return self.command if self.hop.place is None else Asking(self.command)

    def after(self, error: BaseException, topology: Topology) -> Hop | None:
        """Where to go on after an error; `None`: nowhere."""
        if isinstance(error, redis_errors.TimeoutError):
            topology.doubt()  # a server that stands still may have been replaced
            return None
        self.hops += 1
        if self.hops > HOPS or time.monotonic() >= self.deadline:
            return None
        if isinstance(error, redis_errors.MovedError):
            topology.moved(error.slot_id, (error.host, error.port))
            return Hop()
        if isinstance(error, redis_errors.AskError):
            return Hop(topology.remapped((error.host, error.port)))
        if isinstance(error, redis_errors.TryAgainError):
            return Hop(pause=PAUSE * min(self.hops, 5))
        is_gone = is_connection_lost(error) or is_demoted(error)
        if is_gone and self.command.repeatable and self.hops <= 2:
            return Hop(lost=True)
        return None


class ClusterTransport:
    """Sends commands to the servers of one cluster; thread-safe, and safe to use after a fork."""

    def __init__(self, settings: ClusterSettings, topology: Topology) -> None:
        self._settings = settings
        self._topology = topology
        self._nodes: dict[Place, RedisTransport] = {}
        self._crew = Crew("resilient-cluster", CREW)
        forget_in_child(self._crew.forget)

    def address(self, waiter: str | None, key: str) -> str:
        """The waiter's channel at the server that has the key."""
        if not waiter:
            return ""
        channel, _, waiter_id = waiter.rpartition("|")
        return f"{self._topology.channel(channel, slot_of(key))}|{waiter_id}"

    def broadcast(self, channel: str, key: str) -> str:
        """The channel at the server that has the key."""
        return self._topology.broadcast(channel, slot_of(key))

    # --- blocking

    def send(self, command: Command) -> Any:
        """Send a command and block for its answer."""
        (answer,) = self.send_many([command])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def send_many(self, commands: Sequence[Command]) -> list[Any]:
        """Send several commands, in one trip to each server; the answer or exception for each."""
        deadline = self._deadline()
        self._topology.check()
        if not self._topology.is_known:
            error = self._topology.refresh(deadline - time.monotonic())
            if error is not None:
                return [backend_error(self._settings.name, error) for _ in commands]
        legs = [self._legs(command, deadline) for command in commands]
        todo = [leg for each in legs for leg in each]
        while todo:
            self._exchange(todo)
            failed = [leg for leg in todo if isinstance(leg.answer, BaseException)]
            todo = [leg for leg in failed if self._goes_on(leg)]
            if todo and (pause := max(leg.hop.pause for leg in todo)):
                time.sleep(pause)
        return [
            self._joined(command, [leg.answer for leg in its])
            for command, its in zip(commands, legs, strict=True)
        ]

    def _exchange(self, legs: list[Leg]) -> None:
        by_place: dict[Place, list[Leg]] = {}
        for leg in legs:
            leg.place = self._place(leg)
            by_place.setdefault(leg.place, []).append(leg)
        first, *others = by_place.items()
        # A server that stands still must not keep what is asked of the others waiting.
        under_way = [self._beside(place, its) for place, its in others]
        self._exchange_at(*first)
        for done in under_way:
            done.wait()

    def _exchange_at(self, place: Place, legs: list[Leg]) -> None:
        answers = self._at(place).send_many([leg.to_send() for leg in legs])
        for leg, answer in zip(legs, answers, strict=True):
            leg.answer = answer

    def _beside(self, place: Place, legs: list[Leg]) -> threading.Event:
        """Ask another server in a thread, if there is one to spare; set when it has answered."""
        done, context = threading.Event(), copy_context()  # in which the caller's budget is

        def job() -> None:
            try:
                context.run(self._exchange_at, place, legs)
            except BaseException as error:
                for leg in legs:
                    leg.answer = backend_error(self._settings.name, error)
            finally:
                done.set()

        if not self._crew.offer(job):
            job()
        return done

    def _goes_on(self, leg: Leg) -> bool:
        """Whether a command that failed is to be sent again; asks for the map if that is old."""
        hop = self._hop(leg)
        if hop is not None and hop.lost:
            known = self._topology.map.number
            if self._topology.refresh(leg.deadline - time.monotonic(), known) is not None:
                return False
            if self._place(leg) == leg.place and leg.hops > 1:
                return False  # nobody has taken its place yet
        return hop is not None

    # --- in an event loop

    def asend(self, command: Command) -> asyncio.Future[Any]:
        """Send a command together with all that are asked in this turn of the running loop."""
        loop = asyncio.get_running_loop()
        reply = Reply(loop=loop)
        deadline = self._deadline()
        self._topology.check()
        if self._topology.is_known:
            self._depart(command, reply, deadline)
            return reply

        def departs(error: BaseException | None) -> None:
            if error is None:
                self._depart(command, reply, deadline)
            else:
                self._fail(reply, backend_error(self._settings.name, error))

        self._refreshed(loop, -1, deadline, departs)
        return reply

    def _depart(self, command: Command, reply: Reply, deadline: float) -> None:
        legs = self._legs(command, deadline)
        left = len(legs)

        def arrived() -> None:
            nonlocal left
            left -= 1
            if left or reply.done():
                return
            answer = self._joined(command, [leg.answer for leg in legs])
            if isinstance(answer, BaseException):
                self._fail(reply, answer)
            else:
                reply.set_result(answer)

        for leg in legs:
            self._go(leg, arrived)

    def _go(self, leg: Leg, arrived: Any) -> None:
        loop = asyncio.get_running_loop()
        leg.place = self._place(leg)

        def answered(future: asyncio.Future[Any]) -> None:
            error = future.exception()
            leg.answer = future.result() if error is None else error
            hop = None if error is None else self._hop(leg)
            if hop is None:
                arrived()
            elif hop.lost:
                self._refreshed(loop, self._topology.map.number, leg.deadline, found)
            elif hop.pause:
                loop.call_later(hop.pause, self._go, leg, arrived)
            else:
                self._go(leg, arrived)

        def found(error: BaseException | None) -> None:
            if error is not None or (self._place(leg) == leg.place and leg.hops > 1):
                arrived()
            else:
                self._go(leg, arrived)

        self._at(leg.place).asend(leg.to_send()).add_done_callback(answered)

    def _refreshed(
        self, loop: asyncio.AbstractEventLoop, known: int, deadline: float, then: Any
    ) -> None:
        """Go on with what went wrong, if it did, once the map was asked for or time is over."""
        waiting: asyncio.Future[BaseException | None] = loop.create_future()
        patience = max(0.0, deadline - time.monotonic())

        def over(error: BaseException | None) -> None:
            if not waiting.done():
                waiting.set_result(error)

        def asked(asking: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(over, asking.exception())

        def go_on(_: object) -> None:
            late.cancel()
            then(waiting.result())

        late = loop.call_later(patience, over, TimeoutError(LATE))
        waiting.add_done_callback(go_on)  # in the context of this caller, with its budget
        self._topology.asked(known).add_done_callback(asked)

    @staticmethod
    def _fail(reply: Reply, error: BaseException) -> None:
        if not reply.done():
            reply.set_exception(error)
            reply.exception()  # a task that was cancelled meanwhile never asks for it

    # --- closing

    def relax(self) -> None:
        """Keep one idle connection to each server."""
        for node in list(self._nodes.values()):
            node.relax()

    def close(self) -> None:
        """Close the idle connections of blocking callers. The transport may be used again."""
        for node in list(self._nodes.values()):
            node.close()
        self._end()

    async def aclose(self) -> None:
        """Close those and the running loop's own connections."""
        for node in list(self._nodes.values()):
            await node.aclose()
        await aside(self._end)

    def _end(self) -> None:
        self._topology.close()
        self._crew.stop()

    # --- inside

    def _at(self, place: Place) -> RedisTransport:
        node = self._nodes.get(place)
        if node is None:
            node = self._nodes.setdefault(place, RedisTransport(self._settings.at(place)))
        return node

    def _deadline(self) -> float:
        """When the caller's time for a command is over, or what its answer may take."""
        left, patience = remaining(), self._settings.node.timeout
        return time.monotonic() + (patience if left is None else min(left, patience))

    def _legs(self, command: Command, deadline: float) -> list[Leg]:
        if isinstance(command, Everywhere):
            count = len(self._topology.map.primaries)
            return [
                Leg(OfNode.of(command.command, number), deadline, None) for number in range(count)
            ]
        return [
            Leg(part, deadline, None if part.key is None else slot_of(part.key))
            for part in command.parts
        ]

    def _place(self, leg: Leg) -> Place:
        """The server for the next attempt."""
        if leg.hop.place is not None:
            return leg.hop.place
        known = self._topology.map
        if isinstance(leg.command, OfNode):
            return known.primaries[leg.command.node % len(known.primaries)]
        place = None if leg.slot is None else known.slots.get(leg.slot)
        return place or known.primaries[0]

    def _hop(self, leg: Leg) -> Hop | None:
        cause = leg.answer.__cause__
        hop = None if cause is None else leg.after(cause, self._topology)
        if hop is not None:
            leg.hop = hop
        return hop

    def _joined(self, command: Command, answers: list[Any]) -> Any:
        """What the asker gets; the first exception, if there is one."""
        if isinstance(command, Everywhere):
            return answers
        for answer in answers:
            if isinstance(answer, BaseException):
                return answer
        return command.joined(answers)
