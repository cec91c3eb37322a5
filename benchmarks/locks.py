"""Acquire and release of a lock that nobody else wants: two commands of Redis, or one each."""

from __future__ import annotations

from typing import Any

import resilient
from benchmarks.harness import Group, Mode, Place

RELEASE = """\
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0"""
KINDS = ("redis", "sqlite", "memory")


def groups() -> list[Group]:
    """Sync and async."""
    return [_blocking(), _awaited()]


def _blocking() -> Group:
    group = _ours("sync")

    @group.case("redis-py Lock")
    def _(place: Place) -> Any:
        def call(n: int) -> None:
            with place.client.lock("redis-py", timeout=30):
                pass

        return call

    @group.case("python-redis-lock")
    def _(place: Place) -> Any:
        import redis_lock

        def call(n: int) -> None:
            with redis_lock.Lock(place.client, "redis-lock", expire=30):
                pass

        return call

    @group.case("python-redis-lock, renewed")
    def _(place: Place) -> Any:
        import redis_lock

        def call(n: int) -> None:
            with redis_lock.Lock(place.client, "redis-lock-2", expire=30, auto_renewal=True):
                pass

        return call

    return group


def _awaited() -> Group:
    group = _ours("async")

    @group.case("redis.asyncio Lock")
    def _(place: Place) -> Any:
        async def call(n: int) -> None:
            async with place.client.lock("redis-py-async", timeout=30):
                pass

        return call

    @group.case("cashews lock")
    def _(place: Place) -> Any:
        cache = cashews(place)

        async def call(n: int) -> None:
            async with cache.lock("cashews-lock", expire=30):
                pass

        return call

    @group.case("aiocache RedLock")
    def _(place: Place) -> Any:
        from aiocache import Cache
        from aiocache.lock import RedLock

        cache = Cache.from_url(place.server.url)
        place.exits.push_async_callback(cache.close)

        async def call(n: int) -> None:
            async with RedLock(cache, "aiocache-lock", lease=30):
                pass

        return call

    return group


def _ours(mode: Mode) -> Group:
    """The baseline and our own, which read the same in both modes."""
    group = Group("lock: acquire and release, uncontended", mode)

    @group.case("redis-py: SET NX PX, EVALSHA")
    def _(place: Place) -> Any:
        client = place.client
        release = client.register_script(RELEASE)

        def call(n: int) -> None:
            client.set("raw-lock", "owner", nx=True, px=30_000)
            release(keys=["raw-lock"], args=["owner"])

        async def acall(n: int) -> None:
            await client.set("raw-lock-async", "owner", nx=True, px=30_000)
            await release(keys=["raw-lock-async"], args=["owner"])

        return call if mode == "sync" else acall

    for kind in KINDS:
        group.case(f"resilient, {kind}")(_locked(kind))
    return group


def _locked(kind: str) -> Any:
    def make(place: Place) -> Any:
        return resilient.distributed_lock("k:{n}", backend=place.backend(kind))(place.body)

    return make


def cashews(place: Place) -> Any:
    """cashews on the server."""
    from cashews import Cache

    cache = Cache()
    cache.setup(place.server.url)
    place.exits.push_async_callback(cache.close)
    return cache
