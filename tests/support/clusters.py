"""A cluster of three primaries, with or without replicas: real processes on free ports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, cast

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.support.servers import (
    SYNC_AT_ONCE,
    Flavour,
    RedisServer,
    ServerDidNotStart,
    free_port,
)

__all__ = ["Cluster", "redis_cluster"]

PRIMARIES = 3
PATIENCE = 30.0
CONFIG = {**SYNC_AT_ONCE, "cluster-enabled": "yes", "cluster-replica-validity-factor": "0"}
ALONE = {"cluster-node-timeout": "60000"}
"""Nobody would take the place of a server that stands still for a moment: nobody need notice."""


class ClusterServer(RedisServer):
    """One of them.

    Attributes:
        bus: The port on which the others speak to it.
    """

    bus = 0

    def _command(self, port: int) -> list[str]:
        if port != self.port:  # else it is started again
            self.bus = free_port()
        return [*super()._command(port), "--cluster-port", str(self.bus)]


class Cluster:
    """Some servers that make one cluster.

    Attributes:
        primaries: The servers that have the slots, a third each, in their order.
        replicas: One for each of them, or none.
        knows_shards: Whether they know sharded channels.
    """

    def __init__(
        self,
        primaries: list[ClusterServer],
        replicas: list[ClusterServer],
        *,
        knows_shards: bool = True,
    ) -> None:
        self.primaries = primaries
        self.replicas = replicas
        self.knows_shards = knows_shards
        self.places = [("127.0.0.1", server.port) for server in primaries]
        self.url = "redis+cluster://" + ",".join(f"{host}:{port}" for host, port in self.places)

    @property
    def servers(self) -> list[ClusterServer]:
        """All of them."""
        return [*self.primaries, *self.replicas]

    def form(self) -> None:
        """Give out the slots, have them meet, and wait until all agree."""
        share = REDIS_CLUSTER_HASH_SLOTS // PRIMARIES + 1
        for number, server in enumerate(self.primaries):
            first, last = number * share, min((number + 1) * share, REDIS_CLUSTER_HASH_SLOTS) - 1
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        first_one = self.primaries[0]
        for server in self.servers[1:]:
            with server.client() as client:
                client.execute_command(
                    "CLUSTER", "MEET", "127.0.0.1", first_one.port, first_one.bus
                )
        self._await(lambda info: int(info["cluster_known_nodes"]) == len(self.servers))
        for replica, primary in zip(self.replicas, self.primaries, strict=False):
            with replica.client() as client:
                self._until(lambda c=client, p=primary: _replicates(c, self.id_of(p)))
        self._await(lambda info: info["cluster_state"] == "ok")
        for server in self.servers:  # what is published before reaches nobody
            with server.client(decode_responses=True) as client:
                self._until(lambda c=client: all(_links(c)))

    def id_of(self, server: ClusterServer) -> str:
        """What the cluster calls it."""
        with server.client(decode_responses=True) as client:
            found: Any = client.execute_command("CLUSTER", "MYID")
            return str(found)

    def primary_of(self, key: str) -> ClusterServer:
        """The server that had the key's slot in the beginning."""
        share = REDIS_CLUSTER_HASH_SLOTS // PRIMARIES + 1
        return self.primaries[key_slot(key.encode()) // share]

    def tag_of(self, primary: ClusterServer) -> str:
        """A hash tag of which it had the slot in the beginning."""
        return next(tag for tag in map("{{{}}}".format, count()) if self.primary_of(tag) is primary)

    def replica_of(self, primary: ClusterServer) -> ClusterServer:
        """The replica that it had in the beginning."""
        return self.replicas[self.primaries.index(primary)]

    @contextlib.contextmanager
    def migrating(self, key: str) -> Iterator[ClusterServer]:
        """The key's slot on its way to another server, inside the block; all keys go at its end."""
        slot, source = key_slot(key.encode()), self.primary_of(key)
        target = self.primaries[(self.primaries.index(source) + 1) % PRIMARIES]
        with source.client() as before, target.client() as after:
            after.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
            before.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
            yield target
            self.migrate(key, source, target)
            for client in (after, before):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def migrate(self, key: str, source: ClusterServer, target: ClusterServer) -> None:
        """Move the keys of a slot that is migrating."""
        with source.client() as client:
            slot = key_slot(key.encode())
            while found := cast(Any, client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)):
                client.migrate("127.0.0.1", target.port, found, 0, 5000)

    def _await(self, condition: Any) -> None:
        for server in self.servers:
            with server.client(decode_responses=True) as client:
                self._until(lambda c=client: condition(_info(c)))

    def _until(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise ServerDidNotStart("the servers do not form a cluster")
            time.sleep(0.02)


def _info(client: Any) -> Mapping[str, str]:
    found = client.execute_command("CLUSTER", "INFO")
    if isinstance(found, dict):
        return found
    return dict(line.split(":", 1) for line in str(found).splitlines() if ":" in line)


def _links(client: Any) -> list[bool]:
    """Whether it is connected to each of the others."""
    # https://redis.io/docs/latest/commands/cluster-nodes/#serialization-format
    told = [line.split() for line in str(client.execute_command("CLUSTER", "NODES")).splitlines()]
    return ["handshake" not in fields[2] and fields[7] == "connected" for fields in told]


def _replicates(client: Any, primary: str) -> bool:
    """Make it a replica, which it refuses until it knows the primary, and see whether it is."""
    with contextlib.suppress(Exception):
        client.execute_command("CLUSTER", "REPLICATE", primary)
    found = client.info("replication")
    return bool(found["role"] == "slave" and found["master_link_status"] == "up")


@contextlib.contextmanager
def redis_cluster(
    *,
    replicas: bool = False,
    flavour: Flavour | None = None,
    env: Mapping[int, dict[str, str]] | None = None,
    knows_shards: bool = True,
    patience: float = 1.5,
) -> Iterator[Cluster]:
    """A cluster for the length of the block.

    Args:
        replicas: Whether each primary has one.
        flavour: Which servers; by default the first that are installed.
        env: Of some of its servers, by their numbers.
        knows_shards: Whether they know sharded channels, as those before Redis 7.0 do not.
        patience: Seconds after which a primary that does not answer is replaced.
    """
    with contextlib.ExitStack() as stack:
        size = PRIMARIES * (2 if replicas else 1)
        with_replicas = {"cluster-node-timeout": str(round(1000 * patience))}
        config = {**CONFIG, **(with_replicas if replicas else ALONE)}
        if not knows_shards:
            config["rename-command"] = 'SSUBSCRIBE ""'
        servers = [
            ClusterServer(flavour, config=config, env=(env or {}).get(number))
            for number in range(size)
        ]
        for server in servers:
            stack.callback(server.close)
            server.start()
        cluster = Cluster(servers[:PRIMARIES], servers[PRIMARIES:], knows_shards=knows_shards)
        cluster.form()
        yield cluster
