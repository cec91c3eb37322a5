"""The controls of `@cached`: those of an `async def` are awaited."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_type

import resilient
from resilient import MISSING, LocalCache, cached
from resilient.policies.cached.controls import CacheStats, Explanation, Missing


@cached("{n}", ttl="10m", tags=("n:{n}",), local=LocalCache(100, ttl="30s"))
def function(n: int) -> list[int]:
    """A cached function."""
    return [n]


@cached(ttl=60)
async def coroutine(n: int) -> list[int]:
    """A cached async function."""
    return [n]


def blocking() -> None:
    """The controls take the function's arguments and answer its type."""
    controls = cached.of(function)
    assert_type(controls.key(1), str)
    assert_type(controls.invalidate(n=1), bool)
    assert_type(controls.refresh(1), list[int])
    assert_type(controls.uncached(1), list[int])
    assert_type(controls.peek(1), list[int] | Missing)
    assert_type(controls.clear(), None)
    assert_type(controls.stats(), CacheStats)
    assert_type(controls.expire(1), bool)
    assert_type(controls.explain(1), Explanation)
    assert_type(controls.warm([(1,), (2,)]), None)
    assert_type(controls.at(1).set([1]), None)
    assert_type(controls.at(n=1).peek(), list[int] | Missing)
    assert_type(controls.at(1).refresh(), list[int])
    with controls.bypass():
        assert_type(function(1), list[int])
    controls.at(1).set("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    controls.at("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    controls.invalidate("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    controls.refresh()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resilient.invalidate_tags("n:1", "n:2")


async def awaited() -> None:
    """The same names, awaited."""
    controls = cached.of(coroutine)
    assert_type(controls.key(1), str)
    assert_type(await controls.invalidate(1), bool)
    assert_type(await controls.refresh(1), list[int])
    assert_type(await controls.uncached(1), list[int])
    assert_type(await controls.peek(1), list[int] | Missing)
    assert_type(await controls.clear(), None)
    assert_type(controls.stats(), CacheStats)
    assert_type(await controls.expire(1), bool)
    assert_type(await controls.explain(1), Explanation)
    assert_type(await controls.warm([(1,), (2,)]), None)
    assert_type(await controls.at(1).set([1]), None)
    controls.clear()  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    await resilient.ainvalidate_tags("n:1")


def narrowed() -> list[int]:
    """`MISSING` can be told apart."""
    found = cached.of(function).peek(1)
    if isinstance(found, Missing):
        return []
    assert_type(found, list[int])
    return found


class Service:
    """A bound method has the controls of its own object."""

    @cached("{n}", ttl=60)
    def method(self, n: int) -> str:
        """A cached method."""
        return str(n)


@cached.batch("{ids}", key_arg="ids", ttl=60)
def batch(ids: Iterable[int]) -> dict[int, str]:
    """A cached batch."""
    return {n: str(n) for n in ids}


@cached.batch(key_arg="ids", ttl=60)
async def abatch(ids: list[int]) -> dict[int, str]:
    """A cached async batch."""
    return {n: str(n) for n in ids}


async def batches() -> None:
    """A batch keeps its type, and its controls take its arguments."""
    assert_type(batch([1, 2]), dict[int, str])
    assert_type(cached.batch.of(batch).invalidate([1]), int)
    assert_type(cached.batch.of(batch).uncached((1,)), dict[int, str])
    assert_type(cached.batch.of(batch).clear(), None)
    assert_type(await abatch([1]), dict[int, str])
    assert_type(await cached.batch.of(abatch).invalidate([1]), int)
    assert_type(await cached.batch.of(abatch).uncached([1]), dict[int, str])
    batch(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cached.batch(key_arg="ids", ttl=60, soft_ttl=5, stale_if_error="1h", early=True)
    assert_type(cached.batch.of(batch).stats(), CacheStats)
    cached.batch(ttl=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


assert_type(cached.of(Service().method).refresh(1), str)
assert_type(MISSING, Missing)
cached.of(7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
LocalCache("100")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
