"""`fenced(client, key, lease)`: writes to the user's own Redis that a stale holder cannot make.

Beside the key lies the highest fence that has written to it. One script compares, keeps and writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable
from functools import cache
from typing import TYPE_CHECKING, Any, overload

from resilient.engine.drivers.sync import drive
from resilient.engine.lease import Lease
from resilient.errors import ConfigurationError, KeyMissing, LeaseLost

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
    from redis.cluster import RedisCluster

__all__ = ["AsyncFenced", "Fenced", "fenced"]

MEMORY = 7 * 86_400_000
"""Milliseconds for which a fence is remembered after the last write."""
HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")


@overload
def fenced(client: Redis | RedisCluster, key: str, lease: Lease) -> Fenced: ...


@overload
def fenced(client: AsyncRedis | AsyncRedisCluster, key: str, lease: Lease) -> AsyncFenced: ...


def fenced(client: Any, key: str, lease: Lease) -> Fenced | AsyncFenced:
    """A key of your own Redis, for writes under a lock: refused if a later holder has written.

    The fence of the last write is kept beside the key, in the same cluster slot (`{key}:fence`, or
    `key:fence` where the key has a hash tag), for seven days after it.

    Args:
        client: A `redis.Redis` or `RedisCluster`, or one of `redis.asyncio`, of any settings.
        key: The key that is written.
        lease: The lease under which it is written, of an exclusive lock.

    Raises:
        ConfigurationError: It is no such client, or no key beside this one is in its slot.

    Example:
        >>> import redis, resilient
        >>> def settle(client: redis.Redis, number: int) -> None:
        ...     with resilient.lock(f"invoice:{number}") as lease:
        ...         resilient.fenced(client, f"invoice:{number}:state", lease).set("settled")
    """
    if not isinstance(key, str):
        raise ConfigurationError(f"fenced(): key={key!r} is not a string")
    if not key:
        raise KeyMissing("fenced(): the key is empty")
    if not lease.is_exclusive:
        raise ConfigurationError(
            f"fenced(): several may hold the {lease.kind} {lease.key!r} at once, so that no fence "
            "tells which of their writes comes too late"
        )
    kinds: list[tuple[Any, str, type[Fenced] | type[AsyncFenced]]] = [
        (sys.modules.get("redis.client"), "Redis", Fenced),
        (sys.modules.get("redis.cluster"), "RedisCluster", Fenced),
        (sys.modules.get("redis.asyncio.client"), "Redis", AsyncFenced),
        (sys.modules.get("redis.asyncio.cluster"), "RedisCluster", AsyncFenced),
    ]
    for module, name, made in kinds:
        if module is not None and isinstance(client, getattr(module, name)):
            if hasattr(client, "command_stack"):  # what a pipeline answers comes too late
                break
            return made(client, key, lease)
    raise ConfigurationError(
        f"fenced(): {client!r} is not a client of redis.Redis, redis.asyncio.Redis or a cluster"
    )


class _FencedKey:
    """What both forms share: the write, as a plan."""

    def __init__(self, client: Any, key: str, lease: Lease) -> None:
        self.key = key
        self.lease = lease
        self._names = [key, _fence_of(key)]
        self._script = client.register_script(_text())

    async def _write(self, command: str, arguments: tuple[Any, ...]) -> Any:
        lease = self.lease
        lease.check()
        answer = self._script(keys=self._names, args=[lease.fence, MEMORY, command, *arguments])
        accepted, result = await answer if isinstance(answer, Awaitable) else answer
        if accepted:
            return result
        raise LeaseLost(
            f"the {lease.kind} {lease.key!r} (fence {lease.fence}) is lost: a later holder has "
            f"written {self.key!r} under the fence {int(result)}",
            key=lease.key,
            fence=lease.fence,
        )

    def __repr__(self) -> str:
        return f"<fenced {self.key!r} under {self.lease.fence}>"


class Fenced(_FencedKey):
    """Writes to one key under one lease, by a blocking client: made by `fenced`."""

    def set(self, value: Any, *options: Any) -> Any:
        """`SET key value`, with options as the server knows them: `"EX", 60`."""
        return self.execute("SET", value, *options)

    def execute(self, command: str, *arguments: Any) -> Any:
        """Any command whose first argument is the key: `execute("HSET", "state", "settled")`.

        Its answer is the server's own, as bytes or text by the client's settings.

        Raises:
            LeaseLost: A later holder has written, or the lease is known to be lost; nothing was
                written.
        """
        return drive(self._write(command, arguments))


class AsyncFenced(_FencedKey):
    """Writes to one key under one lease, by a client of `redis.asyncio`: made by `fenced`."""

    async def set(self, value: Any, *options: Any) -> Any:
        """`SET key value`, with options as the server knows them: `"EX", 60`."""
        return await self.execute("SET", value, *options)

    async def execute(self, command: str, *arguments: Any) -> Any:
        """Any command whose first argument is the key: see `Fenced.execute`."""
        return await self._write(command, arguments)


def _fence_of(key: str) -> str:
    """The key of the fence: in the slot of the user's key."""
    if HASH_TAG.match(key):
        return f"{key}:fence"
    if "}" in key:
        raise ConfigurationError(
            f"fenced(): key={key!r} has a brace outside a hash tag, so that no other key is "
            "certain to lie in its slot"
        )
    return f"{{{key}}}:fence"


@cache
def _text() -> str:
    from importlib.resources import files  # costs more to import than all of the rest here

    path = files("resilient.connections") / "lua" / "fenced.lua"
    return path.read_text(encoding="utf-8")
