"""`@fallback`: what answers in the place of a call that failed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeVar, overload

from resilient import config, events
from resilient.engine.drivers.sync import unawaited
from resilient.engine.matching import On, matcher
from resilient.engine.signatures import compile_with_signature, forwarding, signature_of
from resilient.engine.typing import AsyncFallbackDecorator, SkippingDecorator
from resilient.engine.wrap import AWAITED, AWAITED_NAMES, Layer, Shape, finish, shape_of, unpacked
from resilient.errors import ConfigurationError

__all__ = ["fallback"]

B = TypeVar("B")

POLICY = "fallback"

CALL = """\
try:
 _resilient_answer = {wait}_resilient_function({given})
except _resilient_Exception as _resilient_error:
 if not _resilient_matches(_resilient_error):
  raise
 return {wait}_resilient_instead(_resilient_error, {given})
{check}
return _resilient_answer
"""


@overload
def fallback(  # type: ignore[overload-overlap]  # an async function is the nearer match
    instead: Callable[..., Coroutine[Any, Any, B]], /, *, on: On = Exception
) -> AsyncFallbackDecorator[B]: ...


@overload
def fallback(instead: Callable[..., B], /, *, on: On = Exception) -> SkippingDecorator[B]: ...


def fallback(instead: Callable[..., Any], /, *, on: On = Exception) -> Any:
    """Answer calls that fail by another function.

    It stands above the decorators whose errors it answers for: an open circuit, a retry that has
    given up, a lock that is busy.

    Args:
        instead: Is called with the exception and the arguments of the call, defaults included. It
            may be async on an `async def` only. What it raises itself passes, with the exception as
            its context.
        on: Which exceptions it answers for: a type, a tuple of types, or a function that says so of
            an exception. A `ConfigurationError` always passes: it is the developer's to mend.

    Raises:
        ConfigurationError: When decorated: an option is wrong, or the function is a generator
            function, whose body runs after the call has returned.

    Example:
        >>> import resilient
        >>> @resilient.fallback(lambda error, currency: 1.0, on=ConnectionError)
        ... def rate(currency: str) -> float:
        ...     raise ConnectionError("no route to host")
        >>> rate("EUR")
        1.0
    """
    if not callable(instead):
        raise ConfigurationError(f"@{POLICY}: {instead!r} is not callable")
    is_meant = matcher(on, policy=POLICY)

    def matches(error: Exception) -> bool:
        if isinstance(error, ConfigurationError) or config.is_disabled():
            return False
        return is_meant(error)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        layer = Layer(POLICY, function, shape_of(function, policy=POLICY))
        if layer.shape is Shape.FUNCTION and inspect.iscoroutinefunction(instead):
            raise ConfigurationError(f"@{POLICY}: an async function needs an `async def` below it")
        return _wrapper(layer, instead, matches)

    return unpacked(decorate)


def _wrapper(
    layer: Layer, instead: Callable[..., Any], matches: Callable[[Exception], bool]
) -> Callable[..., Any]:
    is_async = layer.shape is Shape.COROUTINE
    signature = signature_of(layer.function, policy=POLICY)
    body = CALL.format(
        given=forwarding(signature),
        wait="await " if is_async else "",
        check="" if is_async else AWAITED,
    )
    compiled = compile_with_signature(
        layer.function,
        [line for line in body.splitlines() if line],
        {
            "_resilient_function": layer.function,
            "_resilient_matches": matches,
            "_resilient_instead": (_ainstead if is_async else _instead)(layer.name, instead),
            "_resilient_Exception": Exception,
            **AWAITED_NAMES,
        },
        is_async=is_async,
        signature=signature,
    )
    return finish(layer, compiled)


def _instead(name: str, instead: Callable[..., Any]) -> Callable[..., Any]:
    def answered(error: Exception, /, *args: Any, **kwargs: Any) -> Any:
        events.emit(events.FellBack(name, error))
        answer = instead(error, *args, **kwargs)
        if type(answer) is CoroutineType:
            raise unawaited(answer)
        return answer

    return answered


def _ainstead(name: str, instead: Callable[..., Any]) -> Callable[..., Any]:
    async def answered(error: Exception, /, *args: Any, **kwargs: Any) -> Any:
        events.emit(events.FellBack(name, error))
        answer = instead(error, *args, **kwargs)
        return await answer if isinstance(answer, Coroutine) else answer

    return answered
