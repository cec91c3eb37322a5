"""Where the primary is: asked of sentinels, by redis-py's own client, for each new connection.

https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from resilient.engine.budget import remaining

__all__ = ["AsyncPrimary", "Primary", "Sentinels"]


@dataclass
class Sentinels:
    """Whom to ask for which primary.

    Attributes:
        places: Hosts and ports; the one that knew the answer last comes first.
        service: What they call the primary.
        options: How to connect to them, as redis-py's clients take it.
        min_others: How many others each must see, to be believed.
        force_ip: Where the primary is instead, if what they see is another network.
        patience: Seconds for asking all of them, one after the other.
    """

    places: list[tuple[str, int]]
    service: str
    options: dict[str, Any]
    min_others: int
    force_ip: str | None
    patience: float

    def manager(self, kind: type[Any]) -> Any:
        """A new client of them: it is used once, so that no thread, loop or fork shares it."""
        left = remaining()
        if left == 0:
            raise redis_errors.TimeoutError("the caller's budget is spent")
        patience = self.patience if left is None else min(left, self.patience)
        each = patience / (len(self.places) + 1)  # as many, and the primary itself
        options = {"socket_timeout": each, "socket_connect_timeout": each, **self.options}
        options["retry"] = Retry(NoBackoff(), 0)
        return kind(
            self.places,
            min_other_sentinels=self.min_others,
            sentinel_kwargs=options,
            force_master_ip=self.force_ip,
        )

    def remember(self, manager: Any) -> None:
        """Ask first whoever knew the answer."""
        found = [each.connection_pool.connection_kwargs for each in manager.sentinels]
        self.places = [(each["host"], each["port"]) for each in found]


class _Primary:
    """What redis-py's `SentinelManagedConnection` takes for its pool."""

    is_master = True
    check_connection = False

    def __init__(self, sentinels: Sentinels) -> None:
        self._sentinels = sentinels
        self.service_name = sentinels.service


class Primary(_Primary):
    """For blocking connections."""

    def get_master_address(self) -> tuple[str, int]:
        """Where it is now; `MasterNotFoundError` if no sentinel knows."""
        with self._sentinels.manager(Sentinel) as manager:
            found: tuple[str, int] = manager.discover_master(self.service_name)
            self._sentinels.remember(manager)
            return found


class AsyncPrimary(_Primary):
    """For those of an event loop."""

    async def get_master_address(self) -> tuple[str, int]:
        """Where it is now; `MasterNotFoundError` if no sentinel knows."""
        async with self._sentinels.manager(AsyncSentinel) as manager:
            found: tuple[str, int] = await manager.discover_master(self.service_name)
            self._sentinels.remember(manager)
            return found
