"""Which server of a cluster has which slot: found out by redis-py's own cluster client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

from resilient.backends.redis.settings import Settings
from resilient.engine.forks import forget_in_child

__all__ = ["ClusterSettings", "Place", "Topology"]

Place = tuple[str, int]
"""Host and port of a server."""

REST = 0.1
"""Seconds for which the answer to the last question is good enough."""
DOUBT_AFTER = 1.0
"""Seconds for which it is not doubted because a server is slow."""


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
        lanes: The first slot of each: a name that outlives a fail-over.
    """

    number: int = 0
    slots: dict[int, Place] = field(default_factory=dict)
    primaries: tuple[Place, ...] = ()
    lanes: dict[Place, int] = field(default_factory=dict)


class Topology:
    """The map of one cluster; thread-safe, and safe to use after a fork."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self.map = Map()
        self._begin()
        forget_in_child(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._lock_of_doubt = threading.Lock()  # the other is held while the cluster is asked
        self._client: RedisCluster | None = None
        self._asked = -DOUBT_AFTER
        self._doubted = False

    @property
    def is_known(self) -> bool:
        """Whether it was asked already."""
        return bool(self.map.primaries)

    def is_to_be_checked(self) -> bool:
        """Whether it is doubted; says so to one asker only, who has it asked."""
        if not self._doubted:
            return False
        with self._lock_of_doubt:
            doubted, self._doubted = self._doubted, False
        return doubted

    def doubt(self) -> None:
        """Have it asked with the next command."""
        self._doubted = time.monotonic() - self._asked > DOUBT_AFTER

    def refresh(self, known: int = -1) -> None:
        """Ask the cluster, unless somebody has since the map of this number; blocks.

        Raises:
            redis.RedisError: No server answers.
        """
        with self._lock:
            if self.map.number > known >= 0 or time.monotonic() - self._asked < REST:
                return
            try:
                if self._client is None:
                    self._client = self._connected()
                else:
                    self._client.nodes_manager.initialize()
            except RedisClusterException as error:
                raise redis.ConnectionError(str(error)) from error
            self._asked, self._doubted = time.monotonic(), False
            self.map = self._drawn(self._client)

    def moved(self, slot: int, place: Place) -> None:
        """Learn from a redirection that a slot has another primary now."""
        if self._settings.remap is not None:
            place = self._settings.remap(place)
        with self._lock:
            slots = {**self.map.slots, slot: place}
            self.map = replace(self.map, slots=slots)

    def remapped(self, place: Place) -> Place:
        """Where a server is that a redirection names."""
        return place if self._settings.remap is None else self._settings.remap(place)

    def close(self) -> None:
        """Close the connections over which it was asked."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

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

    def _drawn(self, client: RedisCluster) -> Map:
        found: dict[int, list[Any]] = client.nodes_manager.slots_cache
        slots: dict[int, Place] = {
            slot: (nodes[0].host, nodes[0].port) for slot, nodes in found.items()
        }
        lanes: dict[Place, int] = {}
        for slot in sorted(slots):
            lanes.setdefault(slots[slot], slot)
        return Map(self.map.number + 1, slots, tuple(sorted(lanes)), lanes)
