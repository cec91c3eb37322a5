"""Which server of a cluster has which slot: found out by redis-py's own cluster client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

from resilient.backends.redis.lanes import broadcast_of, channel_of, numbered
from resilient.backends.redis.settings import Settings
from resilient.engine.crew import Crew
from resilient.engine.forks import forget_in_child

__all__ = ["LATE", "ClusterSettings", "Place", "Topology"]

Place = tuple[str, int]
"""Host and port of a server."""

REST = 0.1
"""Seconds for which the answer to the last question is good enough, also if there was none."""
DOUBT_AFTER = 1.0
"""Seconds for which it is not doubted because a server is slow."""
LATE = "none of its servers said in time which of them has which slot"


@dataclass(frozen=True)
class ClusterSettings:
    """How to find a cluster, and how to connect to its servers.

    Attributes:
        node: The settings of each server, whichever that is.
        start: The servers to ask first.
        remap: Where a server is that says to be somewhere else.
    """

    node: Settings
    start: list[Place]
    remap: Callable[[Place], Place] | None = None

    @property
    def name(self) -> str:
        """The cluster for messages."""
        return self.node.name

    def at(self, place: Place) -> Settings:
        """How to connect to one server."""
        host, port = place
        where = {"host": host, "port": port}
        scheme = self.node.name.partition("+")[0]
        return replace(
            self.node,
            name=f"{scheme}://{host}:{port}",
            blocking_options={**self.node.blocking_options, **where},
            async_options={**self.node.async_options, **where},
        )


@dataclass(frozen=True)
class Map:
    """What is known of a cluster at a time.

    Attributes:
        number: Another one each time it was asked.
        slots: The primary of each slot.
        primaries: All of them, in one order.
        lanes: The number of each (`lanes.py`).
    """

    number: int = 0
    slots: dict[int, Place] = field(default_factory=dict)
    primaries: tuple[Place, ...] = ()
    lanes: dict[Place, int] = field(default_factory=dict)


class Topology:
    """The map of one cluster; thread-safe, and safe to use after a fork.

    One thread asks for all: whoever needs another map waits for its answer, nobody for his turn.

    Attributes:
        map: What is known.
        without_shards: Servers that are known to have no sharded channels, or none for us.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._crew = Crew("resilient-topology", 1)
        self.map = Map()
        self.without_shards: frozenset[Place] = frozenset()
        self._begin()
        forget_in_child(self._begin)

    def _begin(self) -> None:
        self._crew.forget()
        self._lock = threading.Lock()
        """For exchanging what is known; never held while a server is asked."""
        self._turn = threading.Lock()
        """For using the client."""
        self._client: RedisCluster | None = None
        self._latest: Future[None] | None = None
        self._asked = -DOUBT_AFTER
        self._doubted = False

    @property
    def is_known(self) -> bool:
        """Whether it was asked already."""
        return bool(self.map.primaries)

    def check(self) -> None:
        """Have it asked if it is doubted; the servers that live are asked meanwhile."""
        if self._doubted and time.monotonic() - self._asked >= REST:
            self._doubted = False
            self.asked()

    def doubt(self) -> None:
        """Have it asked with the next command."""
        if time.monotonic() - self._asked > DOUBT_AFTER:
            self._doubted = True

    def asked(self, known: int = -1) -> Future[None]:
        """Have the cluster asked, unless somebody has since the map of this number.

        Nobody may cancel that: others wait for it, too. Its exception is that no server answers.
        """
        with self._lock:
            if self.map.number > known >= 0:
                return _settled()
            latest = self._latest
            if latest and not (latest.done() and time.monotonic() - self._asked >= REST):
                return latest
            asking: Future[None] = Future()
            try:
                self._crew.submit(partial(self._ask, asking))
            except RuntimeError:  # the interpreter ends: no thread starts any more
                is_alone = True
            else:
                is_alone = False
            self._latest = asking
        if is_alone:
            self._ask(asking)
        return asking

    def refresh(self, patience: float, known: int = -1) -> BaseException | None:
        """The same, and wait for the answer for so many seconds; what went wrong, if it did."""
        try:
            return self.asked(known).exception(patience)
        except TimeoutError:
            return TimeoutError(LATE)

    def moved(self, slot: int, place: Place) -> None:
        """Learn from a redirection that a slot has another primary now."""
        if self._settings.remap is not None:
            place = self._settings.remap(place)
        with self._lock:
            slots = {**self.map.slots, slot: place}
            self.map = replace(self.map, slots=slots)
        if place not in self.map.lanes:
            self._doubted = True

    def channel(self, own: str, slot: int) -> str:
        """The channel of a process at the server that has the slot."""
        known = self.map
        place = known.slots.get(slot)
        # Of a server that is not known yet: the script that wakes finds nobody there.
        lane = 0 if place is None else known.lanes.get(place, 0)
        return channel_of(own, lane, sharded=place not in self.without_shards)

    def broadcast(self, channel: str, slot: int) -> str:
        """The channel for what everybody shall hear of the server that has the slot."""
        known = self.map
        place = known.slots.get(slot)
        if place is None or place in self.without_shards:
            return channel
        return broadcast_of(channel, known.lanes.get(place))

    def remapped(self, place: Place) -> Place:
        """Where a server is that a redirection names."""
        return place if self._settings.remap is None else self._settings.remap(place)

    def close(self) -> None:
        """Close the connections over which it was asked; blocks while it is."""
        with self._turn:
            client, self._client = self._client, None
        if client is not None:
            client.close()
        self._crew.stop()

    def _ask(self, asking: Future[None]) -> None:
        drawn: Map | None = None
        failure: BaseException | None = None
        try:
            with self._turn:
                drawn = self._drawn()
        except BaseException as error:
            failure = error.with_traceback(None)  # it is kept, and with it this frame would be
        with self._lock:
            self._asked = time.monotonic()
            if drawn is not None:
                self.map = replace(drawn, number=self.map.number + 1)
                self._doubted = False
        if failure is None:
            asking.set_result(None)
        else:
            asking.set_exception(failure)

    def _connected(self) -> RedisCluster:
        node = self._settings.node
        options = {**node.blocking_options, "socket_timeout": node.connect_timeout}
        for name in ("host", "port", "db"):
            options.pop(name, None)
        client: Any = RedisCluster
        server: Any = ClusterNode  # neither has annotations
        start = dict.fromkeys([*self.map.primaries, *self._settings.start])
        made: RedisCluster = client(
            startup_nodes=[server(host, port) for host, port in start],
            require_full_coverage=False,
            address_remap=self._settings.remap,
            ssl=node.is_secure,
            **options,
        )
        return made

    def _drawn(self) -> Map:
        try:
            if self._client is None:
                self._client = self._connected()
            else:
                self._client.nodes_manager.initialize()
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error
        found: dict[int, list[Any]] = self._client.nodes_manager.slots_cache
        slots: dict[int, Place] = {
            slot: (nodes[0].host, nodes[0].port) for slot, nodes in found.items()
        }
        lanes = numbered(slots)
        return Map(0, slots, tuple(sorted(lanes)), lanes)


def _settled() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done
