"""`@cached`: a function's results, stored under a key made of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from inspect import Signature
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from resilient.engine.durations import Duration
from resilient.engine.keys import key_function
from resilient.engine.names import label
from resilient.engine.options import checked_call
from resilient.engine.signatures import signature_of
from resilient.engine.typing import Decorator
from resilient.engine.wrap import Shape, layer_of, shape_of, unpacked
from resilient.policies.cached.context import context_parameter, without
from resilient.policies.cached.controls import CacheControls, Explanation, Missing
from resilient.policies.cached.hits import aliased_by, wrapped
from resilient.policies.cached.layer import NearLayer
from resilient.policies.cached.near import LocalCache
from resilient.policies.cached.options import Options
from resilient.policies.cached.settings import POLICY, Budget, Settings
from resilient.policies.cached.tags import tags_function
from resilient.resolving import BackendLike

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.cached.batch import CachedBatch
    from resilient.policies.cached.freshness import Ttl

__all__ = ["CachedLayer", "cached"]

P = ParamSpec("P")
R = TypeVar("R")


class Cached:
    """Computed once across the fleet, never served staler than promised: `@cached(...)`."""

    @property
    def batch(self) -> CachedBatch:
        """The same for a function of many items: `@cached.batch(...)`."""
        from resilient.policies.cached.batch import CachedBatch  # with the first one

        return CachedBatch()

    @checked_call(POLICY)
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Ttl,
        soft_ttl: Duration | None = None,
        stale_if_error: Duration | None = None,
        throttle: Duration = 5,
        early: bool = False,
        jitter: float = 0.0,
        error_ttl: Mapping[type[Exception], Duration] | None = None,
        cache_if: Callable[[Any], bool] | None = None,
        key: Callable[..., Any] | None = None,
        tags: Sequence[str] = (),
        local: LocalCache | Literal["auto"] | None = "auto",
        single_flight: Literal["cluster", "local"] = "cluster",
        codec: Codec | Literal["json"] | None = None,
        compute_timeout: Budget | None = None,
        backend_timeout: Budget = ("50ms", "250ms"),
        namespace: str | None = None,
        version: str | int | None = None,
        on_backend_error: Literal["run", "raise"] = "run",
        backend: BackendLike | None = None,
    ) -> Decorator:
        """Store what the function returns, and answer calls with the same key from there.

        Of all callers that want a missing value, in all processes, one calls the function; the
        others wait and are woken with its result. `None` is a value like any other. An exception
        is raised to all who waited in this process, and not stored unless `error_ttl` says so.

        Args:
            template: What identifies a call, with fields over the function's arguments:
                `"{user.id}:{page}"`. By default all arguments do, with their types.
            ttl: For how long a value is served: seconds, or as `"10m"`; `None`: the `max_ttl` of
                `configure`; or a function of the result that answers one, or `None` for a result
                that is not to be kept.
            soft_ttl: After that a value is still served, while one caller computes it anew in the
                background. Shorter than `ttl`; by default nothing is stale before its end.
            stale_if_error: For how long after its TTL a value is served in place of a
                computation that fails, or of a backend that is away. By default not at all.
            throttle: Seconds for which such a value stands: the function, which failed, is called
                no more often than that, in all processes together.
            early: Compute ahead of time, at a moment drawn once for each value, the earlier the
                longer it takes to compute: Vattani et al., "Optimal Probabilistic Cache Stampede
                Prevention", VLDB 2015.
            jitter: The share of the TTL by which it is shortened at random, 0 to below 1, so that
                what was stored together does not expire together.
            error_ttl: The exceptions that are results, and for how long: `{LookupError: "5s"}`.
            cache_if: A function of the result: whether to keep it.
            key: A function of the same arguments that answers what identifies a call, instead of
                a template.
            tags: Templates of the tags of a value, such as `"user:{user.id}"`, for
                `resilient.invalidate_tags("user:7")`.
            local: The layer in this process in front of the backend: a `LocalCache`, or `None`.
                By default there is one, for 30 s a value, where the backend tells of what other
                processes invalidate.
            single_flight: Of all callers in all processes one computes a value (`"cluster"`).
                With `"local"` a process does not wait for another one that is at it: it computes
                the value itself, once for all its callers, and does not store it.
            codec: How values are stored: `"json"`, or a codec such as `Encrypted(key)`, of
                `resilient.engine.codecs`. By default typed msgpack, guided by the annotation.
            compute_timeout: For how long callers wait for a computation: one duration, after
                which `TimedOut` is raised; or two, where after the first a stale value is served
                if there is one. The computation goes on, unless nobody waits for an async one.
            backend_timeout: For how long a request to the backend may take, where there is
                something to fall back on, and where there is not.
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
            TimedOut: The computation took longer than `compute_timeout`.

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
        options = Options(
            policy=POLICY,
            ttl=ttl,
            soft_ttl=soft_ttl,
            stale_if_error=stale_if_error,
            throttle=throttle,
            early=early,
            jitter=jitter,
            error_ttl=error_ttl,
            cache_if=cache_if,
            local=local,
            single_flight=single_flight,
            codec=codec,
            compute_timeout=compute_timeout,
            backend_timeout=backend_timeout,
            namespace=namespace,
            version=version,
            on_backend_error=on_backend_error,
            backend=backend,
        )

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            shape = shape_of(function, policy=POLICY)
            signature = signature_of(function, policy=POLICY)
            settings = options.settings(function, shape)
            where = label(POLICY, function)
            context = context_parameter(signature, where)
            identifying = without(signature, context)
            names = key_function(
                function,
                template,
                key,
                policy=POLICY,
                namespace=options.key_start(function),
                empty_ok=True,
                signature=identifying,
            )
            labels = tags_function(function, tags, settings.namespace, identifying, where)
            layer = CachedLayer(function, shape, settings, names, labels, context)
            return layer.wrap(signature, aliased_by(identifying, template, key))

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
        Coroutine[Any, Any, Explanation],
        R,
    ]: ...

    @overload
    def of(
        self, function: Callable[P, R]
    ) -> CacheControls[P, R, R | Missing, bool, None, Explanation, R]: ...

    def of(self, function: Callable[..., Any]) -> CacheControls[..., Any, Any, Any, Any, Any, Any]:
        """The controls of a cached function, wherever the cache is in its stack of decorators."""
        bound = layer_of(function, CachedLayer, POLICY)
        return CacheControls(bound.layer, bound.arguments)


class CachedLayer(NearLayer):
    """What the decorator knows about one function.

    Attributes:
        key: Makes the key of a call.
        tags: Makes the tags of a call.
        context: The name of the parameter that takes a `CacheContext`, or `None`.
        cached: The decorated function.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Shape,
        settings: Settings,
        key: Callable[..., str],
        tags: Callable[..., tuple[str, ...]],
        context: str | None = None,
    ) -> None:
        super().__init__(POLICY, function, shape, settings)
        self.context = context
        self.key = key
        self.tags = tags

    def wrap(self, signature: Signature, alias: list[tuple[str, str]] | None) -> Callable[..., Any]:
        """The decorated function."""
        self.cached = wrapped(self, signature, alias)
        return self.cached


cached = Cached()
