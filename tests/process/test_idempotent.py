"""Idempotent calls between processes, some of which die and stop."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import resilient
from resilient import idempotent
from tests.process import idempotent_workers
from tests.support.fixtures import NETWORKED, Target, alternating
from tests.support.lateness import Lateness
from tests.support.lossy import Lossy
from tests.support.modes import Mode
from tests.support.processes import group, run_all
from tests.support.scale import measured
from tests.support.servers import RedisAt

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@alternating("sync")
def test_duplicates_over_processes_take_effect_once(
    shared_target: Target, mode: Mode, tmp_path: Path
) -> None:
    """64 callers in 8 processes: 1 execution, 64 equal results."""
    ran = tmp_path / "ran"
    arguments = (shared_target.url, shared_target.prefix, mode.name, str(ran), 8)
    answers = run_all(idempotent_workers.duplicates, [arguments] * 8)
    assert ran.read_text() == "ran\n"
    assert [answer for each in answers for answer in each] == [
        {"order": "A-7", "lines": [1, 2, 3]}
    ] * 64


@alternating("async")
def test_a_killed_owner_is_taken_over(shared_target: Target, mode: Mode) -> None:
    """Within its lease and half a second, as attempt 2, under a larger fence.

    In the best of some rounds, and but for what a busy machine adds to each turn of the few threads
    that have to do with it.
    """
    lease, beyond = 1.0, 30.0
    for attempt in range(5):
        prefix = f"{shared_target.prefix}{attempt}:"
        with Lateness() as late:
            took = takeover((shared_target.url, prefix, mode.name, lease))
        measured("an idempotent call is taken over", took, f"s ({late.seconds:.3f} s late)")
        beyond = min(beyond, took - 5 * late.seconds)
        if took <= lease + 0.5:
            break
    assert beyond <= lease + 0.5


def takeover(arguments: tuple[str, str, str, float]) -> float:
    """Kill an owner; seconds until the next one runs."""
    with group(idempotent_workers.owner, [(*arguments, "first")]) as (first,):
        _, attempt, fence = first.wait_for("running")
        assert attempt == 1
        with group(idempotent_workers.owner, [(*arguments, "second")]) as (second,):
            second.wait_for("asking")
            time.sleep(0.3)
            killed = time.monotonic()
            first.kill()
            taken, attempt, later = second.wait_for("running")
            assert (attempt, later > fence) == (2, True)
            second.send()
            assert second.result() == "second"
            return float(taken) - killed


@alternating("sync")
def test_a_stopped_owners_late_finish_is_refused(shared_target: Target, mode: Mode) -> None:
    """Stopped past its lease, resumed, it is told so; the outcome stays the other's."""
    lease = 0.7
    arguments = (shared_target.url, shared_target.prefix, mode.name, lease)
    with group(idempotent_workers.owner, [(*arguments, "first")]) as (first,):
        began, _, fence = first.wait_for("running")
        first.stop()
        with group(idempotent_workers.owner, [(*arguments, "second")]) as (second,):
            taken, attempt, later = second.wait_for("running")
            # Nobody knows that it is dead: its lease must run out.
            assert taken - began > 0.9 * lease
            assert (attempt, later > fence) == (2, True)
            first.cont()
            first.send()
            assert first.result() == "refused"
            second.send()
            assert second.result() == "second"
    with resilient.using(shared_target.url, prefix=shared_target.prefix):

        def third() -> str:
            return "third"

        assert idempotent("k", ttl=60)(third)() == "second"


def test_a_call_costs_two_round_trips_and_a_replay_one(
    redis_server: RedisAt, prefix: str, mode: Mode
) -> None:
    """By the server's own count."""

    async def body(number: int) -> int:
        return number

    with resilient.using(redis_server.url, prefix=prefix):
        call = mode.decorate(idempotent("k:{number}", ttl=60), body)
        mode.call(call, 0)
        mode.call(call, 0)
        with redis_server.round_trips() as fresh:
            for number in range(1, 31):
                mode.call(call, number)
        with redis_server.round_trips() as replays:
            for number in range(1, 31):
                mode.call(call, number)
        if mode.is_async:
            mode.call(resilient.aclose)
    assert (fresh.count, replays.count) == (60, 30)


@alternating("async", NETWORKED)
@pytest.mark.usefixtures("pymongos_sockets")
def test_lost_replies_never_run_a_call_twice(
    shared_target: Target, mode: Mode, lossy: Lossy
) -> None:
    """The reply to the claim, and the one to the completion, are swallowed in turn."""
    runs, rounds = 0, max(4, int(20 * lossy.pace))
    with resilient.using(lossy.url, prefix=shared_target.prefix):

        async def body(number: int) -> int:
            nonlocal runs
            runs += 1
            if number % 2:
                lossy.lose()
            return number

        call = mode.decorate(idempotent("k:{number}", ttl=60), body)
        for number in range(rounds):
            if not number % 2:
                lossy.lose()
            assert mode.call(call, number) == number
            assert mode.call(call, number) == number
        assert runs == rounds
        assert lossy.lost == rounds
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_waiter_costs_at_most_four_commands(redis_server: RedisAt, prefix: str) -> None:
    """64 duplicates on 8 backends wait for one call: by the server's own count."""
    backends, callers = 8, 8

    def run(key: str) -> None:
        running = threading.Event()

        def effect() -> str:
            running.set()
            time.sleep(1.2)
            return "done"

        def on(backend: resilient.Backend) -> Any:
            return idempotent(key, ttl=60, wait=60, backend=backend)(effect)

        with ThreadPoolExecutor(backends * callers + 1) as pool:
            first = pool.submit(on(stores[0]))
            assert running.wait(30)
            calls = [on(store) for store in stores for _ in range(callers)]
            answers = list(pool.map(lambda call: call(), calls))
        assert answers == ["done"] * backends * callers
        assert first.result() == "done"

    with ExitStack() as exits:
        stores = [
            exits.enter_context(resilient.using(redis_server.url, prefix=prefix))
            for _ in range(backends)
        ]
        run("warm")
        with redis_server.round_trips() as trips:
            run("k")
    each = (trips.count - 2) / (backends * callers)  # but for the owner's own two
    print(f"{each:.2f} commands a waiter")
    assert each <= 4
