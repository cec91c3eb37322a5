"""The one place that wraps: every decorated function becomes a plain function of its own signature.

The wrapper has the parameters of what it wraps (`resilient.engine.signatures`), so the interpreter
binds the arguments, methods bind as methods do, and `inspect` and type checkers see the
function that was meant. What a decorator knows about it is its *layer*, which `decorator.of(f)`
finds anywhere in a stack of decorators.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from inspect import Signature
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from resilient.engine.drivers.sync import drive, unawaited
from resilient.engine.generators import agenerate, generate
from resilient.engine.plan import Plan
from resilient.engine.signatures import compile_with_signature, forwarding, signature_of
from resilient.errors import ConfigurationError

if TYPE_CHECKING:
    from resilient.engine.backend import Mode

__all__ = [
    "Bound",
    "Controls",
    "Layer",
    "Shape",
    "around",
    "finish",
    "layer_of",
    "shape_of",
    "unpacked",
]

L = TypeVar("L", bound="Layer")


class Shape(Enum):
    """The four kinds of functions."""

    FUNCTION = "function"
    COROUTINE = "async function"
    GENERATOR = "generator function"
    ASYNC_GENERATOR = "async generator function"

    @property
    def mode(self) -> Mode:
        """Whether its callers block or await."""
        return "async" if self in (Shape.COROUTINE, Shape.ASYNC_GENERATOR) else "sync"


AWAITED = (
    "if _resilient_type(_resilient_answer) is _resilient_Coroutine: "
    "raise _resilient_unawaited(_resilient_answer)"
)
"""A line for bodies that call a sync function without a driver: its answer runs unprotected if it
is a coroutine."""
AWAITED_NAMES: dict[str, object] = {
    "_resilient_type": type,
    "_resilient_Coroutine": CoroutineType,
    "_resilient_unawaited": unawaited,
}

PLAIN: frozenset[Shape] = frozenset({Shape.FUNCTION, Shape.COROUTINE})
ALL: frozenset[Shape] = frozenset(Shape)


class Layer:
    """What one decorator knows about one function; subclasses add the controls.

    Attributes:
        policy: The decorator's name.
        function: What was decorated.
        shape: Its kind.
        name: What messages call it.
    """

    def __init__(self, policy: str, function: Callable[..., Any], shape: Shape) -> None:
        self.policy = policy
        self.function = function
        self.shape = shape
        self.name = _name(function)

    def run(self, plan: Plan[Any]) -> Any:
        """Drive a control's plan: the answer for a sync function, an awaitable for an async one."""
        if self.shape.mode == "sync":
            return drive(plan)
        from resilient.engine.drivers.aio import adrive

        return adrive(plan)


class Controls(Generic[L]):
    """What `decorator.of(f)` answers; subclasses say what can be done."""

    def __init__(self, layer: L, bound: tuple[Any, ...]) -> None:
        self._layer = layer
        self._bound = bound

    def __repr__(self) -> str:
        return f"<the controls of @{self._layer.policy} on {self._layer.name}>"


class Bound(Generic[L]):
    """A layer, and the object through which it was reached (`obj.method`), if any."""

    __slots__ = ("arguments", "layer")

    def __init__(self, layer: L, arguments: tuple[Any, ...]) -> None:
        self.layer = layer
        self.arguments = arguments


def shape_of(
    function: Callable[..., Any], *, policy: str, allowed: Collection[Shape] = PLAIN
) -> Shape:
    """The kind of a function, a `functools.partial` or a callable object.

    Raises:
        ConfigurationError: It is not callable, or of a kind that the policy cannot protect.
    """
    if inspect.isclass(function):
        raise ConfigurationError(
            f"@{policy} decorates functions, and {_name(function)} is a class: decorate its methods"
        )
    if isinstance(function, property):
        raise ConfigurationError(f"@{policy} decorates functions: write @property above it")
    if not callable(function):
        raise ConfigurationError(f"@{policy} decorates functions, not {function!r}")
    called = function
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called) and not inspect.isclass(called):
        called = type(called).__call__
    shape = _shape(called)
    if shape not in allowed:
        raise ConfigurationError(
            f"@{policy} cannot protect the {shape.value} {_name(function)}: "
            "its body runs after the call has returned"
        )
    return shape


def _shape(called: Callable[..., Any]) -> Shape:
    if inspect.isasyncgenfunction(called):
        return Shape.ASYNC_GENERATOR
    if inspect.isgeneratorfunction(called):
        return Shape.GENERATOR
    if inspect.iscoroutinefunction(called):
        return Shape.COROUTINE
    return Shape.FUNCTION


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


def unpacked(decorate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let a decorator stand above `@classmethod` and `@staticmethod` as well as below."""

    @functools.wraps(decorate)
    def decorator(function: Any) -> Any:
        if isinstance(function, (classmethod, staticmethod)):
            return type(function)(decorate(function.__func__))
        return decorate(function)

    return decorator


def around(
    layer: Layer,
    plan: Callable[..., Plan[Any]],
    keys: Sequence[Callable[..., Any]] = (),
    *,
    signature: Signature | None = None,
    arguments: str | None = None,
) -> Callable[..., Any]:
    """The wrapper whose every call runs a plan around the function.

    Args:
        layer: What the decorator knows about the function.
        plan: Makes the plan of one call from what the key functions answer; the function runs
            where it awaits its `Body`.
        keys: Functions with the wrapper's signature, such as a compiled key template.
        signature: The wrapper's parameters; the function's by default.
        arguments: How the function is called from inside, where not with the wrapper's arguments;
            `_resilient_value` is what the plan's `Body` carries.
    """
    function, shape = layer.function, layer.shape
    signature = signature or signature_of(function, policy=layer.policy)
    given = forwarding(signature)
    inner = given if arguments is None else arguments
    bound: tuple[Any, ...] = ()
    if isinstance(plan, functools.partial) and not plan.keywords:
        bound, plan = plan.args, plan.func  # called as what it is, it takes less
    terms = [f"_resilient_bound{index}" for index in range(len(bound))]
    terms += [f"_resilient_key{index}({given})" for index in range(len(keys))]
    call = (
        f"_resilient_drive(_resilient_plan({', '.join(terms)}), "
        f"lambda _resilient_value: _resilient_function({inner}))"
    )
    names: dict[str, object] = {
        "_resilient_plan": plan,
        "_resilient_function": function,
        **{f"_resilient_bound{index}": each for index, each in enumerate(bound)},
        **{f"_resilient_key{index}": key for index, key in enumerate(keys)},
    }
    if shape is Shape.COROUTINE:
        # The event loop's driver is imported with the first async function, not before.
        from resilient.engine.drivers.aio import adrive

        names["_resilient_drive"] = adrive
        body = [f"return await {call}"]
    elif shape is Shape.GENERATOR:
        names["_resilient_drive"] = generate
        body = [f"return (yield from {call})"]
    elif shape is Shape.ASYNC_GENERATOR:
        names |= _EXCEPTIONS
        names["_resilient_drive"] = agenerate
        body = _delegating(call)
    else:
        names["_resilient_drive"] = drive
        body = [f"return {call}"]
    compiled = compile_with_signature(
        function,
        body,
        names,
        is_async=shape.mode == "async",
        yields=shape not in PLAIN,
        signature=signature,
    )
    # Called with other arguments, the function has other parameters than the wrapper.
    return finish(layer, compiled, signature=None if arguments is None else signature)


_EXCEPTIONS: dict[str, object] = {
    "_resilient_exit": GeneratorExit,
    "_resilient_error": BaseException,
    "_resilient_stop": StopAsyncIteration,
}


def _delegating(call: str) -> list[str]:
    """What `yield from` would be to an async generator, had Python one."""
    return [
        f"_resilient_steps = {call}",
        "try:",
        " _resilient_item = await _resilient_steps.asend(None)",
        " while 1:",
        "  try:",
        "   _resilient_sent = yield _resilient_item",
        "  except _resilient_exit:",
        "   await _resilient_steps.aclose()",
        "   raise",
        "  except _resilient_error as _resilient_raised:",
        "   _resilient_item = await _resilient_steps.athrow(_resilient_raised)",
        "  else:",
        "   _resilient_item = await _resilient_steps.asend(_resilient_sent)",
        "except _resilient_stop:",
        " return",
    ]


def finish(
    layer: Layer, wrapper: Callable[..., Any], *, signature: Signature | None = None
) -> Callable[..., Any]:
    """Make a compiled wrapper look like the function, and let its layer be found.

    Args:
        layer: What the decorator knows about the function.
        wrapper: Compiled with its parameters, or
        signature: with these instead.
    """
    function = layer.function
    # An object's own attributes are no attributes of the wrapper; a function's are.
    updated = ("__dict__",) if inspect.isroutine(function) else ()
    functools.update_wrapper(wrapper, function, updated=updated)
    if signature is not None:
        wrapper.__signature__ = signature  # type: ignore[attr-defined]  # inspect reads it
    wrapper.__resilient__ = layer  # type: ignore[attr-defined]  # ours
    return wrapper


def layer_of(decorated: Any, kind: type[L], policy: str) -> Bound[L]:
    """The layer of a kind, anywhere in a stack of decorators or behind a bound method.

    Raises:
        ConfigurationError: The function is not decorated with this policy.
    """
    arguments: tuple[Any, ...] = ()
    each = decorated
    while each is not None:
        if inspect.ismethod(each):
            arguments, each = (each.__self__,), each.__func__
        if isinstance(each, (classmethod, staticmethod)):
            each = each.__func__
        layer = getattr(each, "__resilient__", None)
        if isinstance(layer, kind):
            return Bound(layer, arguments)
        each = getattr(each, "__wrapped__", None)
    raise ConfigurationError(f"{decorated!r} is not decorated with @{policy}")
