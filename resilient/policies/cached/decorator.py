"""`@cached`: a function's results, stored under a key made of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from inspect import Signature
from typing import Any, Literal, ParamSpec, TypeVar, overload

from resilient import config
from resilient.config import BackendLike, Source
from resilient.engine.durations import Duration, seconds
from resilient.engine.keys import key_function, namespace_of, refuse_missing_parentheses
from resilient.engine.names import label
from resilient.engine.signatures import signature_of
from resilient.engine.typing import Decorator
from resilient.engine.wrap import Layer, Shape, layer_of, shape_of, unpacked
from resilient.errors import ConfigurationError
from resilient.policies.cached.controls import CacheControls, Missing
from resilient.policies.cached.hits import View, aliased_by, wrapped
from resilient.policies.cached.near import LocalCache, Near
from resilient.policies.cached.plan import POLICY, Settings
from resilient.policies.cached.tags import namespace_tag, tags_function

__all__ = ["CachedLayer", "cached"]

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_LOCAL = LocalCache()
"""The layer in this process where coherence is watched and none was asked for."""


class Cached:
    """Computed once across the fleet, never served staler than promised: `@cached(...)`."""

    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration,
        key: Callable[..., Any] | None = None,
        tags: Sequence[str] = (),
        local: LocalCache | Literal["auto"] | None = "auto",
        namespace: str | None = None,
        version: str | int | None = None,
        on_backend_error: Literal["run", "raise"] = "run",
        backend: BackendLike | None = None,
    ) -> Decorator:
        """Store what the function returns, and answer calls with the same key from there.

        Of all callers that want a missing value, in all processes, one calls the function; the
        others wait and are woken with its result. `None` is a value like any other. An exception
        is raised to all who waited in this process, and not stored.

        Args:
            template: What identifies a call, with fields over the function's arguments:
                `"{user.id}:{page}"`. By default all arguments do, with their types.
            ttl: For how long a value is served: seconds, or as `"10m"`.
            key: A function of the same arguments that answers what identifies a call, instead of
                a template.
            tags: Templates of the tags of a value, such as `"user:{user.id}"`, for
                `resilient.invalidate_tags("user:7")`.
            local: The layer in this process in front of the backend: a `LocalCache`, or `None`.
                By default there is one, for 30 s a value, where the backend tells of what other
                processes invalidate.
            namespace: What keys start with, instead of the function's module and name: functions
                with one namespace share their entries.
            version: Separates the entries of one version of the function from those of another.
            on_backend_error: `"run"` the function when the backend is away; or `"raise"`.
            backend: A URL, client or backend of its own instead of the configured one.

        Raises:
            ConfigurationError: When decorated: an option, a template or the kind of function is
                wrong. When called: an argument has no identity but its address.
            CodecError: The function returned what has no faithful stored form.
            BackendError: The backend is away, and `on_backend_error="raise"`.

        Example:
            >>> import resilient
            >>> @resilient.cached("{user_id}", ttl="10m", tags=("user:{user_id}",))
            ... def profile(user_id: int) -> dict[str, int]:
            ...     print("computed")
            ...     return {"id": user_id}
            >>> with resilient.using("memory://"):
            ...     profile(7), profile(user_id=7)
            computed
            ({'id': 7}, {'id': 7})
        """
        refuse_missing_parentheses(template, policy=POLICY)
        if on_backend_error not in ("run", "raise"):
            raise ConfigurationError(
                f'@{POLICY}: on_backend_error={on_backend_error!r} is not "run" or "raise"'
            )
        if not (local is None or local == "auto" or isinstance(local, LocalCache)):
            raise ConfigurationError(
                f'@{POLICY}: local={local!r} is neither a LocalCache nor None nor "auto"'
            )
        lifetime = seconds(ttl, option="ttl")

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            # With the first decorated function, not with the package: it brings the serialiser.
            from resilient.engine.codecs import codec_for

            shape = shape_of(function, policy=POLICY)
            signature = signature_of(function, policy=POLICY)
            space = _namespace(function, namespace)
            settings = Settings(
                Source("cache", POLICY, shape.mode, backend),
                namespace=namespace_tag(space),
                codec=codec_for(function),
                ttl=lifetime,
                local=local,
                unguarded=on_backend_error == "run",
            )
            names = key_function(
                function,
                template,
                key,
                policy=POLICY,
                namespace=_versioned(function, space, version),
                empty_ok=True,
            )
            labels = tags_function(function, tags, settings.namespace, signature)
            layer = CachedLayer(function, shape, settings, names, labels)
            return layer.wrap(signature, aliased_by(signature, template, key))

        return unpacked(decorate)

    # An `async def` is a function too, one that returns a coroutine: the first match is meant.
    @overload
    def of(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> CacheControls[
        P,
        Coroutine[Any, Any, R],
        Coroutine[Any, Any, R | Missing],
        Coroutine[Any, Any, bool],
        Coroutine[Any, Any, None],
    ]: ...

    @overload
    def of(self, function: Callable[P, R]) -> CacheControls[P, R, R | Missing, bool, None]: ...

    def of(self, function: Callable[..., Any]) -> CacheControls[..., Any, Any, Any, Any]:
        """The controls of a cached function, wherever the cache is in its stack of decorators."""
        bound = layer_of(function, CachedLayer, POLICY)
        return CacheControls(bound.layer, bound.arguments)


class CachedLayer(Layer):
    """What the decorator knows about one function.

    Attributes:
        settings: Its options.
        key: Makes the key of a call.
        tags: Makes the tags of a call.
        view: The values at hand that a hit may use without asking.
        cached: The decorated function.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Shape,
        settings: Settings,
        key: Callable[..., str],
        tags: Callable[..., tuple[str, ...]],
    ) -> None:
        super().__init__(POLICY, function, shape)
        self.settings = settings
        self.key = key
        self.tags = tags
        self.view = View()
        self._near: Near | None = None

    @property
    def copies(self) -> bool:
        """Whether hits in this process get copies."""
        local = self.settings.local
        return isinstance(local, LocalCache) and local.copy

    def wrap(self, signature: Signature, alias: list[tuple[str, str]] | None) -> Callable[..., Any]:
        """The decorated function."""
        self.cached = wrapped(self, signature, alias)
        return self.cached

    def attend(self) -> Near | None:
        """What this process keeps beside the backend of this call; `None` while disabled."""
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
            near = self._near = Near(backend, self, local, self.settings.codec)
        if epoch != self.view.epoch and epoch == config.epoch and epoch >= 0:
            # Nothing of the former configuration's may be seen under the new one's epoch.
            self.view.epoch = None
            self.view.show(near.values)
            self.view.epoch = epoch
        return near


def _namespace(function: Callable[..., Any], namespace: str | None) -> str:
    if namespace is None:
        return namespace_of(function)
    given: object = namespace
    if not isinstance(given, str) or not given or given.startswith("#"):
        raise ConfigurationError(f"{label(POLICY, function)}: namespace={namespace!r} is no name")
    return namespace


def _versioned(function: Callable[..., Any], space: str, version: str | int | None) -> str:
    if version is None:
        return space
    given: object = version
    if not isinstance(given, str | int) or isinstance(given, bool) or given == "":
        raise ConfigurationError(
            f"{label(POLICY, function)}: version={version!r} is neither a text nor a number"
        )
    return f"{space}@{version}"


cached = Cached()
