"""What a process hears of a cluster: one subscribed connection to each of its primaries.

A message reaches every server, but a script is told only how many hear it at its own. So this
process has a channel of its own at each of them ("channel@lane"), and who waits for a key gives
the one at the key's server: a waiter that is gone is found out there.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#publishsubscribe
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.subscription import Heard, RedisSubscription
from resilient.backends.redis.topology import ClusterSettings, Place, Topology
from resilient.engine.listening import Bell
from resilient.errors import BackendError

__all__ = ["ClusterSubscription"]


class ClusterSubscription:
    """`resilient.engine.listening.Subscription` to all primaries of a cluster.

    Args:
        settings: How to connect.
        topology: Where they are.
        own: The channel that each of them has under a name of its own.
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
        self._is_relied_on = is_relied_on
        self._topology = topology
        self._own = own
        self._lanes: dict[Place, int] = {}
        self._nodes: list[tuple[RedisSubscription, str]] = []
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()

    def open(self, channels: set[str]) -> None:
        """Connect to all, subscribe and have that confirmed."""
        error = self._topology.refresh(self._settings.node.timeout)
        if error is not None:
            raise backend_error(self._settings.name, error)
        self._lanes = self._topology.map.lanes
        for place, lane in self._lanes.items():
            node = RedisSubscription(self._settings.at(place), self._is_relied_on, bell=self.bell)
            self._nodes.append((node, f"{self._own}@{lane}"))
            node.open(self._of_node(len(self._nodes) - 1, channels))
        self._confirm(channels)

    def add(self, channels: set[str]) -> None:
        """Subscribe what is not subscribed yet; the confirmation comes with `receive`."""
        for number, (node, _) in enumerate(self._nodes):
            node.add(self._of_node(number, channels))

    def receive(self) -> Iterator[Heard]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        if self._topology.map.lanes != self._lanes:
            raise BackendError(f"{self._settings.name}: the cluster has changed")
        nodes = [node for node, _ in self._nodes]
        if not any(node.has_unread() for node in nodes):
            patience = min(node.patience() for node in nodes)
            self.bell.wait(patience, *(node.fileno() for node in nodes))
        for node, own in self._nodes:
            for channel, message in node.receive(waits=False):
                yield (self._own if channel == own else channel), message
        wanted = {self._own, *(each for node in nodes for each in node.confirmed)}
        self._confirm({each for each in wanted if not each.startswith(f"{self._own}@")})

    def close(self) -> None:
        """Close all connections."""
        nodes, self._nodes = self._nodes, []
        self.confirmed = frozenset()
        for node, _ in nodes:
            node.close()

    def _of_node(self, number: int, channels: set[str]) -> set[str]:
        """What is subscribed at one of them: what all servers tell is heard from the first."""
        _, own = self._nodes[number]
        others = channels - {self._own} if number == 0 else set()
        return {own, *others}

    def _confirm(self, channels: set[str]) -> None:
        """Note which channels of all that are wanted are heard."""
        heard = {each for node, _ in self._nodes for each in node.confirmed}
        if all(own in heard for _, own in self._nodes):
            heard.add(self._own)
        self.confirmed = frozenset(channels & heard)
