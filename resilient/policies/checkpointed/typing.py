"""The types of the decorator: the job leaves the signature, in functions and in methods."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from resilient.policies.checkpointed.job import AsyncJob, Job

__all__ = ["JobDecorator", "SkippingJobDecorator"]

P = ParamSpec("P")
R = TypeVar("R")
K = TypeVar("K", covariant=True)
S = TypeVar("S")
Self_ = TypeVar("Self_")


class JobDecorator(Protocol[S]):
    """Returns a function of the type that it decorates, without the job."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[AsyncJob[S], P], Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...

    # The types cannot say that `self` is no job.
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as said
        self, function: Callable[Concatenate[Job[S], P], R], /
    ) -> Callable[P, R]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Self_, AsyncJob[S], P], Coroutine[Any, Any, R]], /
    ) -> Callable[Concatenate[Self_, P], Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Self_, Job[S], P], R], /
    ) -> Callable[Concatenate[Self_, P], R]: ...


class SkippingJobDecorator(Protocol[S, K]):
    """The same, where the function may answer what stands for a skipped call."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[AsyncJob[S], P], Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | K]]: ...

    # The types cannot say that `self` is no job.
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as said
        self, function: Callable[Concatenate[Job[S], P], R], /
    ) -> Callable[P, R | K]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Self_, AsyncJob[S], P], Coroutine[Any, Any, R]], /
    ) -> Callable[Concatenate[Self_, P], Coroutine[Any, Any, R | K]]: ...

    @overload
    def __call__(
        self, function: Callable[Concatenate[Self_, Job[S], P], R], /
    ) -> Callable[Concatenate[Self_, P], R | K]: ...
