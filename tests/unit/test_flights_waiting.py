"""Flights that wait for a thread: who waits for them waits behind nobody who waits for others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.engine.crew import Crew
from resilient.engine.flights import Errand, Flight, Flights, Late, Limits, launch, share, table
from resilient.engine.plan import Body

PATIENT = Limits(None, 20)
"""A limit that nobody reaches."""


@pytest.fixture
def flights(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flights]:
    """An empty table whose crews have one thread each."""
    monkeypatch.setattr(table, "CREW", 1)
    flights = Flights()
    yield flights
    flights.crew.stop()
    flights.background.stop()
    assert len(flights) == 0


@contextmanager
def busy(crew: Crew) -> Iterator[None]:
    """All its threads have something else to do, until exit."""
    begun, leave = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        assert leave.wait(30)

    crew.submit(job)
    assert begun.wait(10)
    try:
        yield
    finally:
        leave.set()


async def body(flight: Flight | None = None) -> Any:
    """The simplest plan."""
    return await Body()


def errand(key: str, function: Callable[[], Any] = threading.get_ident) -> Errand[Any]:
    """What calls a function; by default one that says which thread it is."""
    return Errand(key, (), body, body, lambda _: function())


def refresh(until: float, function: Callable[[], Any] = threading.get_ident) -> Errand[Any]:
    """What serves a stale value up to some moment, and calls a function for another one."""

    async def plan(flight: Flight) -> Any:
        flight.serve("stale", until=until)
        return await Body()

    return Errand("k", (), plan, body, lambda _: function(), may_serve=True)


def test_a_caller_without_limits_flies_what_waits(flights: Flights) -> None:
    """It does so in its own thread, once, and all others get the result."""
    ran = []
    with busy(flights.background):
        launch(flights, errand("k", lambda: ran.append(threading.get_ident())))
        share(flights, errand("k"))
        assert ran == [threading.get_ident()]
    flights.background.stop()
    assert len(ran) == 1, "the crew finds nothing to do"


def test_a_caller_with_limits_waits_behind_no_refresh(flights: Flights) -> None:
    """Slow refreshes keep no thread from those for whom somebody waits."""
    with busy(flights.background):
        assert share(flights, errand("other"), PATIENT)[1]
        launch(flights, errand("k"))
        value, ours = share(flights, errand("k"), PATIENT)
        assert not ours
        assert value != threading.get_ident()


def test_a_caller_with_limits_leaves_in_time(flights: Flights) -> None:
    """While the threads are busy with what others wait for, its limits hold."""
    with busy(flights.crew):
        with pytest.raises(Late):
            share(flights, errand("k"), Limits(None, 0.02))
        value, ours = share(flights, errand("k"))
        assert (value, ours) == (threading.get_ident(), False)


def test_a_nested_flight_does_not_queue(flights: Flights) -> None:
    """What a computation with limits wants, with limits, is not behind it in the same queue."""

    def nested(depth: int) -> Any:
        if depth == 0:
            return "value"
        return share(flights, errand(str(depth), partial(nested, depth - 1)), PATIENT)[0]

    assert nested(4) == "value"
    with busy(flights.background):
        launch(flights, errand("1", partial(nested, 0)))
        assert nested(3) == "value", "one of them waits for a thread already"


def test_nested_flights_of_many_callers(flights: Flights) -> None:
    """More callers than threads, each of whose computations wants another: all are served."""
    results: list[Any] = []

    def outer(number: int) -> Any:
        return share(flights, errand(f"inner{number}", lambda: number), PATIENT)[0]

    def call(number: int) -> None:
        job = errand(f"outer{number}", partial(outer, number))
        results.append(share(flights, job, PATIENT)[0])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(20))


def test_a_refresh_that_waits_too_long(flights: Flights) -> None:
    """While it waits its value is served; once that is too old, who comes flies it."""
    with clock.installed(manual := ManualClock()), busy(flights.background):
        job = refresh(manual.now() + 10)
        assert share(flights, job)[0] == "stale"
        manual.advance(9)
        assert share(flights, job)[0] == "stale"
        manual.advance(1)
        assert share(flights, job) == (threading.get_ident(), False)


def test_who_flies_what_waits_is_served_too(flights: Flights) -> None:
    """If it turns out that there is a value to be served, the background goes on instead of it."""
    refreshed = threading.Event()
    with clock.installed(manual := ManualClock()):
        with busy(flights.background):
            job = refresh(manual.now() + 10, refreshed.set)
            launch(flights, job)
            assert share(flights, job) == ("stale", False)
            assert not refreshed.is_set()
        assert refreshed.wait(10)
    flights.background.stop()


def test_an_interrupt_while_flying_for_others(flights: Flights) -> None:
    """It is the caller's; the flight comes to nothing, and the next one flies again."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    with busy(flights.background):
        launch(flights, errand("k", interrupted))
        with pytest.raises(KeyboardInterrupt):
            share(flights, errand("k"))
        assert share(flights, errand("k")) == (threading.get_ident(), True)


def test_an_error_while_flying_for_others(flights: Flights) -> None:
    """All riders get it, and so does who flies."""

    def fail() -> None:
        raise LookupError("nobody")

    with busy(flights.background):
        launch(flights, errand("k", fail))
        with pytest.raises(LookupError, match="nobody"):
            share(flights, errand("k"))


def test_who_flies_waits_for_what_it_flies(flights: Flights) -> None:
    """A flight that wants what its new thread is computing computes it itself, at once."""

    def wants(key: str) -> Any:
        return share(flights, errand(key, lambda: "alone"))[0]

    with busy(flights.background):
        launch(flights, errand("inner", partial(wants, "outer")))
        assert share(flights, errand("outer", partial(wants, "inner"))) == ("alone", True)


def test_an_exit_in_a_thread_of_the_crew(flights: Flights) -> None:
    """A function that ends the program does so for the caller, and does not run for ever."""
    ran = []

    def leave() -> None:
        ran.append(1)
        raise SystemExit

    with pytest.raises(SystemExit):
        share(flights, errand("k", leave), PATIENT)
    assert len(ran) == 2
