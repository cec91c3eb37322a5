"""A cache hit: in this process, and from Redis."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import resilient
from benchmarks.harness import Group, Mode, Place
from benchmarks.locks import cashews
from benchmarks.retries import MODES

TASKS = 64
VALUE = {"id": 7, "name": "Ada", "tags": ["a", "b"]}


def groups() -> list[Group]:
    """In this process and from the server, sync and async."""
    return [_local(), _in_threads(), _alocal(), *(_shared(mode) for mode in MODES), _at_once()]


def function(n: int) -> dict[str, Any]:
    """What is cached."""
    return VALUE


async def afunction(n: int) -> dict[str, Any]:
    """The same, async."""
    return VALUE


def _local() -> Group:
    group = Group("cache: a hit in this process", "sync")
    group.case("functools.lru_cache")(lambda place: functools.lru_cache(function))
    _ours(group, "memory")
    _ours(group, "redis")

    @group.case("cachetools TTLCache, with a lock")
    def _(place: Place) -> Any:
        import cachetools

        store: Any = cachetools.TTLCache(1000, 600)
        return cachetools.cached(store, lock=threading.Lock())(function)

    @group.case("dogpile.cache, memory")
    def _(place: Place) -> Any:
        from dogpile.cache import make_region

        region = make_region().configure("dogpile.cache.memory", expiration_time=600)
        return region.cache_on_arguments()(function)

    return group


def _in_threads() -> Group:
    """The same hits by four threads at once; each measured call is a thousand of them."""
    group = Group("cache: 1,000 hits in this process by 4 threads", "sync")

    def crowd(place: Place, cached: Any) -> Any:
        pool = ThreadPoolExecutor(4)
        place.exits.callback(pool.shutdown)

        def some(n: int) -> None:
            for _ in range(250):
                cached(n)

        return lambda n: list(pool.map(some, [n] * 4))

    @group.case("cachetools TTLCache, with a lock")
    def _(place: Place) -> Any:
        import cachetools

        store: Any = cachetools.TTLCache(1000, 600)
        return crowd(place, cachetools.cached(store, lock=threading.Lock())(function))

    @group.case("resilient, memory")
    def _(place: Place) -> Any:
        cached = resilient.cached("{n}", ttl=600, backend=place.backend("memory"))
        return crowd(place, cached(function))

    return group


def _alocal() -> Group:
    group = Group("cache: a hit in this process", "async")

    @group.case("functools.lru_cache inside an async def")
    def _(place: Place) -> Any:
        inner = functools.lru_cache(function)

        async def call(n: int) -> dict[str, Any]:
            return inner(n)

        return call

    _ours(group, "memory")
    _ours(group, "redis")

    @group.case("aiocache, memory")
    def _(place: Place) -> Any:
        import aiocache

        return aiocache.cached(ttl=600)(afunction)

    @group.case("cashews, memory")
    def _(place: Place) -> Any:
        from cashews import Cache

        cache = Cache()
        cache.setup("mem://")
        place.exits.push_async_callback(cache.close)
        return cache(ttl=600, key="k:{n}")(afunction)

    return group


def _shared(mode: Mode) -> Group:
    group = Group("cache: a hit that asks the server", mode)

    @group.case("redis-py: GET, json.loads")
    def _(place: Place) -> Any:
        client = place.client

        def call(n: int) -> Any:
            return json.loads(client.get("raw-cache"))

        async def acall(n: int) -> Any:
            return json.loads(await client.get("raw-cache"))

        with place.server.client() as setter:
            setter.set("raw-cache", json.dumps(VALUE))
        return call if mode == "sync" else acall

    _ours(group, "redis", local=None)
    _ours(group, "sqlite", local=None)
    if mode == "sync":
        group.case("dogpile.cache, redis")(_dogpile)
    else:
        group.case("aiocache, redis")(_aiocache)
        group.case("cashews, redis")(_cashews)
    return group


def _at_once() -> Group:
    """Many tasks that ask at the same time; each measured call is a hit of each."""
    group = Group(f"cache: {TASKS} hits at once that ask the server", "async")

    def crowd(call: Any) -> Any:
        async def all_of_them(n: int) -> Any:
            return await asyncio.gather(*[call(n) for _ in range(TASKS)])

        return all_of_them

    @group.case("redis-py: GET, json.loads")
    def _(place: Place) -> Any:
        client = place.client

        async def call(n: int) -> Any:
            return json.loads(await client.get("raw-cache"))

        with place.server.client() as setter:
            setter.set("raw-cache", json.dumps(VALUE))
        return crowd(call)

    @group.case("resilient, redis")
    def _(place: Place) -> Any:
        cached = resilient.cached("{n}", ttl=600, backend=place.backend("redis"), local=None)
        return crowd(cached(afunction))

    return group


def _ours(group: Group, kind: str, **options: Any) -> None:
    @group.case(f"resilient, {kind}")
    def _(place: Place) -> Any:
        cached = resilient.cached("{n}", ttl=600, backend=place.backend(kind), **options)
        return cached(function if group.mode == "sync" else afunction)


def _dogpile(place: Place) -> Any:
    from dogpile.cache import make_region

    region = make_region().configure(
        "dogpile.cache.redis", expiration_time=600, arguments={"url": place.server.url}
    )
    return region.cache_on_arguments()(function)


def _aiocache(place: Place) -> Any:
    from aiocache import Cache, cached
    from aiocache.serializers import JsonSerializer

    at = urlsplit(place.server.url)
    decorator = cached(
        ttl=600,
        key_builder=lambda function, n: f"aiocache:{n}",
        cache=Cache.REDIS,
        serializer=JsonSerializer(),
        endpoint=at.hostname,
        port=at.port,
    )
    decorated = decorator(afunction)
    place.exits.push_async_callback(decorated.cache.close)
    return decorated


def _cashews(place: Place) -> Any:
    return cashews(place)(ttl=600, key="cashews:{n}")(afunction)
