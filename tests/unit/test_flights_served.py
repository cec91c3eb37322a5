"""Callers who are served before the flight lands, are in a hurry, or are nobody; and tags."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.engine.flights import (
    Errand,
    Flight,
    Flights,
    Late,
    Limits,
    Returned,
    alaunch,
    ashare,
    launch,
    share,
)
from resilient.engine.flights.flight import TaskRider, ThreadRider
from resilient.engine.flights.recent import MOST
from resilient.engine.plan import Body
from tests.support.flown import body, errand, shared, within
from tests.support.modes import Mode

FOREVER = float("inf")


# --- callers who are served while the flight goes on -------------------------------------------


@pytest.mark.parametrize("kind", [ThreadRider, TaskRider])
def test_riders_may_be_woken_twice(kind: type[ThreadRider | TaskRider]) -> None:
    """A flight that serves a value and lands before its rider has looked wakes it twice."""

    async def main() -> None:
        rider = kind()
        for _ in range(2):
            rider.wake()
        if isinstance(rider, ThreadRider):
            assert rider.wait(0)
            assert not rider.wait(0)
        else:
            assert await rider.wait(None)

    asyncio.run(main())


def test_waking_a_task_whose_loop_is_closed(flights: Flights) -> None:
    """Nobody waits there any more, and whoever lands the flight is not told so."""

    async def main() -> TaskRider:
        return TaskRider()

    asyncio.run(main()).wake()


def test_served_and_landed_at_once(flights: Flights) -> None:
    """Riders get the value, whoever waits when it is served and the flight lands right after."""
    riding = ThreadRider()
    flight, _ = flights.board("k", (), ThreadRider(), None)
    assert flight is not None
    assert flights.board("k", (), riding, None) == (flight, False)
    flight.serve("stale", until=FOREVER)
    flights.land(flight, Returned("fresh"))
    assert riding.wait(0)
    outcome = flights.taken(flight, riding)
    assert outcome is not None
    assert outcome.value == "fresh"


def test_served_until_it_is_too_old(flights: Flights) -> None:
    """Who comes while a value may be served gets it at once; who comes later, the outcome."""
    with clock.installed(manual := ManualClock()):
        flight, _ = flights.board("k", (), ThreadRider(), None)
        assert flight is not None
        flight.serve("stale", until=manual.now() + 10)
        manual.advance(9.9)
        early, late = ThreadRider(), ThreadRider()
        flights.board("k", (), early, None)
        assert early.wait(0)
        served = flights.taken(flight, early)
        manual.advance(0.1)
        flights.board("k", (), late, None)
        assert not late.wait(0)
        flights.land(flight, Returned("fresh"))
        assert late.wait(0)
        outcome = flights.taken(flight, late)
    assert served is not None
    assert outcome is not None
    assert (served.value, outcome.value) == ("stale", "fresh")


def in_a_hurry(
    mode: Mode, flights: Flights, function: Callable[[], Any], limits: Limits, fallback: Any = None
) -> Any:
    """A call that waits for so long only; its flight knows of a fallback."""

    async def plan(flight: Flight) -> Any:
        flight.fallback = None if fallback is None else Returned(fallback)
        return await Body()

    run = ashare if mode.is_async else share
    return run(flights, Errand("k", (), plan, body, lambda _: function()), limits)


# --- callers in a hurry, and nobody ------------------------------------------------------------


def test_a_flight_in_time(mode: Mode, flights: Flights) -> None:
    """Limits change nothing for who is served within them; exceptions arrive as well."""

    async def compute() -> str:
        return "value"

    async def fail() -> str:
        raise LookupError("nobody")

    for limits in (Limits(5, None), Limits(None, 5), Limits(5, 10)):
        call = partial(in_a_hurry, mode, flights, mode.function(compute), limits, "old")
        assert mode.call(call) == ("value", True)
    with pytest.raises(LookupError, match="nobody"):
        mode.call(in_a_hurry, mode, flights, mode.function(fail), Limits(5, 10))


def test_a_fallback_after_the_soft_limit(mode: Mode, flights: Flights) -> None:
    """Who waits longer than the soft limit gets the fallback; the flight goes on to its end."""
    ended = []

    async def compute() -> str:
        await mode.sleep(0.2)
        ended.append(1)
        return "value"

    function = mode.function(compute)
    call = partial(in_a_hurry, mode, flights, function, Limits(0.02, 30), "old")
    assert mode.together(*[call] * 5) == [("old", False)] * 5
    assert ended == []
    assert mode.call(shared, mode, flights, "k", function) == ("value", False)
    assert ended == [1]


def test_the_hard_limit(mode: Mode, flights: Flights) -> None:
    """Without a fallback who waits is late at the hard limit; a task is cancelled with its last."""
    ended = []

    async def compute() -> str:
        await mode.sleep(0.3)
        ended.append(1)
        return "value"

    call = partial(in_a_hurry, mode, flights, mode.function(compute), Limits(0.01, 0.05))
    late = mode.together(*[call] * 3, return_exceptions=True)
    assert [type(each) for each in late] == [Late] * 3
    within(5, lambda: len(flights) == 0)
    assert ended == ([] if mode.is_async else [1])


def test_nobody_waits_for_a_launched_flight(mode: Mode, flights: Flights) -> None:
    """It flies once, whoever launches it again; who comes meanwhile rides along."""
    ran = []

    async def compute() -> str:
        ran.append(1)
        await mode.sleep(0.1)
        return "value"

    function = mode.function(compute)
    one = errand(function)
    for _ in range(3):
        mode.call(alaunch if mode.is_async else launch, flights, one)
    assert mode.call(shared, mode, flights, "k", function) == ("value", False)
    assert ran == [1]


def test_a_launched_flight_that_fails(mode: Mode, flights: Flights) -> None:
    """Its exception is nobody's: the next one flies again."""

    async def fail() -> str:
        raise LookupError("nobody")

    function = mode.function(fail)
    one = errand(function)
    mode.call(alaunch if mode.is_async else launch, flights, one)

    async def later() -> None:
        await mode.sleep(0.05)

    mode.call(mode.function(later))
    assert len(flights) == 0


# --- tags --------------------------------------------------------------------------------------


def test_tags_that_are_known_late(flights: Flights) -> None:
    """A flight that learns of a tag is called off if that was invalidated since it began."""
    flights.call_off_tag("before")
    flight = flights.launch("k", ())
    assert flight is not None
    flights.call_off_tag("other")
    flight.tag(("before",))
    assert not flight.is_stale()
    flights.call_off_tag("late")
    flight.tag(("before", "late"))
    assert flight.is_stale()
    assert len(flights) == 0


@pytest.mark.parametrize(("others", "is_stale"), [(MOST - 1, False), (MOST + 1, True)])
def test_few_tags_are_remembered(flights: Flights, others: int, is_stale: bool) -> None:
    """After so many invalidations that one may be forgotten, a tag counts as invalidated."""
    flight = flights.launch("k", ())
    assert flight is not None
    for number in range(others):
        flights.call_off_tag(f"t{number}")
    assert len(flights._recent._moments) <= MOST
    flight.tag(("quiet",))
    assert flight.is_stale() is is_stale
    flights.land(flight, None)
