"""What is changed or looked at by hand, as plans: invalidations, and what is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from resilient.engine.failure import Failure
from resilient.engine.persistence import BUDGET
from resilient.engine.plan import Plan
from resilient.errors import CodecError
from resilient.policies.cached.asking import insisted
from resilient.policies.cached.near import Near
from resilient.protocols.cache import CacheStore

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["changed", "invalidated", "invalidated_tags", "peeked"]

T = TypeVar("T")


async def invalidated(near: Near, key: str) -> bool:
    """Remove a value everywhere, and have what computes it now come to nothing."""
    store: CacheStore = near.backend.require("cache")
    return await changed(near, [key], partial(store.delete, key))


async def changed(near: Near, keys: Sequence[str], change: Callable[[], Plan[T]]) -> T:
    """Change entries at the backend, and have nothing of them at hand here."""
    for key in keys:
        near.nearby.hear(key)
    try:
        return await insisted(change, BUDGET)
    finally:
        for key in keys:
            near.nearby.hear(key)  # again: it may have been read meanwhile


async def invalidated_tags(backend: Backend, tags: tuple[str, ...]) -> None:
    """Make everything that has one of the tags a miss, everywhere."""
    store: CacheStore = backend.require("cache")
    try:
        await insisted(partial(store.invalidate_tags, tags), BUDGET)
    finally:
        for tag in tags:
            backend.nearby.hear(f"#{tag}")


async def peeked(near: Near, key: str, missing: Any) -> Any:
    """What is stored; nothing is computed, kept or counted."""
    found = near.values.find(key)
    if found is not None:
        return near.given(found)
    store: CacheStore = near.backend.require("cache")
    entry = await store.get(key)
    if entry is not None:
        with suppress(CodecError):
            value = near.records.decode(key, entry.value)
            return missing if type(value) is Failure else value
    return missing
