"""Tags that a function adds while it runs (`ctx.tag`): they invalidate as those known before do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import CacheContext, LocalCache, ainvalidate_tags, cached, invalidate_tags
from resilient.engine import clock
from resilient.engine.backend import Backend
from resilient.engine.clock import ManualClock
from tests.support.fixtures import Target
from tests.support.modes import Mode

NO_CONTEXT = CacheContext()


class Source:
    """What a cached function reads: a value, or an error."""

    def __init__(self) -> None:
        self.value = "old"

    def cached(self, mode: Mode, **options: Any) -> Callable[..., Any]:
        """A cached function whose values have the tag `t`, which only it knows."""

        async def f(x: int, ctx: CacheContext = NO_CONTEXT) -> str:
            if self.value == "":
                raise LookupError
            ctx.tag("t")
            return self.value

        return mode.decorate(
            cached("{x}", **{"ttl": 600, "namespace": "n", "backend_timeout": "10s", **options}), f
        )


def invalidate(mode: Mode) -> Callable[..., Any]:
    """`invalidate_tags` in the mode's form."""
    return ainvalidate_tags if mode.is_async else invalidate_tags


def test_what_was_read_goes_too(mode: Mode, target: Target) -> None:
    """A value at hand that came from the backend is dropped by the tags that it was stored with."""
    source = Source()
    writer, reader = (source.cached(mode, local=LocalCache()) for _ in range(2))
    with resilient.using(target.url, prefix=target.prefix):
        assert (mode.call(writer, 1), mode.call(reader, 1)) == ("old", "old")
        stats = cached.of(reader).stats()
        assert (stats.computed, stats.local_size) == (0, 1)
        source.value = "new"
        mode.call(invalidate(mode), "t")
        assert (mode.call(reader, 1), mode.call(writer, 1)) == ("new", "new")


@pytest.mark.parametrize("tag", ["\udc80", "a\0b", 'tw"o', "@n", "#t"])
def test_odd_tags(mode: Mode, target: Target, tag: str) -> None:
    """Whatever a text holds, the same one invalidates; a lone surrogate as well."""
    ran: list[int] = []

    async def f(ctx: CacheContext = NO_CONTEXT) -> int:
        ran.append(1)
        ctx.tag(tag)
        return len(ran)

    f = mode.decorate(cached(ttl=600, backend_timeout="10s"), f)
    with resilient.using(target.url, prefix=target.prefix):
        assert [mode.call(f), mode.call(f)] == [1, 1]
        mode.call(invalidate(mode), tag)
        assert [mode.call(f), mode.call(f)] == [2, 2]


def test_a_fallback_keeps_its_tags(mode: Mode, target: Target) -> None:
    """A value that is served because the function failed is invalidated by all its tags."""
    source = Source()
    f = source.cached(mode, stale_if_error=600, throttle=300, local=None)
    with resilient.using(target.url, prefix=target.prefix) as backend:
        assert mode.call(f, 1) == "old"
        backend.sync.cache.expire(cached.of(f).key(1))
        source.value = ""
        assert mode.call(f, 1) == "old"
        stored = backend.sync.cache.get(cached.of(f).key(1))
        assert stored is not None, "it is stored again, to be served for a while"
        assert "t" in stored.tags
        mode.call(invalidate(mode), "t")
        with pytest.raises(LookupError):
            mode.call(f, 1)


@pytest.mark.parametrize("named", ["early", "late"])
def test_who_comes_after_does_not_join(mode: Mode, target: Target, named: str) -> None:
    """Who calls after an invalidation gets a new value, if the tag was named before it or after."""
    data = {"value": "old"}
    reading = threading.Event()
    own: list[Any] = []

    async def f(x: int, ctx: CacheContext = NO_CONTEXT) -> str:
        value = data["value"]
        if named == "early":
            ctx.tag("t")
        if value == "old":
            own[:] = [flights._flying[key], len(flights._flying[key]._riders)]
            reading.set()
            while not has_boarded():
                await mode.sleep(0.001)
        ctx.tag("t")
        return value

    def has_boarded() -> bool:
        """Whether the second caller waits: for the first one's flight, or for its own."""
        flight = flights._flying.get(key)
        return flight is not None and (flight is not own[0] or len(flight._riders) > own[1])

    async def second() -> str:
        while not reading.is_set():
            await mode.sleep(0.001)
        data["value"] = "new"
        await mode.within(invalidate(mode), "t")
        found: str = await mode.within(f, 1)
        return found

    f = mode.decorate(cached("{x}", ttl=600, backend_timeout="10s", local=LocalCache()), f)
    with resilient.using(target.url, prefix=target.prefix) as backend:
        flights, key = backend.nearby.flights, cached.of(f).key(1)
        assert mode.together(partial(f, 1), mode.function(second)) == ["old", "new"]
        assert [mode.call(f, 1), mode.call(cached.of(f).peek, 1)] == ["new", "new"]


class Afterwards:
    """A cache store in front of another one, with something to do after one operation."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.after: dict[str, Callable[[], object]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            answer = await method(*args, **kwargs)
            self.after.pop(name, bool)()
            return answer

        return ask


def after(backend: Backend, operation: str) -> None:
    """Have the tag heard to be invalidated when the reply of the next such operation has come."""
    store: Any = (
        backend.cache if isinstance(backend.cache, Afterwards) else Afterwards(backend.cache)
    )
    store.after[operation] = partial(backend.hub.deliver, "cache", "#t")
    backend.cache = store


@pytest.mark.parametrize("operation", ["fill", "fetch"])
def test_invalidated_with_the_reply(mode: Mode, operation: str) -> None:
    """What is invalidated when it has just been stored or read is answered, and not kept here."""
    source = Source()
    with resilient.using("memory://") as backend:
        f, g = (source.cached(mode) for _ in range(2))
        if operation == "fetch":
            mode.call(g, 1)
        after(backend, operation)
        for size in (0, 1):
            assert mode.call(f, 1) == "old"
            assert cached.of(f).stats().local_size == size


def test_stale_value_invalidated_with_the_reply(mode: Mode) -> None:
    """A stale value is not served when one of its tags has just been invalidated."""
    source, manual = Source(), ManualClock()
    with clock.installed(manual), resilient.using("memory://") as backend:
        f = source.cached(mode, soft_ttl=60)
        assert mode.call(f, 1) == "old"
        manual.advance(61)
        source.value = "new"
        after(backend, "fetch")
        assert mode.call(f, 1) == "new"
