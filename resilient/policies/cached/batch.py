"""`@cached.batch`: a function of many items, whose results are cached one by one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from inspect import Parameter, Signature
from itertools import count
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    get_args,
    get_origin,
    overload,
)

from resilient.engine.drivers.sync import drive
from resilient.engine.durations import Duration
from resilient.engine.flights import NO_LIMITS, Errand, Late, Limits, ashare, share
from resilient.engine.keys import key_function
from resilient.engine.names import label
from resilient.engine.options import checked_call
from resilient.engine.plan import Plan
from resilient.engine.signatures import (
    RESERVED,
    compile_with_signature,
    forwarding,
    signature_of,
)
from resilient.engine.typing import Decorator
from resilient.engine.wrap import Shape, finish, layer_of, shape_of, unpacked
from resilient.errors import ConfigurationError, TimedOut
from resilient.policies.cached.batch_controls import BatchControls
from resilient.policies.cached.context import context_parameter
from resilient.policies.cached.gathering import Calls, gathered
from resilient.policies.cached.layer import NearLayer
from resilient.policies.cached.near import Call, LocalCache
from resilient.policies.cached.options import Options
from resilient.policies.cached.settings import POLICY, Budget
from resilient.policies.cached.tags import tags_function
from resilient.resolving import BackendLike

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.engine.flights import Flight
    from resilient.policies.cached.freshness import Ttl

__all__ = ["BatchLayer", "CachedBatch"]

P = ParamSpec("P")
R = TypeVar("R")

BATCH = f"{POLICY}.batch"
ITEM = f"{RESERVED}item"
_numbers = count()


class CachedBatch:
    """A function of many items, whose results are cached one by one: `@cached.batch(...)`."""

    @checked_call(BATCH)
    def __call__(
        self,
        template: str | None = None,
        *,
        key_arg: str,
        ttl: Ttl,
        soft_ttl: Duration | None = None,
        stale_if_error: Duration | None = None,
        throttle: Duration = 5,
        early: bool = False,
        jitter: float = 0.0,
        error_ttl: None = None,
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
        """Store what the function returns for each item, and call it with the missing ones only.

        The function takes a collection of items in one of its arguments, and returns a mapping of
        items to values. It is called with a list of those that nobody has computed yet, once, and
        may leave items out: they have no value, and are asked for again next time. All values are
        asked of the backend in one round trip, and stored in another. What another caller, here or
        in another process, is computing at the moment is waited for, not computed twice.

        The values are entries like any other: `@cached` functions with the same `namespace`,
        template and tags share them, one by one.

        Args:
            template: What identifies one item; the field of `key_arg` stands for it: `"{ids}"`.
                By default all arguments do, with the item in the place of the collection.
            key_arg: The argument that holds the items. They must be hashable.
            ttl: For how long a value is served; see `@cached`, as for all that follow.
            soft_ttl: After that a value is still served, while it is computed anew: in the
                background, if nothing else is to be computed, and else together with that.
            stale_if_error: For how long after its TTL a value is served in place of a computation
                that fails. The exception is raised if one of the missing items has none.
            throttle: Seconds for which such a value stands.
            early: Compute ahead of time; what the whole call takes counts for each of its items.
            jitter: The share of the TTL by which it is shortened at random.
            error_ttl: Refused: an exception does not say which of the items it is the result of.
            cache_if: A function of one value: whether to keep it.
            key: A function of the same arguments, with one item in the place of the collection,
                that answers what identifies that item, instead of a template.
            tags: Templates of the tags of a value, over an item and the other arguments.
            local: The layer in this process in front of the backend.
            single_flight: `"local"`: what another process computes is not waited for, but computed
                here too.
            codec: How values are stored.
            compute_timeout: For how long a call waits for its computation.
            backend_timeout: For how long one request to the backend may take.
            namespace: What keys start with.
            version: Separates the entries of one version of the function from those of another.
            on_backend_error: `"run"` the function for all that is not at hand, or `"raise"`.
            backend: A URL, client or backend of its own.

        Raises:
            ConfigurationError: When decorated: an option is wrong. When called: the function
                returned no mapping.
            BackendError: The backend is away, and `on_backend_error="raise"`.
            TimedOut: The computation took longer than `compute_timeout`.

        Example:
            >>> import resilient
            >>> @resilient.cached.batch("{ids}", key_arg="ids", ttl="10m")
            ... def names(ids: list[int]) -> dict[int, str]:
            ...     print("computed", ids)
            ...     return {number: f"user {number}" for number in ids}
            >>> with resilient.using("memory://"):
            ...     names([1, 2]), names([2, 3])
            computed [1, 2]
            computed [3]
            ({1: 'user 1', 2: 'user 2'}, {2: 'user 2', 3: 'user 3'})
        """
        given: object = error_ttl
        if given is not None:
            raise ConfigurationError(
                f"@{BATCH}: error_ttl={given!r}: an exception does not say which of the items it "
                "is the result of"
            )
        options = Options(
            policy=BATCH,
            ttl=ttl,
            soft_ttl=soft_ttl,
            stale_if_error=stale_if_error,
            throttle=throttle,
            early=early,
            jitter=jitter,
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
            shape = shape_of(function, policy=BATCH)
            signature = signature_of(function, policy=BATCH)
            where = label(BATCH, function)
            _check_items(signature, key_arg, where)
            settings = options.settings(function, shape, _value_of)
            names = key_function(
                function,
                template,
                key,
                policy=BATCH,
                namespace=options.key_start(function),
                empty_ok=True,
            )
            labels = tags_function(function, tags, settings.namespace, signature, where)
            layer = BatchLayer(BATCH, function, shape, settings)
            return layer.wrap(signature, key_arg, names, labels)

        return unpacked(decorate)

    # An `async def` is a function too, one that returns a coroutine: the first match is meant.
    @overload
    def of(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> BatchControls[
        P, Coroutine[Any, Any, R], Coroutine[Any, Any, int], Coroutine[Any, Any, None]
    ]: ...

    @overload
    def of(self, function: Callable[P, R]) -> BatchControls[P, R, int, None]: ...

    def of(self, function: Callable[..., Any]) -> BatchControls[..., Any, Any, Any]:
        """The controls of a cached batch, wherever the cache is in its stack of decorators."""
        bound = layer_of(function, BatchLayer, BATCH)
        return BatchControls(bound.layer, bound.arguments)


class BatchLayer(NearLayer):
    """What the decorator knows about one function.

    Attributes:
        calls: Makes the `Call` of each item out of a call's arguments.
    """

    def wrap(
        self,
        signature: Signature,
        items: str,
        key: Callable[..., str],
        tags: Callable[..., tuple[str, ...]],
    ) -> Callable[..., Any]:
        """The decorated function."""
        given = _with_item(signature, items)
        names: dict[str, object] = {
            f"{RESERVED}key": key,
            f"{RESERVED}tags": tags,
            f"{RESERVED}function": self.function,
            f"{RESERVED}Call": Call,
            f"{RESERVED}calls": partial(_calls, self.name),
            f"{RESERVED}gather": self._gather,
            f"{RESERVED}agather": self._agather,
        }
        self.calls = compile_with_signature(
            self.function,
            f"return {RESERVED}calls({items}, lambda {ITEM}: {RESERVED}Call("
            f"{RESERVED}key({given}), None, {RESERVED}tags({given})))",
            {**names},
            signature=signature,
        )
        is_async = self.shape is Shape.COROUTINE
        compiled = compile_with_signature(
            self.function,
            f"return {'await ' if is_async else ''}{RESERVED}{'a' if is_async else ''}gather("
            f"{items}, lambda: {RESERVED}all({forwarding(signature)}), "
            f"lambda {ITEM}: {RESERVED}function({given}))",
            {**names, f"{RESERVED}all": self.calls},
            is_async=is_async,
            signature=signature,
        )
        return finish(self, compiled)

    def _gather(
        self, items: Any, calls: Callable[[], Calls], function: Callable[[Any], Any]
    ) -> Any:
        near = self.attend()
        if near is None:
            return function(items)
        plan = partial(gathered, self.settings, near, calls())
        if not self._flies:
            return drive(plan(None), function)
        try:
            return share(near.nearby.flights, _errand(self, plan, function), self._limits)[0]
        except Late:
            raise self._timed_out() from None

    async def _agather(
        self, items: Any, calls: Callable[[], Calls], function: Callable[[Any], Any]
    ) -> Any:
        from resilient.engine.drivers.aio import adrive

        near = self.attend()
        if near is None:
            return await function(items)
        plan = partial(gathered, self.settings, near, calls())
        if not self._flies:
            return await adrive(plan(None), function)
        try:
            found, _ = await ashare(
                near.nearby.flights, _errand(self, plan, function), self._limits
            )
        except Late:
            raise self._timed_out() from None
        return found

    @property
    def _limits(self) -> Limits:
        return self.settings.computing

    @property
    def _flies(self) -> bool:
        """Whether a call may end before its computation: then that is a flight, for nobody else."""
        return self.settings.freshness.serves_stale or self._limits != NO_LIMITS

    def _timed_out(self) -> TimedOut:
        return TimedOut(
            f"@{BATCH} on {self.name}: not computed within {self._limits.hard:g} seconds"
        )


def _errand(
    layer: BatchLayer, plan: Callable[[Flight | None], Plan[Any]], function: Callable[[Any], Any]
) -> Errand[Any]:
    """What one batch wants: it shares its values with others, and its way with nobody."""
    return Errand(
        f"{BATCH} {next(_numbers)}",
        (),
        plan,
        partial(plan, None),
        function,
        may_serve=layer.settings.freshness.serves_stale,
    )


def _calls(name: str, items: Iterable[Any], call: Callable[[Any], Call]) -> dict[Any, Call]:
    if isinstance(items, str | bytes | Mapping):
        raise ConfigurationError(
            f"@{BATCH} on {name}: {type(items).__name__!r} is no collection of items"
        )
    return {item: call(item) for item in dict.fromkeys(items)}


def _check_items(signature: Signature, key_arg: str, where: str) -> None:
    parameter = signature.parameters.get(key_arg)
    if parameter is None or parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
        raise ConfigurationError(
            f"{where}: key_arg={key_arg!r} names no parameter; known are: "
            f"{', '.join(signature.parameters) or 'none'}"
        )
    context = context_parameter(signature, where)
    if context is not None:
        raise ConfigurationError(f"{where}: {context!r}: a batch has no CacheContext")


def _with_item(signature: Signature, items: str) -> str:
    """The text of a call's arguments with one item, or some, in the place of all."""
    parameters = [
        each.replace(name=ITEM) if each.name == items else each
        for each in signature.parameters.values()
    ]
    text = forwarding(signature.replace(parameters=parameters))
    return text.replace(f"{ITEM}={ITEM}", f"{items}={ITEM}")


def _value_of(annotation: Any) -> Any:
    """What a mapping holds, by its annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return arguments[1] if is_mapping and len(arguments) == 2 else Any
