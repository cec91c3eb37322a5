"""Flights with callers of every kind, and what they want of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from resilient.engine.flights import (
    Errand,
    Flight,
    Flights,
    ashare,
    share,
)
from resilient.engine.plan import Body
from tests.support.modes import Mode


async def body(flight: Flight | None = None) -> Any:
    """The simplest plan."""
    return await Body()


def errand(function: Callable[[], Any], key: str = "k") -> Errand[Any]:
    """What calls a function."""
    return Errand(key, (), body, body, lambda _: function())


def shared(mode: Mode, flights: Flights, key: str, function: Callable[[], Any]) -> Any:
    """A call of `function` in single flight: its result, and whether it was this caller's own."""
    run = ashare if mode.is_async else share
    return run(flights, errand(function, key))


def within(seconds: float, condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def riders(flights: Flights) -> int:
    """How many wait for some flight, in this moment."""
    return sum(len(flight._riders) for flight in list(flights._flying.values()))
