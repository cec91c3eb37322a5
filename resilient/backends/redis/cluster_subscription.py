"""What a process hears of a cluster: one subscribed connection to each primary that has its keys.

At each of them it has a lane of its own (`lanes.py`). What all processes hear is a plain message,
which reaches all servers: it is heard from one of them, whichever primaries are away. So one that
is away makes nobody deaf; it is heard as soon as it is back, and then everybody looks once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.lanes import is_sharded, lanes_at
from resilient.backends.redis.openings import Openings
from resilient.backends.redis.subscription import Heard, RedisSubscription
from resilient.backends.redis.topology import ClusterSettings, Map, Place, Topology
from resilient.engine.listening import Bell
from resilient.errors import BackendError

__all__ = ["ClusterSubscription"]

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between two attempts to connect to a primary that is away."""
ASK_AGAIN = 1.0
"""Seconds after a change of the cluster in which all its servers have heard of it."""


class ClusterSubscription:
    """`resilient.engine.listening.Subscription` to the primaries of a cluster.

    Args:
        settings: How to connect.
        topology: Where they are.
        own: The channel of this process.
        is_relied_on: As for `Silence`.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        topology: Topology,
        own: str,
        is_relied_on: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._own = own
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()
        self._openings = Openings(settings, own, is_relied_on, self.bell)
        self._map = Map()
        self._lanes: dict[Place, int] = {}
        self._nodes: dict[str, RedisSubscription] = {}
        """By the process's channel there; what all servers tell is heard from the first."""
        self._away: set[Place] = set()
        self._pause, self._again_at = FIRST_PAUSE, 0.0
        self._settles_at, self._is_settled = 0.0, False
        self._ask_at: float | None = None
        self._has_closed = False

    def open(self, channels: set[str]) -> None:
        """Connect to all, and subscribe; at one of them at least that is confirmed."""
        error = self._topology.refresh(self._settings.node.timeout)
        if error is not None:
            raise backend_error(self._settings.name, error)
        self._map = self._topology.map
        self._lanes = lanes_at(self._own, self._map.slots, self._map.lanes)
        self._pause = FIRST_PAUSE
        self._settles_at = time.monotonic() + self._settings.node.connect_timeout
        self._is_settled = False
        self._ask_at = time.monotonic() + ASK_AGAIN if self._has_closed else None
        self._openings.begin(self._lanes.items())
        while not self._nodes:
            if not self._openings:
                raise BackendError(f"{self._settings.name}: no server has the keys")
            self.bell.wait(self._settings.node.timeout)
            failure = self._take_in()
            if failure is not None and not (self._nodes or self._openings):
                raise failure
        self.add(channels)

    def add(self, channels: set[str]) -> None:
        """Subscribe what is not subscribed yet; the confirmation comes with `receive`."""
        first = next(iter(self._nodes.values()))
        first.add(channels)

    def receive(self) -> Iterator[Heard]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        self._check()
        self._wait()
        known = len(self._nodes)
        self._take_in()
        if len(self._nodes) > known and self._is_settled:
            yield self._own, None  # who waits at such a server may have been woken in vain
        for own, node in list(self._nodes.items()):
            for channel, message in node.receive(waits=False):
                yield (self._own if channel == own else channel), message
        self._confirm()

    def close(self) -> None:
        """Close all connections."""
        nodes, self._nodes = self._nodes, {}
        self._has_closed = True
        self.confirmed = frozenset()
        self._away = set()
        self._openings.close()
        for node in nodes.values():
            node.close()

    # --- inside

    def _check(self) -> None:
        """See whether the map has changed, and whether it is time to try those that are away."""
        known = self._topology.map
        if known is not self._map:
            self._map = known
            if lanes_at(self._own, known.slots, known.lanes) != self._lanes:
                raise BackendError(f"{self._settings.name}: the cluster has changed")
        if self._ask_at is not None and time.monotonic() >= self._ask_at:
            self._ask_at = None  # whoever was asked may not have known of the change
            self._ask()
        if self._away and self._is_settled and time.monotonic() >= self._again_at:
            away, self._away = self._away, set()
            self._ask()
            self._openings.begin([(place, self._lanes[place]) for place in away])

    def _ask(self) -> None:
        self._topology.asked().add_done_callback(lambda _: self.bell.ring())

    def _wait(self) -> None:
        nodes = self._nodes.values()
        if any(node.has_unread() for node in nodes):
            return
        moments = [node.patience() for node in nodes]
        now = time.monotonic()
        if not self._is_settled:
            moments.append(self._settles_at - now)
        elif self._away:
            moments.append(self._again_at - now)
        if self._ask_at is not None:
            moments.append(self._ask_at - now)
        self.bell.wait(min(moments), *(node.fileno() for node in nodes))

    def _take_in(self) -> BackendError | None:
        """Hear those that were connected to meanwhile; why another could not be, if so."""
        failure = None
        for opening in self._openings.taken():
            place, node = opening.place, opening.node
            if opening.error is not None or node is None:
                failure = opening.error
                self._away.add(place)
                self._again_at = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                continue
            self._nodes[opening.channel] = node
            without = self._topology.without_shards - {place}
            self._topology.without_shards = (
                without if is_sharded(opening.channel) else without | {place}
            )
        return failure

    def _confirm(self) -> None:
        """Note which channels are heard: the own one when all were tried, or time is over."""
        if not self._openings or time.monotonic() >= self._settles_at:
            self._is_settled = True
        own, first = next(iter(self._nodes.items()))
        confirmed = first.confirmed - ({own} if self._is_settled else {own, self._own})
        if confirmed != self.confirmed:
            self.confirmed = confirmed
