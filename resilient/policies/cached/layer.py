"""What a cached function and a cached batch have in common: where their values are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from resilient import config
from resilient.engine.keys import namespace_of
from resilient.engine.names import label
from resilient.engine.wrap import Layer, Shape
from resilient.errors import ConfigurationError
from resilient.policies.cached.hits import View
from resilient.policies.cached.near import LocalCache, Near
from resilient.policies.cached.settings import POLICY, Settings

__all__ = ["NearLayer", "namespace_for", "versioned"]

DEFAULT_LOCAL = LocalCache()
"""The layer in this process where coherence is watched and none was asked for."""


class NearLayer(Layer):
    """A layer whose function's values lie at a backend, and some of them at hand.

    Attributes:
        settings: Its options.
        view: The values at hand that a hit may use without asking.
    """

    def __init__(self, function: Callable[..., Any], shape: Shape, settings: Settings) -> None:
        super().__init__(POLICY, function, shape)
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
            local = self.settings.local
            if not isinstance(local, LocalCache):
                trusted = local == "auto" and backend.hub.has_source
                local = DEFAULT_LOCAL if trusted else None
            near = self._near = Near(backend, self, local, self.settings.records)
        if self.view.values is not near.values and epoch >= 0 and not self._bypasses:
            config.show_until_changed(epoch, self.view, partial(self.view.show, near.values))
            if self._bypasses:  # one began meanwhile
                self.view.hide()
        return near

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


def namespace_for(function: Callable[..., Any], namespace: str | None) -> str:
    """What the keys of a function start with; `ConfigurationError` for what is no name."""
    if namespace is None:
        return namespace_of(function)
    given: object = namespace
    if not isinstance(given, str) or not given or given.startswith("#"):
        raise ConfigurationError(f"{label(POLICY, function)}: namespace={namespace!r} is no name")
    return namespace


def versioned(function: Callable[..., Any], space: str, version: str | int | None) -> str:
    """The same for one version of it; `ConfigurationError` for what is none."""
    if version is None:
        return space
    given: object = version
    if not isinstance(given, str | int) or isinstance(given, bool) or given == "":
        raise ConfigurationError(
            f"{label(POLICY, function)}: version={version!r} is neither a text nor a number"
        )
    return f"{space}@{version}"
