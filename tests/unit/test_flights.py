"""One computation for all who want its value, in threads and tasks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from resilient.engine.flights import (
    Errand,
    Flight,
    Flights,
    ashare,
    share,
)
from resilient.engine.flights import sharing as module
from resilient.engine.plan import Body
from tests.support.flown import body, errand, riders, shared, within
from tests.support.modes import Mode


def test_one_computation(mode: Mode, flights: Flights) -> None:
    """Fifty callers of one key cause one execution, whose result they all get."""
    ran = []

    async def compute() -> str:
        ran.append(1)
        await mode.sleep(0.1)
        return "value"

    function = mode.function(compute)
    results = mode.together(*[partial(shared, mode, flights, "k", function)] * 50)
    assert [value for value, _ in results] == ["value"] * 50
    assert sum(own for _, own in results) == len(ran) == 1


def test_other_keys_do_not_wait(mode: Mode, flights: Flights) -> None:
    """Ten keys are ten executions at once."""

    async def compute(number: int) -> int:
        await mode.sleep(0.5)
        return number

    function = mode.function(compute)
    began = time.monotonic()
    results = mode.together(
        *[partial(shared, mode, flights, str(n), partial(function, n)) for n in range(10)]
    )
    assert results == [(number, True) for number in range(10)]
    assert time.monotonic() - began < 4  # of the 5 that they would take in turn


def test_later_callers_compute_again(mode: Mode, flights: Flights) -> None:
    """A flight that has landed is over: it is no cache."""
    ran = []

    async def compute() -> int:
        ran.append(1)
        return len(ran)

    function = mode.function(compute)
    assert mode.call(shared, mode, flights, "k", function) == (1, True)
    assert mode.call(shared, mode, flights, "k", function) == (2, True)


class Failure(Exception):
    """What a computation raises."""


def test_all_get_the_exception(mode: Mode, flights: Flights) -> None:
    """Whoever waited gets the exception, and its traceback does not grow with their number."""
    ran = []

    async def compute() -> None:
        ran.append(1)
        await mode.sleep(0.1)
        raise Failure("no")

    function = mode.function(compute)
    calls = [partial(shared, mode, flights, "k", function)] * 30
    errors = mode.together(*calls, return_exceptions=True)
    assert len(ran) == 1
    assert {type(error) for error in errors} == {Failure}
    assert max(len(traceback.extract_tb(error.__traceback__)) for error in errors) < 20
    assert mode.together(*calls[:2], return_exceptions=True) != []
    assert len(ran) == 2


def test_exceptions_leave_no_cycles(mode: Mode, flights: Flights) -> None:
    """What a failed computation refers to is gone with the exception, without the collector."""

    class Big:
        pass

    alive: list[weakref.ref[Big]] = []

    def fails() -> None:
        big = Big()
        alive.append(weakref.ref(big))
        raise Failure("no")

    def fails_late() -> None:
        time.sleep(0.05)
        fails()

    def in_thread() -> None:
        with suppress(Failure):
            share(flights, Errand("k", (), body, body, lambda _: fails_late()))

    async def in_task() -> None:
        async def compute() -> None:
            await asyncio.sleep(0.02)
            fails()

        with suppress(Failure):
            await ashare(flights, errand(compute))

    async def tasks() -> None:
        await asyncio.gather(*[in_task() for _ in range(3)])

    gc.collect()
    gc.disable()
    try:
        if mode.is_async:
            mode.call(tasks)
            mode.call(asyncio.sleep, 0)
        else:
            threads = [threading.Thread(target=in_thread) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert {reference() for reference in alive} == {None}
    finally:
        gc.enable()


def test_recursion_on_its_own_key(mode: Mode, flights: Flights) -> None:
    """A computation that wants its own key computes it itself, however deep."""

    async def compute(depth: int) -> int:
        if depth == 0:
            return 0
        value, _ = await mode.within(shared, mode, flights, "k", partial(computing, depth - 1))
        return int(value) + 1

    computing = mode.function(compute)
    assert mode.call(shared, mode, flights, "k", partial(computing, 5)) == (5, True)


def test_a_task_started_inside_may_outlive_the_flight(flights: Flights) -> None:
    """What a computation leaves running waits like everybody else once the flight has landed."""

    async def main() -> None:
        ran = []
        tasks: list[asyncio.Task[Any]] = []

        async def compute() -> int:
            ran.append(1)
            await asyncio.sleep(0.02)
            return len(ran)

        async def later() -> Any:
            await asyncio.sleep(0.05)
            return await asyncio.gather(*[call() for _ in range(5)])

        def call() -> Any:
            return ashare(flights, errand(compute))

        async def first() -> int:
            tasks.append(asyncio.create_task(later()))
            return 0

        await ashare(flights, Errand("k", (), body, body, lambda _: first()))
        assert [value for value, _ in await tasks[0]] == [1] * 5

    asyncio.run(main())


def test_two_that_want_each_other(
    mode: Mode, flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two computations that each want the other's value end, after a while, by computing it."""
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    monkeypatch.setattr(module, "LOOK", 0.1)

    async def compute(wanted: str, depth: int) -> int:
        await mode.sleep(0.05)
        if depth == 0:
            return 0
        other = "b" if wanted == "a" else "a"
        call = partial(shared, mode, flights, other, partial(computing, other, depth - 1))
        value, _ = await mode.within(call)
        return int(value) + 1

    computing = mode.function(compute)
    calls = [partial(shared, mode, flights, key, partial(computing, key, 1)) for key in "ab"]
    assert mode.together(*calls, timeout=5) == [(1, True), (1, True)]


def test_called_off(mode: Mode, flights: Flights) -> None:
    """What is called off, by key, tag or all, still answers who waits, but nobody joins it."""
    stale = []

    async def plan(flight: Flight) -> Any:
        value = await Body()
        stale.append(flight.stale)
        return value

    async def compute(after: Callable[[], None]) -> str:
        after()
        return "value"

    function = mode.function(compute)
    run = ashare if mode.is_async else share
    ends: list[tuple[Callable[[], None], bool]] = [
        (lambda: flights.call_off("k"), True),
        (lambda: flights.call_off_tag("tag"), True),
        (flights.call_off_all, True),
        (lambda: flights.call_off("other"), False),
        (lambda: flights.call_off_tag("other"), False),
    ]
    for end, expected in ends:
        joinable: list[bool] = []

        def after(end: Callable[[], None] = end, joinable: list[bool] = joinable) -> None:
            end()
            joinable.append("k" in flights._flying)

        def called(_: Any, after: Callable[[], None] = after) -> Any:
            return function(after)

        result = mode.call(run, flights, Errand("k", ("tag",), plan, body, called))
        assert result == ("value", True)
        assert stale.pop() is expected
        assert joinable == [not expected]


# --- threads -----------------------------------------------------------------------------------


def test_interrupted_thread(flights: Flights) -> None:
    """A leader that is interrupted takes nobody with it: another one of them computes."""
    ran = []

    def compute() -> int:
        ran.append(threading.get_ident())
        if len(ran) == 1:
            within(5, lambda: riders(flights) == 9)
            raise KeyboardInterrupt
        time.sleep(0.3)
        return 7

    def call() -> Any:
        try:
            return share(flights, errand(compute))[0]
        except KeyboardInterrupt:
            return "interrupted"

    with ThreadPoolExecutor(10) as pool:
        results = [future.result(10) for future in [pool.submit(call) for _ in range(10)]]
    assert sorted(map(str, results)) == ["7"] * 9 + ["interrupted"]
    assert len(ran) == 2


def test_context_of_the_caller(flights: Flights) -> None:
    """The function sees the context variables of the caller that leads."""
    variable = contextvars.ContextVar("variable", default="unset")

    async def main() -> None:
        variable.set("mine")

        async def compute() -> str:
            return variable.get()

        assert await ashare(flights, errand(compute)) == (
            "mine",
            True,
        )

    asyncio.run(main())
