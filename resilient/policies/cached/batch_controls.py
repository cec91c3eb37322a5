"""What can be done by hand with a cached batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Plan, all_of
from resilient.engine.wrap import Controls
from resilient.policies.cached.changes import changed, invalidated_tags
from resilient.policies.cached.layer import CacheStats
from resilient.policies.cached.near import Near
from resilient.protocols.cache import CacheStore

if TYPE_CHECKING:
    from resilient.policies.cached.batch import BatchLayer

__all__ = ["BatchControls"]

P = ParamSpec("P")
Result = TypeVar("Result", covariant=True)
Count = TypeVar("Count", covariant=True)
Nothing = TypeVar("Nothing", covariant=True)


class BatchControls(Controls[Any], Generic[P, Result, Count, Nothing]):
    """What else can be done with a cached batch; awaitable if the function is."""

    _layer: BatchLayer

    def keys(self, *args: P.args, **kwargs: P.kwargs) -> dict[Any, str]:
        """The key of each item of a call."""
        calls = self._layer.calls(*self._bound, *args, **kwargs)
        return {item: call.key for item, call in calls.items()}

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> Count:
        """Forget the values of these items, in every process; how many of them had one.

        Raises:
            BackendError: The backend could not be told: some may still be served.
        """
        keys = self.keys(*args, **kwargs).values()
        count: Count = self._run(lambda near: _forgotten(near, list(keys)), 0)
        return count

    def clear(self) -> Nothing:
        """Forget every value of the function's namespace, in every process, in one operation."""
        tag = self._layer.settings.namespace
        nothing: Nothing = self._run(lambda near: invalidated_tags(near.backend, (tag,)), None)
        return nothing

    def stats(self) -> CacheStats:
        """What happened in this process; no question is asked of the backend."""
        return self._layer.stats()

    def bypass(self) -> AbstractContextManager[None]:
        """Within `with`, calls of this thread or task go to the function itself."""
        return self._layer.bypass()

    def uncached(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Call the function itself, with all items."""
        result: Result = self._layer.function(*self._bound, *args, **kwargs)
        return result

    def _run(self, plan: Callable[[Near], Plan[Any]], otherwise: Any) -> Any:
        async def running() -> Any:
            near = self._layer.attend()
            return otherwise if near is None else await plan(near)

        if self._layer.shape.mode == "sync":
            return drive(running())
        from resilient.engine.drivers.aio import adrive

        return adrive(running())


async def _forgotten(near: Near, keys: list[str]) -> int:
    store: CacheStore = near.backend.require("cache")
    return sum(await changed(near, keys, lambda: all_of([store.delete(key) for key in keys])))
