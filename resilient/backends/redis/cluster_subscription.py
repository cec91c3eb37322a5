"""What a process hears of a cluster: one subscribed connection to each primary that has its keys.

At each of them it has a lane of its own, and hears what is told to everybody (`lanes.py`). The
first one also hears what the servers tell each other. One that is away, or goes away, makes nobody
deaf to the others: it is heard as soon as it is back, and then everybody looks once more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.lanes import heard_at, is_sharded, lanes_at, owners
from resilient.backends.redis.openings import Opening, Openings
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

NOTHING: frozenset[str] = frozenset()


class Ear:
    """A server that is heard.

    Attributes:
        node: The connection.
        own: The process's channel there.
        names: What its other channels stand for.
    """

    def __init__(self, opening: Opening, node: RedisSubscription, own: str) -> None:
        self.place = opening.place
        self.node = node
        self.own = opening.channel
        self.names = {opening.channel: own}

    def add(self, channel: str, known: Map) -> None:
        """Hear what is told to everybody on this channel, if the server has lanes for it."""
        if is_sharded(self.own):
            self.names.update(dict.fromkeys(heard_at(channel, self.place, known.slots), channel))

    def missing(self) -> set[str]:
        """What stands for channels, and is not confirmed yet."""
        return {self.names[each] for each in self.names.keys() - self.node.confirmed}


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
        self.confirmed = self.unheard = NOTHING
        self._openings = Openings(settings, own, is_relied_on, self.bell)
        self._map = Map()
        self._lanes: dict[Place, int] = {}
        self._ears: list[Ear] = []
        self._wanted: set[str] = set()
        self._missed: set[str] = set()
        self._away: set[Place] = set()
        self._pause, self._again_at = FIRST_PAUSE, 0.0
        self._settles_at, self._is_settled = 0.0, False
        self._state: object = None
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
        while not self._ears:
            if not self._openings:
                raise BackendError(f"{self._settings.name}: no server has the keys")
            self.bell.wait(self._settings.node.timeout)
            failure = self._take_in()
            if failure is not None and not (self._ears or self._openings):
                raise failure
        self.add(channels)

    def add(self, channels: set[str]) -> None:
        """Subscribe what is not subscribed yet; the confirmation comes with `receive`."""
        if channels is self._wanted:  # asked before each `receive`
            return
        self._wanted = channels
        self._ears[0].node.add(channels)
        for ear in self._ears:
            self._subscribe(ear)

    def receive(self) -> Iterator[Heard]:
        """Wait until something arrives or the bell rings; the channels and messages that did."""
        self._check()
        self._wait()
        known = len(self._ears)
        self._take_in()
        for ear in self._ears[known:]:
            self._subscribe(ear)
        if len(self._ears) > known and self._is_settled:
            yield self._own, None  # who waits at such a server may have been woken in vain
        for ear in [*self._ears]:
            try:
                for channel, message in ear.node.receive(waits=False):
                    yield ear.names.get(channel, channel), message
            except BackendError as error:
                self._lose(ear, error)
                for channel in self._wanted:  # who waits looks, and nothing is kept any longer
                    yield channel, None
        self._confirm()
        for channel in self._missed & self.confirmed:
            self._missed.discard(channel)
            yield channel, None

    def close(self) -> None:
        """Close all connections."""
        ears, self._ears = self._ears, []
        self._has_closed = True
        self.confirmed = self.unheard = NOTHING
        self._wanted, self._missed, self._away, self._state = set(), set(), set(), None
        self._openings.close()
        for ear in ears:
            ear.node.close()

    # --- inside

    def _subscribe(self, ear: Ear) -> None:
        for channel in self._wanted - {self._own}:
            ear.add(channel, self._map)
        ear.node.add(set(ear.names))

    def _lose(self, ear: Ear, error: BackendError) -> None:
        """Go on with the others, of whom another one is the first then."""
        self._ears.remove(ear)
        ear.node.close()
        if not self._ears:
            raise error
        self._try_later(ear.place)
        self._missed |= self._wanted - {self._own}
        self._ears[0].node.add(self._wanted)
        self._confirm()  # before anybody is told: nobody may trust in hearing all from here on

    def _try_later(self, place: Place) -> None:
        """Try it again later, and ever more rarely."""
        self._away.add(place)
        self._again_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _check(self) -> None:
        """See whether the map has changed, and whether it is time to try those that are away."""
        known = self._topology.map
        if known is not self._map:
            before, self._map = self._map, known
            lanes = lanes_at(self._own, known.slots, known.lanes)
            if lanes != self._lanes or owners(known.slots) != owners(before.slots):
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
        nodes = [ear.node for ear in self._ears]
        # The bell of an opening may have been heard by a node that looked what it had received.
        if self._openings.has_ended or any(node.has_unread() for node in nodes):
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
                self._try_later(place)
                continue
            self._ears.append(Ear(opening, node, self._own))
            if self._is_settled:  # it was away, and may not be what it was
                self._ask_at = time.monotonic() + ASK_AGAIN
                if not self._away:
                    self._pause = FIRST_PAUSE
            without = self._topology.without_shards - {place}
            self._topology.without_shards = (
                without if is_sharded(opening.channel) else without | {place}
            )
        return failure

    def _confirm(self) -> None:
        """Note what is heard: the own channel when all were tried, or time is over."""
        if not self._openings or time.monotonic() >= self._settles_at:
            self._is_settled = True
        state = self._wanted, self._is_settled, [ear.node.confirmed for ear in self._ears]
        if state == self._state:  # after almost every message
            return
        self._state = state
        missing = self._wanted - self._ears[0].node.confirmed
        for ear in self._ears:
            missing |= ear.missing()
        if not self._is_settled:
            missing.add(self._own)
        confirmed, unheard = self._wanted - missing, NOTHING
        has_lanes = any(is_sharded(ear.own) for ear in self._ears)
        if has_lanes and len(self._ears) < len(self._lanes):
            # What is told to everybody may be told there.
            unheard = frozenset(confirmed - {self._own}) if self._is_settled else NOTHING
            confirmed &= {self._own}
        self._missed |= unheard
        self.confirmed, self.unheard = frozenset(confirmed), unheard
