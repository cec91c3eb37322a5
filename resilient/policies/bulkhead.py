"""`@bulkhead`: so many calls at a time in this process, and no more."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, overload

from resilient import config
from resilient.engine.durations import Duration, optional_seconds
from resilient.engine.options import check_busy, check_whole_number, checked_call
from resilient.engine.places import Places
from resilient.engine.plan import NOW, Body, Listen, Wait
from resilient.engine.typing import Decorator, SkippingDecorator
from resilient.engine.wrap import ALL, PLAIN, Layer, around, shape_of, unpacked
from resilient.errors import BulkheadFull

__all__ = ["bulkhead"]

S = TypeVar("S")

POLICY = "bulkhead"
LOOK_AFTER = 1.0
"""Seconds after which a waiter looks by itself: who was to wake it may have been interrupted."""


@overload
def bulkhead(
    limit: int, *, wait: Duration | None = 0, on_busy: Literal["raise"] = "raise"
) -> Decorator: ...


@overload
def bulkhead(
    limit: int, *, wait: Duration | None = 0, on_busy: Literal["skip"]
) -> SkippingDecorator[None]: ...


@overload
def bulkhead(
    limit: int, *, wait: Duration | None = 0, on_busy: Literal["skip"], skipped: S
) -> SkippingDecorator[S]: ...


@checked_call(POLICY)
def bulkhead(
    limit: int,
    *,
    wait: Duration | None = 0,
    on_busy: Literal["raise", "skip"] = "raise",
    skipped: Any = None,
) -> Any:
    """Let so many calls run at a time in this process: what is slow takes no more of it.

    Threads and tasks count alike. A limit over all processes is `resilient.semaphore`. One that is
    kept in a variable, `database = bulkhead(10)`, and decorates several functions is one limit for
    all of them together. Generators keep their place from their first to their last step.

    Args:
        limit: How many calls run at a time.
        wait: How long a further call waits for one to end: seconds, or as `"1s"`; 0: not at all;
            `None`: no limit. Who has waited longest is next.
        on_busy: Then `"raise"` `BulkheadFull`, or `"skip"` the call.
        skipped: What a skipped call answers.

    Raises:
        ConfigurationError: When decorated: an option is wrong.
        BulkheadFull: So many were running for as long as `wait`; nothing has run.

    Example:
        >>> import resilient
        >>> @resilient.bulkhead(1)
        ... def once(again: bool) -> str:
        ...     return once(False) if again else "run"
        >>> once(False)
        'run'
        >>> once(True)
        Traceback (most recent call last):
        ...
        resilient.errors.BulkheadFull: once: 1 call is running, and no more may; waited 0.0 s
    """
    check_whole_number(f"@{POLICY}", "limit", limit)
    check_busy(f"@{POLICY}", on_busy, skipped)
    patience = optional_seconds(wait, option="wait", allow_zero=True)
    places = Places(limit)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        # What stands for a skipped call has no place in a stream of items.
        allowed = PLAIN if on_busy == "skip" else ALL
        layer = Layer(POLICY, function, shape_of(function, policy=POLICY, allowed=allowed))
        skip = on_busy == "skip"
        return around(layer, partial(bounded, places, layer.name, patience, skip, skipped))

    return unpacked(decorate)


async def bounded(places: Places, name: str, wait: float | None, skip: bool, skipped: Any) -> Any:
    """Run the body in one of the places."""
    if config.is_disabled():
        return await Body()
    seat: list[int] = []
    try:  # from here on: a thread is interrupted (Ctrl-C) after any call, also as it has entered
        if not (places.enter(seat) or (wait != 0 and await entered(places, wait, seat))):
            if skip:
                return skipped
            raise full(places, name, wait)
        return await Body()
    finally:
        places.leave(seat)


async def entered(places: Places, wait: float | None, seat: list[int]) -> bool:
    """Stand in line for a place; whether there was one in time."""
    waiter = await Listen(places.hub)
    until = math.inf if wait is None else await NOW + wait
    places.line_up(waiter)
    try:
        while not places.is_in(waiter) and (left := until - await NOW) > 0:
            await Wait(waiter, min(left, LOOK_AFTER))
    finally:
        places.step_out(waiter, seat)
    return bool(seat)


def full(places: Places, name: str, wait: float | None) -> BulkheadFull:
    """The error of a call for which there was no place."""
    running = "1 call is" if places.limit == 1 else f"{places.limit} calls are"
    return BulkheadFull(
        f"{name}: {running} running, and no more may; waited {wait or 0.0:.1f} s",
        policy=POLICY,
        key=name,
    )
