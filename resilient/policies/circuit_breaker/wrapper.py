"""The wrapper of a guarded function: a fast path through a closed circuit in front of the plan.

The fast path is compiled with the function's own parameters. It looks up the circuit, takes its
counter, calls the function and draws from the counter: no plan, no object, no lock, no request.
Whatever it cannot answer (an unknown key, a circuit that is not closed, another configuration) is
the plan's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from textwrap import indent
from types import ModuleType
from typing import Any

from resilient import config
from resilient.engine.signatures import compile_with_signature, forwarding, signature_of
from resilient.engine.wrap import AWAITED, AWAITED_NAMES, PLAIN, Layer, Shape, around, finish
from resilient.policies.circuit_breaker.plan import guarded
from resilient.policies.circuit_breaker.settings import POLICY, FallbackOn, Settings

__all__ = ["guarding"]

FAST_PATH = """\
_resilient_memo = _resilient_settings.memo
if _resilient_memo.epoch == _resilient_config.epoch:
 _resilient_circuit = _resilient_memo.circuits.get({key})
 if _resilient_circuit is not None:
  _resilient_hits = _resilient_circuit.hits
  if _resilient_hits is not None:
{begin}
   try:
    _resilient_answer = {wait}_resilient_function({given})
    {judge}
   except _resilient_Error as _resilient_error:
    _resilient_settings.raised(_resilient_circuit, _resilient_hits, _resilient_error{flight})
    {fall_back}
    raise
   {check}
{count}
   return _resilient_answer
return {wait}_resilient_slow({given})
"""
DEPTH = " " * 3
"""How far the path through a closed circuit is indented there."""

JUDGE = "_resilient_outcome = _resilient_settings.answered(_resilient_answer)"
COUNT = """\
_resilient_next(_resilient_hits)
if _resilient_circuit.is_idle:
 _resilient_circuit.wake()"""
"""A success that is counted and nothing else: no call of ours."""
COUNT_OUTCOME = "_resilient_circuit.ended(_resilient_hits, {outcome})"
TIMED = "_resilient_circuit.timed(_resilient_flight, {outcome})"
FALL_BACK = """\
if _resilient_settings.outcome(_resilient_error) == "1":
     return {wait}_resilient_either(_resilient_error, {given})"""


def guarding(
    layer: Layer,
    settings: Settings,
    names: Callable[..., str],
    *,
    literal: str | None = None,
    fallback: Callable[..., Any] | None = None,
    fallback_on: FallbackOn = "open",
) -> Callable[..., Any]:
    """The wrapper that has a function guarded.

    Args:
        layer: What the decorator knows about the function.
        settings: The breaker's options.
        names: Makes the key of a call.
        literal: The key, where it is the same for every call.
        fallback: What answers in the place of a refused call.
        fallback_on: Whether it answers in the place of a failed one too.
    """
    either = None if fallback is None else _either(layer, fallback)
    slow = through_plan(layer, settings, names, either, fallback_on)
    if layer.shape not in PLAIN or not settings.is_fast:
        return slow
    is_async = layer.shape is Shape.COROUTINE
    signature = signature_of(layer.function, policy=POLICY)
    given = forwarding(signature)
    compiled = compile_with_signature(
        layer.function,
        fast_path(
            settings,
            key=f"_resilient_key({given})" if literal is None else repr(literal),
            given=given,
            is_async=is_async,
            falls_back=either is not None and fallback_on == "error",
        ),
        {
            "_resilient_settings": settings,
            "_resilient_config": config,
            "_resilient_key": names,
            "_resilient_function": layer.function,
            "_resilient_either": either,
            "_resilient_slow": slow,
            "_resilient_next": next,
            "_resilient_Error": BaseException,
            **AWAITED_NAMES,
            **({} if settings.rules.slow_over is None else in_flight().NAMES),
        },
        is_async=is_async,
        signature=signature,
    )
    return finish(layer, compiled)


def fast_path(
    settings: Settings, *, key: str, given: str, is_async: bool, falls_back: bool
) -> list[str]:
    """The lines of the fast path: only what these options need."""
    is_timed = settings.rules.slow_over is not None
    is_judged = settings.record_result is not None
    wait = "await " if is_async else ""
    body = FAST_PATH.format(
        key=key,
        given=given,
        wait=wait,
        begin=indent(in_flight().BEGIN, DEPTH) if is_timed else "",
        judge=JUDGE if is_judged else "",
        flight=", _resilient_flight" if is_timed else "",
        fall_back=FALL_BACK.format(wait=wait, given=given) if falls_back else "",
        check="" if is_async else AWAITED,
        count=indent(_counted(is_timed=is_timed, is_judged=is_judged), DEPTH),
    )
    return [line for line in body.splitlines() if line.strip()]


def _counted(*, is_timed: bool, is_judged: bool) -> str:
    """The lines that count an answer."""
    outcome = "_resilient_outcome" if is_judged else '"0"'
    if is_timed:
        outcome = TIMED.format(outcome=outcome)
    counted = COUNT_OUTCOME.format(outcome=outcome) if is_timed or is_judged else COUNT
    if not is_timed or is_judged:
        return counted
    return f"if {in_flight().IS_QUICK}\n{indent(COUNT, ' ')}\nelse:\n {counted}"


def in_flight() -> ModuleType:
    """What times calls; it imports more than other breakers need."""
    from resilient.engine.circuits import in_flight

    return in_flight


def through_plan(
    layer: Layer,
    settings: Settings,
    names: Callable[..., str],
    either: Callable[..., Any] | None,
    fallback_on: FallbackOn,
) -> Callable[..., Any]:
    """The wrapper whose every call runs the plan."""
    if either is None:
        return around(layer, partial(guarded, settings), [names])
    signature = signature_of(layer.function, policy=POLICY)
    return around(
        Layer(POLICY, either, layer.shape),
        partial(guarded, settings, fallback=fallback_on),
        [names],
        signature=signature,
        arguments=f"_resilient_value, {forwarding(signature)}",
    )


def _either(layer: Layer, fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or the fallback where the plan's body carries what it is to answer for."""
    function = layer.function

    if layer.shape is Shape.COROUTINE:

        async def aeither(value: Any, /, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(value, Exception):
                return await function(*args, **kwargs)
            answer = fallback(value, *args, **kwargs)
            return await answer if isinstance(answer, Coroutine) else answer

        return _named(aeither, function)

    def either(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, Exception):
            return function(*args, **kwargs)
        return fallback(value, *args, **kwargs)

    return _named(either, function)


def _named(either: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    return wraps(function)(either) if hasattr(function, "__name__") else either
