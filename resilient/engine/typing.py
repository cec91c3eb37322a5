"""The types of decorators."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, overload

__all__ = ["AsyncFallbackDecorator", "Decorator", "SkippingDecorator"]

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", covariant=True)


class Decorator(Protocol):
    """Returns a function of exactly the type that it decorates."""

    def __call__(self, function: F, /) -> F:
        """Decorate a function."""
        ...


class SkippingDecorator(Protocol[S]):
    """Returns a function that may answer what stands for a skipped call instead of its result."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | S]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | S]: ...


class AsyncFallbackDecorator(Protocol[S]):
    """Decorates async functions only: what its fallback answers is awaited."""

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | S]]:
        """Decorate an async function."""
        ...
