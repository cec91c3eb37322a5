"""`cached.of(f)`: what else can be done with a cached function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Body, Plan
from resilient.policies.cached.plan import invalidated, invalidated_tags, peeked

if TYPE_CHECKING:
    from resilient.policies.cached.decorator import CachedLayer

__all__ = ["MISSING", "CacheControls", "CacheStats", "Missing"]

P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)
Peeked = TypeVar("Peeked", covariant=True)
Truth = TypeVar("Truth", covariant=True)
Nothing = TypeVar("Nothing", covariant=True)


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


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What happened to one function's calls in this process, on its present backend.

    The counts are approximate where threads count at the same moment.

    Attributes:
        hits: Calls that were answered with a value that was there, or that another caller in this
            process computed or fetched for them.
        local_hits: Those of them that were answered from the layer in this process.
        misses: Calls for which there was no value at the backend, or no backend.
        computed: Calls of the function itself.
        errors: Those of them that raised.
        backend_errors: Requests that failed at the backend.
        local_size: How many values the layer in this process holds.
        max_staleness: Seconds for which this process may at most serve a value that another one
            has invalidated; usually it hears of that at once.
    """

    hits: int = 0
    local_hits: int = 0
    misses: int = 0
    computed: int = 0
    errors: int = 0
    backend_errors: int = 0
    local_size: int = 0
    max_staleness: float = 0.0


class CacheControls(Generic[P, Result, Peeked, Truth, Nothing]):
    """What else can be done with a cached function; awaitable if the function is.

    All but `stats` and `key` raise `BackendError` if the backend is away: nothing may have been
    invalidated then.
    """

    def __init__(self, layer: CachedLayer, bound: tuple[Any, ...]) -> None:
        self._layer = layer
        self._bound = bound

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
        near = self._layer.attend()
        if near is None:
            return CacheStats()
        counters = near.counters
        local_hits = near.values.hits
        return CacheStats(
            hits=counters.hits + local_hits,
            local_hits=local_hits,
            misses=counters.misses,
            computed=counters.computed,
            errors=counters.errors,
            backend_errors=counters.backend_errors,
            local_size=len(near.values),
            max_staleness=near.max_staleness,
        )

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
