"""`@circuit_breaker`: a function that leaves a failing dependency alone, with the whole fleet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, Unpack, get_args, overload

from resilient.engine.keys import key_function
from resilient.engine.options import check_choice, checked_call
from resilient.engine.order import warn_if_above
from resilient.engine.typing import AsyncFallbackDecorator, Decorator, SkippingDecorator
from resilient.engine.wrap import ALL, PLAIN, Controls, Shape, layer_of, shape_of, unpacked
from resilient.errors import ConfigurationError
from resilient.policies.circuit_breaker.breaker import CircuitLayer, literal_of
from resilient.policies.circuit_breaker.circuit import Circuit
from resilient.policies.circuit_breaker.options import Options, declared
from resilient.policies.circuit_breaker.settings import BELOW, POLICY, FallbackOn
from resilient.policies.circuit_breaker.wrapper import guarding

__all__ = ["CircuitControls", "circuit_breaker"]

P = ParamSpec("P")
R = TypeVar("R")
B = TypeVar("B")
C = TypeVar("C", covariant=True)


class _CircuitBreaker:
    """A failing dependency is left alone, by all processes at once: `@circuit_breaker(...)`."""

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        fallback: None = None,
        **options: Unpack[Options],
    ) -> Decorator: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]  # an async fallback is the nearer match
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        fallback: Callable[..., Coroutine[Any, Any, B]],
        fallback_on: FallbackOn = "open",
        **options: Unpack[Options],
    ) -> AsyncFallbackDecorator[B]: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        fallback: Callable[..., B],
        fallback_on: FallbackOn = "open",
        **options: Unpack[Options],
    ) -> SkippingDecorator[B]: ...

    @checked_call(POLICY, Options.__optional_keys__)
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        fallback: Callable[..., Any] | None = None,
        fallback_on: FallbackOn = "open",
        **options: Unpack[Options],
    ) -> Any:
        """Refuse calls while the dependency behind the function fails; probe it, and let go.

        A call through a closed circuit makes no request: it is counted here and reported in the
        background. Only the first call under a key asks, and the probes of an open circuit do.
        Generators are guarded until they are exhausted.

        Args:
            template: The circuit's name, with fields over the function's arguments:
                `"payments:{tenant}"`. It is global under the backend's prefix.
            key: A function of the same arguments that answers the name, instead of a template.
            fallback: Answers refused calls: called with the `CircuitOpen` and the arguments. It may
                be async only on an `async def`.
            fallback_on: `"error"`: it answers calls that have failed too, called with the error.
            **options: Those of `CircuitBreaker`: `trip`, `window`, `min_calls`, `open_for`,
                `half_open`, `ramp`, `quorum`, `record`, `ignore`, `record_result`, `retry_after`,
                `consistency`, `on_backend_error`, `backend`.

        Raises:
            ConfigurationError: When decorated: an option, the template or the kind of function is
                wrong.
            CircuitOpen: The dependency is being left alone; nothing has run. While the backend is
                away each process decides that by itself.
            BackendError: The backend is away, and `on_backend_error="raise"`; nothing has run.

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
        declaration = declared(f"@{POLICY}", options)
        if fallback is not None and not callable(fallback):
            raise ConfigurationError(f"@{POLICY}: fallback={fallback!r} is not callable")
        check_choice(f"@{POLICY}", "fallback_on", fallback_on, *get_args(FallbackOn))

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            # What stands for a refused call has no place in a stream of items.
            allowed = ALL if fallback is None else PLAIN
            shape = shape_of(function, policy=POLICY, allowed=allowed)
            warn_if_above(BELOW, function, policy=POLICY, frames=2)
            if shape is Shape.FUNCTION and inspect.iscoroutinefunction(fallback):
                raise ConfigurationError(f"@{POLICY}: an async fallback needs an `async def`")
            settings = declaration.settings(shape.mode)
            names = key_function(function, template, key, policy=POLICY)
            return guarding(
                CircuitLayer(function, shape, names, settings),
                settings,
                names,
                literal=literal_of(template),
                fallback=fallback,
                fallback_on=fallback_on,
            )

        return unpacked(decorate)

    def of(self, function: Callable[..., Any]) -> CircuitControls:
        """The controls of a guarded function, wherever the breaker is in its decorators."""
        bound = layer_of(function, CircuitLayer, POLICY)
        return CircuitControls(bound.layer, bound.arguments)


class CircuitControls(Controls[CircuitLayer]):
    """`circuit_breaker.of(f)`: the circuits of one function."""

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The name of the circuit that a call with these arguments goes through."""
        return self._layer.key(*self._bound, *args, **kwargs)

    def at(self, *args: Any, **kwargs: Any) -> Circuit:
        """The circuit that a call with these arguments goes through: `.state`, `.reset()`."""
        return Circuit(self._layer.settings, self.key(*args, **kwargs))


circuit_breaker = _CircuitBreaker()
