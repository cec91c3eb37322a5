"""Controls that block and controls that are awaited, from one text.

An object that belongs to no function has each control in both forms, the awaitable one with an `a`
in front of its name. The control itself is a plan:

    class Circuit:
        @control
        async def reset(self, *, reason: str = "") -> None:
            ...

        areset = awaitable(reset)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from resilient.engine.block import warn_if_in_loop
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Plan

__all__ = ["AwaitableControl", "Control", "awaitable", "control"]

P = ParamSpec("P")
T = TypeVar("T")


class Control(Generic[P, T]):
    """The blocking form. In an event loop it warns, and names the other one.

    Attributes:
        plan: What both forms do.
    """

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[T]]) -> None:
        self.plan = plan
        self.__doc__ = plan.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, T]: ...
    def __get__(self, instance: object, owner: type) -> Self | Callable[P, T]:
        if instance is None:
            return self
        plan, name = self.plan, owner.__name__.lower()

        @functools.wraps(plan)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            warn_if_in_loop(
                f"{name}.{plan.__name__}()", f"await {name}.a{plan.__name__}()", stacklevel=2
            )
            return drive(plan(instance, *args, **kwargs))

        return _bound(call)


class AwaitableControl(Generic[P, T]):
    """The awaitable form."""

    def __init__(self, plan: Callable[Concatenate[Any, P], Plan[T]]) -> None:
        self._plan = plan
        self.__doc__ = plan.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: object, owner: type) -> Self | Callable[P, Coroutine[Any, Any, T]]:
        if instance is None:
            return self
        plan = self._plan

        @functools.wraps(plan)
        def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
            return _awaited(plan(instance, *args, **kwargs))  # wrong arguments are an error here

        return _bound(call)


async def _awaited(plan: Plan[T]) -> T:
    from resilient.engine.drivers.aio import adrive

    return await adrive(plan)


C = TypeVar("C", bound=Callable[..., Any])


def _bound(call: C) -> C:
    """A form as its callers see it: nothing of the plan but its name and its words."""
    del vars(call)["__wrapped__"]  # or it would seem to take `self`
    return call


control = Control
"""Decorates the plan of a control."""


def awaitable(control: Control[P, T]) -> AwaitableControl[P, T]:
    """The awaitable form of a control."""
    return AwaitableControl(control.plan)
