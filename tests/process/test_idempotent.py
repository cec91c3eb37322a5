"""Idempotent calls between processes, some of which die and stop."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import resilient
from resilient import idempotent
from resilient.testing.faults import FaultProxy
from tests.process import idempotent_workers
from tests.support.fixtures import Target
from tests.support.modes import Mode
from tests.support.processes import group, run_all
from tests.support.servers import RedisAt

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


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


def test_a_killed_owner_is_taken_over(shared_target: Target, mode: Mode) -> None:
    """Within its lease and half a second; the second attempt is said to be one."""
    arguments = (shared_target.url, shared_target.prefix, mode.name, 1.0)
    with (
        group(idempotent_workers.owner, [(*arguments, "first")]) as (first,),
        group(idempotent_workers.owner, [(*arguments, "second")]) as (second,),
    ):
        first.wait_for("running")
        time.sleep(0.3)
        killed = time.monotonic()
        first.kill()
        taken = second.wait_for("running")
        assert taken - killed < 1.5
        second.send()
        assert second.result() == "second"
        assert second.told("attempt") == [2]


def test_a_stopped_owners_late_finish_is_refused(shared_target: Target, mode: Mode) -> None:
    """Resumed, it is told that it was taken over, and the outcome stays the other's."""
    arguments = (shared_target.url, shared_target.prefix, mode.name, 0.7)
    with (
        group(idempotent_workers.owner, [(*arguments, "first")]) as (first,),
        group(idempotent_workers.owner, [(*arguments, "second")]) as (second,),
    ):
        first.wait_for("running")
        first.stop()
        second.wait_for("running")
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


def test_lost_replies_never_run_a_call_twice(
    redis_server: RedisAt, prefix: str, mode: Mode
) -> None:
    """The reply to the claim, and the one to the completion, are swallowed in turn."""
    runs = 0
    with FaultProxy(redis_server.url) as proxy, resilient.using(proxy.url, prefix=prefix):

        async def body(number: int) -> int:
            nonlocal runs
            runs += 1
            if number % 2:
                proxy.drop_replies(1)
            return number

        call = mode.decorate(idempotent("k:{number}", ttl=60), body)
        for number in range(20):
            if not number % 2:
                proxy.drop_replies(1)
            assert mode.call(call, number) == number
            assert mode.call(call, number) == number
        assert runs == 20
        assert proxy.counts.dropped == 20
        if mode.is_async:
            mode.call(resilient.aclose)
