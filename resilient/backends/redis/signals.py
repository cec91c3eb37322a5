"""Signals on Redis: pub/sub and client tracking, heard by `resilient.engine.listening`.

https://redis.io/docs/latest/develop/pubsub/#delivery-semantics
"""

from __future__ import annotations

import secrets

from resilient.backends.redis.cluster_subscription import ClusterSubscription
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.settings import Settings
from resilient.backends.redis.subscription import RedisSubscription
from resilient.backends.redis.topology import ClusterSettings, Topology
from resilient.backends.redis.tracking import Tracking
from resilient.backends.redis.transport import RedisTransport
from resilient.engine.listening import ListeningSource, Subscription
from resilient.protocols.signals import Hub

__all__ = ["ClusterSignals", "RedisSignals"]


class _Channels(ListeningSource):
    """The channels of one prefix."""

    def __init__(self, name: str, keys: Keys, patience: float) -> None:
        super().__init__(name, patience)
        self._keys = keys

    def _own_channel(self, process: str) -> str:
        return self._keys.signal(process)

    def _broadcast(self, channel: str) -> str:
        return self._keys.broadcast(channel)


class RedisSignals(_Channels):
    """Those of one server.

    Tasks that wait hear theirs over the connection of their own loop.
    """

    def __init__(self, settings: Settings, keys: Keys, transport: RedisTransport) -> None:
        super().__init__(settings.name, keys, patience=2 * settings.connect_timeout)
        self._settings = settings
        self._transport = transport
        self._tracking = Tracking(keys, self._concerns)

    @property
    def tracks(self) -> bool:
        """Whether the server tells of every change of a record, whoever made it."""
        listening = self._listening_on
        return isinstance(listening, RedisSubscription) and listening.tracks

    def channel_here(self) -> str:
        """The running loop's own channel, if it hears one."""
        return self._transport.channel

    async def listen_here(self, hub: Hub) -> str:
        """Have the running loop hear a channel of its own; nothing where that cannot be."""

        def tell(message: str | None) -> None:
            if message is None:
                hub.wake_all()
            else:
                for waiter in message.split(" "):
                    hub.wake(waiter)

        return await self._transport.hear(self._keys.signal(secrets.token_hex(8)), tell)

    def _concerns(self, subject: str) -> bool:
        follower = None if self._hub is None else self._hub.follower
        return follower is not None and follower.concerns(subject)

    def _subscription(self) -> Subscription:
        return RedisSubscription(self._settings, self.is_relied_on, self._tracking)


class ClusterSignals(_Channels):
    """Those of a cluster; its servers' own news of changed records are not followed."""

    def __init__(self, settings: ClusterSettings, topology: Topology, keys: Keys) -> None:
        super().__init__(settings.name, keys, patience=2 * settings.node.connect_timeout)
        self._settings = settings
        self._topology = topology

    def _subscription(self) -> Subscription:
        own, is_relied_on = self.own_name(), self.is_relied_on
        return ClusterSubscription(self._settings, self._topology, own, is_relied_on)
