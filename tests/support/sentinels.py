"""A primary, its replica, and three sentinels that watch them: real processes on free ports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from tests.support.servers import (
    SYNC_AT_ONCE,
    RedisServer,
    ServerDidNotStart,
    redis_server,
)

__all__ = ["SERVICE", "Sentinels", "sentinels"]

SERVICE = "mymaster"
PATIENCE = 25.0
DOWN_AFTER = 700
"""Milliseconds of silence after which a sentinel takes a server for dead."""
PERIODS = {"info": 100, "ask": 100, "publish": 100, "ping": 300}
"""Milliseconds. A replica of which five pings long nothing is known is not promoted, and one whose
primary is gone is asked once a second, whatever the period is (`sentinelSelectSlave` and
`sentinelSendPeriodicCommands` of Redis' sentinel.c)."""


class SentinelServer(RedisServer):
    """One sentinel that watches a primary."""

    def __init__(self, primary: RedisServer) -> None:
        super().__init__(primary.flavour)
        self._watched = primary

    def _command(self, port: int) -> list[str]:
        program, *_ = super()._command(port)
        path = self.directory / "sentinel.conf"
        path.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._watched.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )
        return [program, str(path), "--sentinel"]

    def hurry(self) -> None:
        """Look, ask and tell more often than usual: tests wait for what it finds out."""
        with self.client() as client:
            for what, milliseconds in PERIODS.items():
                client.execute_command("SENTINEL DEBUG", f"{what}-period", milliseconds)


class Sentinels:
    """All of them.

    Attributes:
        primary: The server that is the primary now.
        replica: The other one.
        watchers: The sentinels.
    """

    def __init__(self, servers: list[RedisServer], watchers: list[SentinelServer]) -> None:
        self.primary, self.replica = servers
        self.watchers = watchers
        self.places = [("127.0.0.1", each.port) for each in watchers]
        hosts = ",".join(f"{host}:{port}" for host, port in self.places)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}"

    def await_quorum(self) -> None:
        """Wait until each sentinel knows the others and the replica."""
        others = len(self.watchers) - 1
        for watcher in self.watchers:
            self._await(
                watcher, lambda m: (m["num-other-sentinels"], m["num-slaves"]) == (others, 1)
            )

    def exchange(self, *, told: bool = True) -> None:
        """Make primary and replica change places by hand; clients are not told by anybody.

        For a lone sentinel: others would tell it what they have heard before.

        Args:
            told: Whether the one that was the primary knows.
        """
        (watcher,) = self.watchers
        self.primary, self.replica = self.replica, self.primary
        with self.primary.client() as client:
            client.replicaof("NO", "ONE")
        if told:
            self.replica.follow(self.primary)
        with watcher.client() as client:
            client.sentinel_remove(SERVICE)
            client.sentinel_monitor(SERVICE, "127.0.0.1", self.primary.port, 2)

    def await_promotion(self) -> None:
        """Wait until the replica is the primary and all sentinels say so."""
        self.primary, self.replica = self.replica, self.primary
        for watcher in self.watchers:
            self._await(watcher, lambda m: m["port"] == self.primary.port)

    def _await(self, watcher: SentinelServer, condition: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        with watcher.client() as client:
            while not condition(cast(Any, client.sentinel_masters())[SERVICE]):
                if time.monotonic() > deadline:
                    raise ServerDidNotStart(f"{watcher} says otherwise:\n{watcher.log()}")
                time.sleep(0.02)


@contextlib.contextmanager
def sentinels(watchers: int = 3) -> Iterator[Sentinels]:
    """A primary, a replica and so many sentinels for the length of the block."""
    with (
        redis_server(config=SYNC_AT_ONCE) as primary,
        redis_server(config=SYNC_AT_ONCE) as replica,
        contextlib.ExitStack() as stack,
    ):
        replica.follow(primary)
        all_watchers = [SentinelServer(primary) for _ in range(watchers)]
        for watcher in all_watchers:
            stack.callback(watcher.close)
            watcher.start()
            watcher.hurry()
        group = Sentinels([primary, replica], all_watchers)
        group.await_quorum()
        yield group
