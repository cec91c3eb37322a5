"""Single flight: threads and tasks share one computation, and none harms another."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from resilient.engine.flights import sharing as module
from resilient.engine.flights.flight import TaskRider, ThreadRider
from resilient.engine.flights.recent import MOST
from resilient.engine.plan import Body
from tests.support.modes import Mode

FOREVER = float("inf")


@pytest.fixture
def flights() -> Iterator[Flights]:
    """An empty table, which must be empty again at the end."""
    table = Flights()
    yield table
    assert len(table) == 0
    assert not table._tasks


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


# --- threads


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


# --- tasks


async def counted(started: list[int], ended: list[str], seconds: float) -> str:
    """A computation that tells how it ended."""
    started.append(1)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        ended.append("cancelled")
        raise
    ended.append("returned")
    return "value"


@pytest.mark.parametrize("who", ["leader", "follower", "half", "all but the last"])
def test_cancelled_callers(flights: Flights, who: str) -> None:
    """Whoever is cancelled, leader or not, all others are served by the one execution."""

    async def main() -> None:
        started: list[int] = []
        ended: list[str] = []

        async def call() -> Any:
            plan = partial(counted, started, ended, 0.1)
            return await ashare(flights, errand(plan))

        tasks = [asyncio.create_task(call()) for _ in range(20)]
        await asyncio.sleep(0.02)
        chosen = {
            "leader": tasks[:1],
            "follower": tasks[5:6],
            "half": tasks[::2],
            "all but the last": tasks[:-1],
        }[who]
        for task in chosen:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            if task in chosen:
                assert isinstance(result, asyncio.CancelledError)
            else:
                assert not isinstance(result, BaseException)
                assert result[0] == "value"
        assert (len(started), ended) == (1, ["returned"])

    asyncio.run(main())


def test_cancelled_with_its_last_caller(flights: Flights) -> None:
    """When nobody wants the value any more, the computation is cancelled and has cleaned up."""

    async def main() -> None:
        started: list[int] = []
        ended: list[str] = []

        async def call() -> Any:
            plan = partial(counted, started, ended, 30)
            return await ashare(flights, errand(plan))

        tasks = [asyncio.create_task(call()) for _ in range(5)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert ended == ["cancelled"]
        assert len(asyncio.all_tasks()) == 1

        # And who comes next starts anew.
        plan = partial(counted, started, ended, 0)
        value, _ = await ashare(flights, errand(plan))
        assert value == "value"

    asyncio.run(main())


def test_timeout_of_the_only_caller(flights: Flights) -> None:
    """`asyncio.timeout` around a call ends it as it would end the bare function."""

    async def main() -> None:
        ended: list[str] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                plan = partial(counted, [], ended, 30)
                await ashare(flights, errand(plan))
        assert ended == ["cancelled"]

    asyncio.run(main())


def test_cancellation_inside_the_function(flights: Flights) -> None:
    """A function that raises `CancelledError` itself does so for each caller, and does not hang."""

    async def main() -> None:
        ran = []

        async def compute() -> None:
            ran.append(1)
            await asyncio.sleep(0.01)
            raise asyncio.CancelledError

        async def call() -> Any:
            return await ashare(flights, errand(compute))

        results = await asyncio.gather(*[call() for _ in range(3)], return_exceptions=True)
        assert {type(result) for result in results} == {asyncio.CancelledError}
        assert len(ran) == 3

    asyncio.run(main())


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


# --- both, and several loops


def test_threads_and_loops_share_one_flight(flights: Flights) -> None:
    """Tasks of three loops and ten threads wait for one task of one loop."""
    ran = []

    async def compute() -> str:
        ran.append(1)
        within(5, lambda: True)
        await asyncio.sleep(0.2)
        return "value"

    def never() -> str:
        ran.append(2)
        return "other"

    async def many() -> list[Any]:
        calls = [ashare(flights, errand(compute)) for _ in range(5)]
        return [value for value, _ in await asyncio.gather(*calls)]

    def one() -> list[Any]:
        within(5, lambda: bool(ran))
        return [share(flights, Errand("k", (), body, body, lambda _: never()))[0]]

    with ThreadPoolExecutor(13) as pool:
        loops = [pool.submit(asyncio.run, many()) for _ in range(3)]
        threads = [pool.submit(one) for _ in range(10)]
        values = [value for future in [*loops, *threads] for value in future.result(10)]
    assert values == ["value"] * 25
    assert ran == [1]


def test_a_closed_loop_strands_nobody(flights: Flights, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the loop of a flight is closed under it, whoever waits elsewhere computes."""
    monkeypatch.setattr(module, "LOOK", 0.05)
    loop = asyncio.new_event_loop()

    async def endless() -> None:
        await asyncio.Event().wait()

    async def lead() -> None:
        await ashare(flights, Errand("k", (), body, body, lambda _: endless()))

    leading = loop.create_task(lead())
    loop.run_until_complete(asyncio.sleep(0.01))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(share, flights, errand(lambda: "own"))
        within(5, lambda: riders(flights) == 2)
        [flying] = flights._tasks
        loop.close()
        assert waiting.result(5) == ("own", True)
    for task in (leading, flying):  # as they were left; nothing can run them any more
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()
    flights._tasks.clear()


def test_blocking_call_in_the_loop_of_a_flight(flights: Flights) -> None:
    """A blocking call in the very loop that computes does not wait for it: it never would end."""

    async def main() -> None:
        async def compute() -> str:
            await asyncio.sleep(0.05)
            return "task"

        leading = asyncio.create_task(ashare(flights, errand(compute)))
        await asyncio.sleep(0.01)
        assert share(flights, Errand("k", (), body, body, lambda _: "own")) == ("own", True)
        assert await leading == ("task", True)

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork(flights: Flights) -> None:
    """A child does not wait for a flight of its parent's."""
    leave = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(share, flights, errand(lambda: leave.wait(10)))
        within(5, lambda: len(flights) == 1)
        child = os.fork()
        if child == 0:
            value, _ = share(flights, Errand("k", (), body, body, lambda _: "child"))
            os._exit(0 if value == "child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        leave.set()
        assert leading.result(5) == (True, True)


def test_many_threads_and_keys(flights: Flights) -> None:
    """Under load every caller gets the value of its key, and nothing is left."""

    def compute(key: str) -> str:
        time.sleep(0.0005)
        return key

    def call(number: int) -> bool:
        key = str(number % 7)
        value: str = share(flights, Errand(key, (), body, body, lambda _: compute(key)))[0]
        return value == key

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(3000)))


# --- callers who are served while the flight goes on


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


# --- callers in a hurry, and nobody


def in_a_hurry(
    mode: Mode, flights: Flights, function: Callable[[], Any], limits: Limits, fallback: Any = None
) -> Any:
    """A call that waits for so long only; its flight knows of a fallback."""

    async def plan(flight: Flight) -> Any:
        flight.fallback = None if fallback is None else Returned(fallback)
        return await Body()

    run = ashare if mode.is_async else share
    return run(flights, Errand("k", (), plan, body, lambda _: function()), limits)


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


# --- tags


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
