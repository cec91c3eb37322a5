"""`@circuit_breaker`: a function that leaves a failing dependency alone, with the whole fleet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from resilient.config import BackendLike, Source
from resilient.engine.durations import Duration
from resilient.engine.keys import key_function, refuse_missing_parentheses
from resilient.engine.typing import Decorator, SkippingDecorator
from resilient.engine.wrap import ALL, PLAIN, Shape, layer_of, shape_of, unpacked
from resilient.errors import ConfigurationError
from resilient.policies.circuit_breaker.breaker import (
    Circuit,
    CircuitLayer,
    errors_of,
    literal_of,
)
from resilient.policies.circuit_breaker.plan import POLICY, Settings
from resilient.policies.circuit_breaker.rules import (
    DEFAULT_HALF_OPEN,
    DEFAULT_TRIP,
    DEFAULT_WINDOW,
    CountWindow,
    HalfOpen,
    Trip,
    circuit_rules,
)
from resilient.policies.circuit_breaker.wrapper import guarding

__all__ = ["CircuitControls", "circuit_breaker"]

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B")
C = TypeVar("C", covariant=True)


class AsyncFallbackDecorator(Protocol[C]):
    """Decorates async functions only: what its fallback answers is awaited."""

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | C]]:
        """Decorate an async function."""
        ...


class _CircuitBreaker:
    """A failing dependency is left alone, by all processes at once: `@circuit_breaker(...)`."""

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        trip: Trip = ...,
        window: CountWindow = ...,
        min_calls: int = 20,
        open_for: Duration = 30,
        half_open: HalfOpen = ...,
        record: type[Exception] | tuple[type[Exception], ...] = ...,
        ignore: type[Exception] | tuple[type[Exception], ...] = (),
        fallback: None = None,
        backend: BackendLike | None = None,
    ) -> Decorator: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]  # an async fallback is the nearer match
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        trip: Trip = ...,
        window: CountWindow = ...,
        min_calls: int = 20,
        open_for: Duration = 30,
        half_open: HalfOpen = ...,
        record: type[Exception] | tuple[type[Exception], ...] = ...,
        ignore: type[Exception] | tuple[type[Exception], ...] = (),
        fallback: Callable[..., Coroutine[Any, Any, B]],
        backend: BackendLike | None = None,
    ) -> AsyncFallbackDecorator[B]: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        trip: Trip = ...,
        window: CountWindow = ...,
        min_calls: int = 20,
        open_for: Duration = 30,
        half_open: HalfOpen = ...,
        record: type[Exception] | tuple[type[Exception], ...] = ...,
        ignore: type[Exception] | tuple[type[Exception], ...] = (),
        fallback: Callable[..., B],
        backend: BackendLike | None = None,
    ) -> SkippingDecorator[B]: ...

    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        trip: Trip = DEFAULT_TRIP,
        window: CountWindow = DEFAULT_WINDOW,
        min_calls: int = 20,
        open_for: Duration = 30,
        half_open: HalfOpen = DEFAULT_HALF_OPEN,
        record: type[Exception] | tuple[type[Exception], ...] = (Exception,),
        ignore: type[Exception] | tuple[type[Exception], ...] = (),
        fallback: Callable[..., Any] | None = None,
        backend: BackendLike | None = None,
    ) -> Any:
        """Refuse calls while the dependency behind the function fails; probe it, and let go.

        A call through a closed circuit makes no request: it is counted here and reported in the
        background. Only the first call under a key asks, and the probes of an open circuit do.
        Generators are guarded until they are exhausted.

        Args:
            template: The circuit's name, with fields over the function's arguments:
                `"payments:{tenant}"`. It is global under the backend's prefix.
            key: A function of the same arguments that answers the name, instead of a template.
            trip: What opens it: `FailureRate(0.5)`, `Consecutive(5)`, or several joined by `|`.
            window: How many of the latest calls are judged, those of all processes together.
            min_calls: Calls that must be in the window before a rate is judged (all of it, if the
                window is smaller).
            open_for: For how long an open circuit refuses calls before it is probed: seconds, or
                as `"30s"`.
            half_open: How it is probed.
            record: The exceptions that are failures of the dependency. Others count as successes.
            ignore: Those that count as neither. Cancellations never count, and neither do the
                library's own rejections.
            fallback: Answers refused calls: called with the `CircuitOpen` and the arguments. It may
                be async only on an `async def`.
            backend: A URL, client or backend of its own instead of the configured one.

        Raises:
            ConfigurationError: When decorated: an option, the template or the kind of function is
                wrong.
            CircuitOpen: The dependency is being left alone; nothing has run. While the backend is
                away each process decides that by itself.

        Example:
            >>> import resilient
            >>> @resilient.circuit_breaker("rates", trip=resilient.Consecutive(1),
            ...                            fallback=lambda refusal, currency: 1.0)
            ... def rate(currency: str) -> float:
            ...     raise ConnectionError("no route to host")
            >>> with resilient.using("memory://"):
            ...     try:
            ...         rate("EUR")
            ...     except ConnectionError:
            ...         rate("EUR")
            1.0
        """
        refuse_missing_parentheses(template, policy=POLICY)
        rules = circuit_rules(trip, window, min_calls, open_for, half_open, policy=POLICY)
        failures, neutral = errors_of(record, "record"), errors_of(ignore, "ignore")
        if fallback is not None and not callable(fallback):
            raise ConfigurationError(f"@{POLICY}: fallback={fallback!r} is not callable")

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            # What stands for a refused call has no place in a stream of items.
            allowed = ALL if fallback is None else PLAIN
            shape = shape_of(function, policy=POLICY, allowed=allowed)
            if shape is Shape.FUNCTION and inspect.iscoroutinefunction(fallback):
                raise ConfigurationError(f"@{POLICY}: an async fallback needs an `async def`")
            settings = Settings(
                Source("circuits", POLICY, shape.mode, backend),
                rules=rules,
                record=failures,
                ignore=neutral,
            )
            names = key_function(function, template, key, policy=POLICY)
            layer = CircuitLayer(function, shape, names, settings)
            literal = literal_of(template)
            return guarding(layer, settings, names, literal=literal, fallback=fallback)

        return unpacked(decorate)

    def of(self, function: Callable[..., Any]) -> CircuitControls:
        """The controls of a guarded function, wherever the breaker is in its decorators."""
        bound = layer_of(function, CircuitLayer, POLICY)
        return CircuitControls(bound.layer, bound.arguments)


class CircuitControls:
    """`circuit_breaker.of(f)`: the circuits of one function."""

    def __init__(self, layer: CircuitLayer, bound: tuple[Any, ...]) -> None:
        self._layer = layer
        self._bound = bound

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The name of the circuit that a call with these arguments goes through."""
        return self._layer.key(*self._bound, *args, **kwargs)

    def at(self, *args: Any, **kwargs: Any) -> Circuit:
        """The circuit that a call with these arguments goes through: `.state`, `.reset()`."""
        return Circuit(self._layer.settings, self.key(*args, **kwargs))


circuit_breaker = _CircuitBreaker()
