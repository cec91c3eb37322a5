"""`@timeout`: a limit on the time that a call takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient import config
from resilient.engine.durations import Duration, seconds
from resilient.engine.options import checked_call
from resilient.engine.signatures import compile_with_signature, forwarding, signature_of
from resilient.engine.typing import Decorator
from resilient.engine.wrap import AWAITED, AWAITED_NAMES, Layer, Shape, finish, shape_of, unpacked
from resilient.errors import ConfigurationError

__all__ = ["timeout"]

POLICY = "timeout"


@checked_call(POLICY)
def timeout(after: Duration, *, thread: bool = False) -> Decorator:
    """Raise `TimedOut` when a call takes longer than it may.

    An `async def` is cancelled then. Nothing can stop a `def`: it is refused, unless
    `thread=True` has it run in a thread of its own, which is left to itself.

    Args:
        after: For how long a call may take: seconds, or as `"2s"`.
        thread: Run a `def` in another thread, for those that do no harm if they go on after their
            caller has given up. They see the caller's context variables, and are daemons: the
            interpreter does not wait for them at its end. It costs the start of a thread.

    Raises:
        ConfigurationError: When decorated: the duration is wrong, the function is a `def` and
            `thread` is false, an `async def` and `thread` is true, or a generator function.
        TimedOut: The call took longer. A circuit breaker above it counts that as a failure.

    Example:
        >>> import time, resilient
        >>> @resilient.timeout("10ms", thread=True)
        ... def slow() -> None:
        ...     time.sleep(1)
        >>> slow()
        Traceback (most recent call last):
        ...
        resilient.errors.TimedOut: slow did not end within 0.01 s
    """
    limit = seconds(after, option=f"@{POLICY}: after")
    given: object = thread
    if not isinstance(given, bool):
        raise ConfigurationError(f"@{POLICY}: thread={thread!r} is not True or False")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        layer = Layer(POLICY, function, shape_of(function, policy=POLICY))
        is_async = layer.shape is Shape.COROUTINE
        if is_async and thread:
            raise ConfigurationError(
                f"@{POLICY} on {layer.name}: thread=True: an `async def` is cancelled in its loop"
            )
        if not is_async and not thread:
            raise ConfigurationError(
                f"@{POLICY} on {layer.name}: nothing can stop a `def`: thread=True leaves it to "
                "itself in a thread of its own, and the time-outs of what it calls end it in truth"
            )
        return _wrapper(layer, limit)

    return unpacked(decorate)


def _wrapper(layer: Layer, limit: float) -> Callable[..., Any]:
    from resilient.engine import time_limit  # and with it asyncio: not on import

    signature = signature_of(layer.function, policy=POLICY)
    call = f"_resilient_function({forwarding(signature)})"
    is_async = layer.shape is Shape.COROUTINE
    if is_async:
        body = [
            f"if _resilient_disabled(): return await {call}",
            f"return await _resilient_limited({call}, _resilient_limit, _resilient_name)",
        ]
    else:
        body = [
            f"if _resilient_disabled(): return {call}",
            f"_resilient_answer = _resilient_limited(lambda: {call}, "
            "_resilient_limit, _resilient_name)",
            AWAITED,
            "return _resilient_answer",
        ]
    compiled = compile_with_signature(
        layer.function,
        body,
        {
            "_resilient_function": layer.function,
            "_resilient_disabled": config.is_disabled,
            "_resilient_limited": time_limit.alimited if is_async else time_limit.limited,
            "_resilient_limit": limit,
            "_resilient_name": layer.name,
            **AWAITED_NAMES,
        },
        is_async=is_async,
        signature=signature,
    )
    return finish(layer, compiled)
