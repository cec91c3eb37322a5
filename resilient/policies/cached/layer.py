"""What a cached function and a cached batch have in common: where their values are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, NamedTuple

from resilient import config
from resilient.engine.keys import namespace_of
from resilient.engine.names import label
from resilient.engine.wrap import Layer, Shape
from resilient.errors import ConfigurationError
from resilient.policies.cached.hits import View
from resilient.policies.cached.near import LocalCache, Near
from resilient.policies.cached.settings import Settings

__all__ = ["CacheStats", "NearLayer", "namespace_for", "versioned"]

DEFAULT_LOCAL = LocalCache()
"""The layer in this process where coherence is watched and none was asked for."""


class CacheStats(NamedTuple):
    """What happened to one function's calls in this process, on its present backend.

    The counts are approximate where threads count at the same moment.

    Attributes:
        hits: Calls that were answered with a value that was there, or that another caller in this
            process computed or fetched for them.
        local_hits: Those of them that were answered from the layer in this process.
        misses: Calls for which there was no value at the backend, or no backend.
        computed: Calls of the function itself.
        errors: Those of them that raised.
        stale: Calls that were answered with a stale value: while it was computed anew, or because
            the function or the backend failed.
        unreadable: Records that were none of this function's: damaged, forged, or of other code.
        backend_errors: Requests that failed at the backend.
        local_size: How many values the layer in this process holds.
        max_staleness: Seconds for which this process may at most serve a value that another one
            has invalidated; usually it hears of that at once.
        coherence: What it hears of: `"tracking"`: whatever changes at the server, by whomever;
            `"broadcast"`: what this library invalidates, so that what expires, is evicted or is
            written by other means may be served for the TTL of the layer in the process;
            `"ttl"`: nothing; `"none"`: there is no such layer.
    """

    hits: int = 0
    local_hits: int = 0
    misses: int = 0
    computed: int = 0
    errors: int = 0
    stale: int = 0
    unreadable: int = 0
    backend_errors: int = 0
    local_size: int = 0
    max_staleness: float = 0.0
    coherence: Literal["tracking", "broadcast", "ttl", "none"] = "none"


class NearLayer(Layer):
    """A layer whose function's values lie at a backend, and some of them at hand.

    Attributes:
        settings: Its options.
        view: The values at hand that a hit may use without asking.
    """

    def __init__(
        self, policy: str, function: Callable[..., Any], shape: Shape, settings: Settings
    ) -> None:
        super().__init__(policy, function, shape)
        self.settings = settings
        self.view = View()
        self._near: Near | None = None
        self._bypasses: set[object] = set()
        self._bypassed: ContextVar[bool] = ContextVar("resilient.bypassed", default=False)

    @property
    def copies(self) -> bool:
        """Whether hits in this process get copies."""
        local = self.settings.local
        return isinstance(local, LocalCache) and local.copy

    def attend(self) -> Near | None:
        """What this process keeps beside the backend of this call.

        `None` while policies are disabled, or this one is bypassed.
        """
        if self._bypasses and self._bypassed.get():
            return None
        epoch = config.epoch
        backend = self.settings.source.backend()
        if backend is None:
            return None
        near = self._near
        if near is None or near.backend is not backend:
            local, trusts = self.settings.local, False
            if not isinstance(local, LocalCache):
                trusts = local == "auto" and backend.hub.has_source
                local = DEFAULT_LOCAL if trusts else None
            near = Near(backend, self, local, self.settings.records, trusts=trusts)
            self._near = near
        if self.view.values is not near.values and epoch >= 0 and not self._bypasses:
            config.show_until_changed(epoch, self.view, partial(self.view.show, near.values))
            if self._bypasses:  # one began meanwhile
                self.view.hide()
        return near

    def stats(self) -> CacheStats:
        """What happened to its calls in this process, on its present backend."""
        near = self.attend()
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
            stale=counters.stale,
            unreadable=counters.unreadable,
            backend_errors=counters.backend_errors,
            local_size=len(near.values),
            max_staleness=near.max_staleness,
            coherence=near.coherence,
        )

    @contextmanager
    def bypass(self) -> Iterator[None]:
        """Have every call of this thread or task go to the function itself, until exit."""
        token = self._bypassed.set(True)
        mark = object()
        self._bypasses.add(mark)
        self.view.hide()  # no call finds its hit before it has been asked what it is
        try:
            yield
        finally:
            self._bypassed.reset(token)
            self._bypasses.discard(mark)


def namespace_for(function: Callable[..., Any], namespace: str | None, *, policy: str) -> str:
    """What the keys of a function start with; `ConfigurationError` for what is no name."""
    if namespace is None:
        return namespace_of(function)
    given: object = namespace
    if not isinstance(given, str) or not given or given.startswith("#"):
        raise ConfigurationError(f"{label(policy, function)}: namespace={namespace!r} is no name")
    return namespace


def versioned(
    function: Callable[..., Any], space: str, version: str | int | None, *, policy: str
) -> str:
    """The same for one version of it; `ConfigurationError` for what is none."""
    if version is None:
        return space
    given: object = version
    if not isinstance(given, str | int) or isinstance(given, bool) or given == "":
        raise ConfigurationError(
            f"{label(policy, function)}: version={version!r} is neither a text nor a number"
        )
    return f"{space}@{version}"
