"""The wrapper of a guarded function: a fast path through a closed circuit in front of the plan.

The fast path is compiled with the function's own parameters. It looks up the circuit, takes its
counter, calls the function and draws from the counter: no plan, no object, no lock, no request.
Whatever it cannot answer (an unknown key, a circuit that is not closed, another configuration) is
the plan's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from types import CoroutineType
from typing import Any

from resilient import config
from resilient.engine.drivers.sync import unawaited
from resilient.engine.signatures import compile_with_signature, forwarding, signature_of
from resilient.engine.wrap import PLAIN, Layer, Shape, around, finish
from resilient.errors import CircuitOpen
from resilient.policies.circuit_breaker.plan import POLICY, Settings, guarded

__all__ = ["guarding"]

FAST_PATH = """\
_resilient_memo = _resilient_settings.memo
if _resilient_memo.epoch == _resilient_config.epoch:
 _resilient_circuit = _resilient_memo.circuits.get({key})
 if _resilient_circuit is not None:
  _resilient_hits = _resilient_circuit.hits
  if _resilient_hits is not None:
   try:
    _resilient_answer = {wait}_resilient_function({given})
   except _resilient_Error as _resilient_error:
    _resilient_settings.raised(_resilient_circuit, _resilient_hits, _resilient_error)
    raise
   {check}
   _resilient_next(_resilient_hits)
   if _resilient_circuit.is_idle:
    _resilient_circuit.wake()
   return _resilient_answer
return {wait}_resilient_slow({given})
"""

CHECK = (
    "if _resilient_type(_resilient_answer) is _resilient_Coroutine: "
    "raise _resilient_unawaited(_resilient_answer)"
)


def guarding(
    layer: Layer,
    settings: Settings,
    names: Callable[..., str],
    *,
    literal: str | None = None,
    fallback: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """The wrapper that has a function guarded.

    Args:
        layer: What the decorator knows about the function.
        settings: The breaker's options.
        names: Makes the key of a call.
        literal: The key, where it is the same for every call.
        fallback: What answers in the place of a refused call.
    """
    slow = through_plan(layer, settings, names, fallback)
    if layer.shape not in PLAIN:
        return slow
    is_async = layer.shape is Shape.COROUTINE
    signature = signature_of(layer.function, policy=POLICY)
    given = forwarding(signature)
    body = FAST_PATH.format(
        key=f"_resilient_key({given})" if literal is None else repr(literal),
        given=given,
        wait="await " if is_async else "",
        check="" if is_async else CHECK,
    )
    compiled = compile_with_signature(
        layer.function,
        [line for line in body.splitlines() if line.strip()],
        {
            "_resilient_settings": settings,
            "_resilient_config": config,
            "_resilient_key": names,
            "_resilient_function": layer.function,
            "_resilient_slow": slow,
            "_resilient_next": next,
            "_resilient_type": type,
            "_resilient_Error": BaseException,
            "_resilient_Coroutine": CoroutineType,
            "_resilient_unawaited": unawaited,
        },
        is_async=is_async,
        signature=signature,
    )
    return finish(layer, compiled, signature=signature)


def through_plan(
    layer: Layer,
    settings: Settings,
    names: Callable[..., str],
    fallback: Callable[..., Any] | None,
) -> Callable[..., Any]:
    """The wrapper whose every call runs the plan."""
    if fallback is None:
        return around(layer, partial(guarded, settings), [names])
    signature = signature_of(layer.function, policy=POLICY)
    either = Layer(POLICY, _either(layer, fallback), layer.shape)
    return around(
        either,
        partial(guarded, settings, fallback=True),
        [names],
        signature=signature,
        arguments=f"_resilient_value, {forwarding(signature)}",
    )


def _either(layer: Layer, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or the fallback where the plan's body carries a refusal."""
    function = layer.function

    if layer.shape is Shape.COROUTINE:

        async def aeither(value: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(value, CircuitOpen):
                return await function(*args, **kwargs)
            answer = fallback(value, *args, **kwargs)
            return await answer if isinstance(answer, Coroutine) else answer

        return _named(aeither, function)

    def either(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, CircuitOpen):
            return function(*args, **kwargs)
        return fallback(value, *args, **kwargs)

    return _named(either, function)


def _named(either: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    return wraps(function)(either) if hasattr(function, "__name__") else either
