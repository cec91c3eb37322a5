"""`cached.of(f)`: what else can be done with a cached function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, ParamSpec, TypeVar

from resilient.engine.drivers.sync import drive
from resilient.engine.guard import guarded
from resilient.engine.plan import Body, Plan
from resilient.engine.wrap import Controls
from resilient.policies.cached.changes import changed, invalidated, invalidated_tags, peeked
from resilient.policies.cached.layer import CacheStats
from resilient.protocols.cache import CacheStore

if TYPE_CHECKING:
    from resilient.policies.cached.decorator import CachedLayer

__all__ = ["MISSING", "CacheControls", "CacheEntry", "CacheStats", "Explanation", "Missing"]

P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)
Peeked = TypeVar("Peeked", covariant=True)
Truth = TypeVar("Truth", covariant=True)
Nothing = TypeVar("Nothing", covariant=True)
Explained = TypeVar("Explained", covariant=True)
Value = TypeVar("Value", contravariant=True)


class Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""What `peek` answers where nothing is stored: `None` is a value like any other."""


class Explanation(NamedTuple):
    """Where a call would be answered from at this moment.

    Attributes:
        key: Its key.
        tags: What its value can be invalidated by.
        answer: `"local"`: from this process; `"stored"`: from the backend; `"computed"`.
        ttl: Seconds for which the stored value is served, if there is one.
        fresh: Seconds until it is computed anew; less than nothing: with the next call.
        backend_is_away: Whether the backend is being left alone.
    """

    key: str
    tags: tuple[str, ...]
    answer: Literal["local", "stored", "computed"]
    ttl: float | None = None
    fresh: float | None = None
    backend_is_away: bool = False


class CacheControls(Controls[Any], Generic[P, Result, Peeked, Truth, Nothing, Explained, Value]):
    """What else can be done with a cached function; awaitable if the function is.

    All but `stats` and `key` raise `BackendError` if the backend is away: nothing may have been
    invalidated then.
    """

    _layer: CachedLayer

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call with these arguments."""
        return self._layer.key(*self._bound, *args, **kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Truth:
        """Forget the value of these arguments, in every process; whether there was one.

        What is being computed at this moment is not stored. Call it after the transaction that
        changed the data has been committed.
        """
        existed: Truth = self._run(self._invalidated(self.key(*args, **kwargs)))
        return existed

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Forget the value of these arguments and compute it now."""
        cached = self._layer.cached
        plan = self._refreshed(self.key(*args, **kwargs))
        result: Result = self._run(plan, lambda _: cached(*self._bound, *args, **kwargs))
        return result

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> Peeked:
        """The stored value of these arguments, or `MISSING`; nothing is computed."""
        found: Peeked = self._run(self._peeked(self.key(*args, **kwargs)))
        return found

    def expire(self, *args: P.args, **kwargs: P.kwargs) -> Truth:
        """Serve the value of these arguments no more, in every process; whether there was one.

        Unlike `invalidate` it leaves a copy to fall back on: for `stale_if_error`.
        """
        existed: Truth = self._run(self._expired(self.key(*args, **kwargs)))
        return existed

    def at(
        self, *args: P.args, **kwargs: P.kwargs
    ) -> CacheEntry[Result, Peeked, Truth, Nothing, Explained, Value]:
        """The entry of a call with these arguments."""
        return CacheEntry(self, args, kwargs)

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explained:
        """Where a call with these arguments would be answered from; nothing is changed by it."""
        tags = self._layer.tags(*self._bound, *args, **kwargs)
        explained: Explained = self._run(self._explained(self.key(*args, **kwargs), tags))
        return explained

    def warm(self, calls: Iterable[tuple[Any, ...]]) -> Nothing:
        """Compute what is missing of these calls, one after the other: tuples of arguments."""
        cached, bound = self._layer.cached, self._bound
        if self._layer.shape.mode == "sync":
            for arguments in calls:
                cached(*bound, *arguments)
            done: Any = None
        else:

            async def all_of_them() -> None:
                for arguments in calls:
                    await cached(*bound, *arguments)

            done = all_of_them()
        nothing: Nothing = done  # `None`, or what is awaited for it
        return nothing

    def bypass(self) -> AbstractContextManager[None]:
        """Within `with`, calls of this thread or task go to the function itself."""
        return self._layer.bypass()

    def uncached(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call the function itself: nothing is looked up, nothing is stored."""
        result: Result = self._layer.function(*self._bound, *args, **kwargs)
        return result

    def clear(self) -> Nothing:
        """Forget every value of the function, in every process, in one operation.

        That is: of its namespace, which other functions may share.
        """
        nothing: Nothing = self._run(self._cleared())
        return nothing

    def stats(self) -> CacheStats:
        """What happened in this process; no question is asked of the backend."""
        return self._layer.stats()

    def _set(self, key: str, tags: tuple[str, ...], value: Any) -> Any:
        return self._run(self._stored(key, tags, value))

    async def _stored(self, key: str, tags: tuple[str, ...], value: Any) -> None:
        near = self._layer.attend()
        if near is None:
            return
        settings = self._layer.settings
        life = await settings.freshness.of_value(
            value, 0.0, ttl=None, no_store=False, longest=near.backend.max_ttl
        )
        store: CacheStore = near.backend.require("cache")
        if life is None:
            await changed(near, [key], partial(store.delete, key))
            return
        record = near.records.encode(key, value)
        put = partial(
            store.set,
            key,
            record,
            ttl=life.ttl,
            fresh=life.fresh,
            stale=life.stale,
            tags=tags,
        )
        await changed(near, [key], partial(guarded, put))

    async def _expired(self, key: str) -> bool:
        near = self._layer.attend()
        if near is None:
            return False
        store: CacheStore = near.backend.require("cache")
        return await changed(near, [key], partial(store.expire, key))

    async def _explained(self, key: str, tags: tuple[str, ...]) -> Explanation:
        near = self._layer.attend()
        if near is None:
            return Explanation(key, tags, "computed")
        away = near.backend.outage.is_on
        if near.values.find(key) is not None or near.values.find_stale(key) is not None:
            return Explanation(key, tags, "local", backend_is_away=away)
        if away:
            return Explanation(key, tags, "computed", backend_is_away=True)
        store: CacheStore = near.backend.require("cache")
        entry = await store.get(key)
        if entry is None:
            return Explanation(key, tags, "computed")
        return Explanation(key, tags, "stored", entry.ttl, entry.fresh)

    async def _invalidated(self, key: str) -> bool:
        near = self._layer.attend()
        return False if near is None else await invalidated(near, key)

    async def _refreshed(self, key: str) -> Any:
        await self._invalidated(key)
        return await Body()

    async def _peeked(self, key: str) -> Any:
        near = self._layer.attend()
        return MISSING if near is None else await peeked(near, key, MISSING)

    async def _cleared(self) -> None:
        near = self._layer.attend()
        if near is not None:
            await invalidated_tags(near.backend, (self._layer.settings.namespace,))

    def _run(self, plan: Plan[Any], function: Callable[[Any], Any] | None = None) -> Any:
        if self._layer.shape.mode == "sync":
            return drive(plan, function)
        from resilient.engine.drivers.aio import adrive

        return adrive(plan, function)


class CacheEntry(Generic[Result, Peeked, Truth, Nothing, Explained, Value]):
    """One call of a cached function: `cached.of(f).at(7)`."""

    def __init__(
        self,
        controls: CacheControls[Any, Result, Peeked, Truth, Nothing, Explained, Value],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._controls = controls
        self._args = args
        self._kwargs = kwargs

    @property
    def key(self) -> str:
        """Its key."""
        return self._controls.key(*self._args, **self._kwargs)

    def set(self, value: Value) -> Nothing:
        """Store a value, in the place of a computed one, for as long as the options say.

        What is being computed at this moment is not stored. A result that `cache_if` or `ttl`
        would not have kept is not kept either: the entry is removed.

        Raises:
            CodecError: The value has no stored form.
        """
        layer, bound = self._controls._layer, self._controls._bound
        tags = layer.tags(*bound, *self._args, **self._kwargs)
        nothing: Nothing = self._controls._set(self.key, tags, value)
        return nothing

    def invalidate(self) -> Truth:
        """Forget its value; see `CacheControls.invalidate`."""
        return self._controls.invalidate(*self._args, **self._kwargs)

    def expire(self) -> Truth:
        """Serve its value no more; see `CacheControls.expire`."""
        return self._controls.expire(*self._args, **self._kwargs)

    def refresh(self) -> Result:
        """Forget its value and compute it now."""
        return self._controls.refresh(*self._args, **self._kwargs)

    def peek(self) -> Peeked:
        """Its stored value, or `MISSING`."""
        return self._controls.peek(*self._args, **self._kwargs)

    def explain(self) -> Explained:
        """Where a call would be answered from; see `CacheControls.explain`."""
        return self._controls.explain(*self._args, **self._kwargs)
