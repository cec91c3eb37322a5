"""Jobs in processes that are killed, and that stand still."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain, cycle, pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

import resilient
from resilient import checkpointed
from resilient.testing import kill_at_random
from tests.process import checkpointed_workers as workers
from tests.support.fixtures import EVERYWHERE, Target, alternating, everywhere
from tests.support.jobs import each
from tests.support.modes import Mode
from tests.support.processes import Worker, group
from tests.support.scale import measured, scaled
from tests.support.servers import RedisAt

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


@pytest.mark.slow
@everywhere
def test_a_hundred_kills_lose_nothing(shared_target: Target, tmp_path: Path) -> None:
    """100 SIGKILLs in 10,000 items: the same state and order, 0 lost, at most `every` redone each.

    The dead runner's lease would last for half a minute: each next one takes over at once. They
    are `def` and `async def` by turns, and go on from what the other has saved.
    """
    kills = scaled(100, least=10)

    def attempt(kills: int, slower: int) -> list[list[int]]:
        return interrupted_runs(shared_target, tmp_path / f"{slower}", kills, slower)

    runs = with_enough_interrupted(attempt, kills)
    redone = [before[-1] + 1 - after[0] for before, after in pairwise(runs)]
    print(
        f"{kills} kills in {runs[-1][-1] + 1} items, redone: {sum(redone)}, {max(redone)} at most"
    )
    # An item whose trace was not written yet when the kill came is redone without one.
    assert all(0 <= count <= workers.EVERY for count in redone)


def with_enough_interrupted(
    attempt: Callable[[int, int], list[list[int]]], kills: int
) -> list[list[int]]:
    """The items of each run that came to any, of an attempt in which enough of them did.

    Where the machine is busy, most kills of the first one come before the first item. Then they are
    fewer, and come later, in a job that takes as long.
    """
    for slower in (1, 4, 12):
        fewer = max(5, kills // slower)
        runs = attempt(fewer, slower)
        if len(runs) > fewer / 4:
            return runs
    raise AssertionError("most processes were killed before their first item")


def runs_of(effects: Path) -> list[list[int]]:
    """The items of each run that came to any."""
    runs = effects.read_text().split("run\n")[1:]
    return [[int(line) for line in run.split()] for run in runs if run.strip()]


def interrupted_runs(target: Target, effects: Path, kills: int, slower: int) -> list[list[int]]:
    """Kill the job, and see that nothing is lost; the items of each run that came to any."""
    items = 100 * kills * slower
    report = kill_at_random(
        workers.run_batch,
        *(target.url, target.prefix, str(effects), items),
        kills=kills,
        within=0.15 * slower,
        seed=7,
    )
    assert report.result == workers.uninterrupted(items)
    runs = runs_of(effects)
    assert runs[0][0] == 0
    assert runs[-1][-1] == items - 1
    for each_run in runs:
        assert each_run == list(range(each_run[0], each_run[-1] + 1))
    return runs


@pytest.mark.slow
@everywhere
def test_a_map_that_is_killed_loses_nothing(shared_target: Target, tmp_path: Path) -> None:
    """8 workers, 30 SIGKILLs: the same results, 0 lost, at most 8 calls made again for a kill."""
    kills = scaled(30, least=5)

    def attempt(kills: int, slower: int) -> list[list[int]]:
        effects = tmp_path / f"{slower}"
        items = 100 * kills * slower
        report = kill_at_random(
            workers.run_map,
            *(shared_target.url, shared_target.prefix, str(effects), items),
            kills=kills,
            within=0.15 * slower,
            seed=7,
        )
        assert report.result == [n * n for n in range(items)]
        runs = runs_of(effects)
        calls = Counter(chain(*runs))
        assert set(calls) == set(range(items))
        again = sum(calls.values()) - items
        measured(f"calls made again after {len(runs) - 1} of {kills} kills", again, "")
        assert again <= 8 * kills
        return runs

    with_enough_interrupted(attempt, kills)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shared_target", "kind"),
    list(zip(EVERYWHERE, cycle(["postgresql", "sqlite"]), strict=False)),
    indirect=["shared_target"],
)
def test_kills_in_transaction_mode_redo_nothing(
    kind: str, shared_target: Target, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """100 SIGKILLs in 3,000 items with `conn=`: each row exactly once, and the state too."""
    kills = scaled(100, least=8)

    def attempt(kills: int, slower: int) -> list[list[int]]:
        effects = tmp_path / f"{slower}"
        url = f"{effects}.db"
        if kind == "postgresql":
            url = request.getfixturevalue("postgres").url
            with psycopg.connect(url) as connection:
                connection.execute("DROP TABLE IF EXISTS rows")
        items = 100 * kills * slower
        report = kill_at_random(
            workers.run_rows,
            *(shared_target.url, f"{shared_target.prefix}{slower}:", url, str(effects), items),
            kills=kills,
            within=0.15 * slower,
            seed=7,
        )
        assert report.result == [items, list(range(items))]
        runs = runs_of(effects)
        measured(
            f"items undone by {len(runs) - 1} of {kills} kills", sum(map(len, runs)) - items, ""
        )
        return runs

    with_enough_interrupted(attempt, kills)


@alternating("async")
def test_a_second_runner_is_told_who_the_first_is(shared_target: Target, mode: Mode) -> None:
    """`JobRunning` names the process, and nothing of the job is changed."""
    arguments = (shared_target.url, shared_target.prefix, mode.name)
    with group(workers.hold, [(*arguments, 0.0)]) as (first,):
        pid, _ = first.wait_for("holding")
        with group(workers.hold, [(*arguments, 0.0)]) as (second,):
            outcome, message = second.result()
        assert outcome == "running"
        assert f"is run by pid {pid} on " in message
        first.send()
        assert first.result() == ["done", f"by {pid}"]


@alternating("sync")
def test_a_runner_that_stood_still_is_stale(shared_target: Target, mode: Mode) -> None:
    """Stopped past its lease, it is replaced; resumed, whatever it tries is refused.

    Its save, its step, its next item and its end: nothing of the job is changed.
    """
    arguments = (shared_target.url, shared_target.prefix, mode.name)
    with group(workers.hold, [(*arguments, 0.0)]) as (first,):
        pid, fence = first.wait_for("holding")
        with group(workers.hold, [(*arguments, 20.0)]) as (second,):
            first.stop()
            other, later = second.wait_for("holding")
            assert later > fence
            outcome = after_standing_still(first, shared_target)
            assert first.told("refused") == ["save", "step", "item"]
            second.send()
            assert second.result() == ["done", f"by {other}"]
    assert outcome == "stale"
    assert pid != other


def after_standing_still(first: Worker, target: Target) -> str:
    """Let the stopped worker go on; what comes of it, and that it has changed nothing."""
    first.send()
    first.cont()
    outcome, _ = first.result()
    with resilient.using(target.url, prefix=target.prefix):
        status = checkpointed.of(workers.held).at().status()
    assert (status.phase, status.attempt) == ("running", 2)
    assert status.checkpoint is not None
    assert (status.checkpoint.done, status.checkpoint.state) == (3, {"last": 2})
    return str(outcome)


@everywhere
def test_a_forked_child_leaves_the_job_alone(shared_target: Target) -> None:
    """The child is stale, and its unwinding does not end the parent's run."""
    with group(workers.fork_inside, [(shared_target.url, shared_target.prefix)]) as (worker,):
        answer, parent = worker.result()
    assert answer == parent


def test_round_trips(redis_server: RedisAt, prefix: str, mode: Mode) -> None:
    """Start and end 1 each, a step 1, a save 1; a resumed job gets all its steps with its start."""
    steps = 40

    async def body(job: Any, fails: bool) -> None:
        for number in range(steps):
            await mode.within(job.step, f"step {number}", lambda: 1)
        async for _ in each(job.iterate(range(20))):
            pass
        if fails:
            raise LookupError

    async def trivial(job: Any, number: int) -> int:
        return number

    decorated = mode.decorate(checkpointed("steps", every=5, fingerprint=()), body)
    fresh = mode.decorate(checkpointed("fresh:{number}"), trivial)
    with resilient.using(redis_server.url, prefix=prefix):
        mode.call(fresh, 0)
        with pytest.raises(LookupError):
            mode.call(decorated, True)
        mode.call(checkpointed.of(decorated).at(True).forget)
        with redis_server.round_trips() as calls:
            for number in range(1, 11):
                mode.call(fresh, number)
        with redis_server.round_trips() as replays:
            for number in range(1, 11):
                mode.call(fresh, number)
        with redis_server.round_trips() as first, pytest.raises(LookupError):
            mode.call(decorated, True)
        with redis_server.round_trips() as resumed:
            mode.call(decorated, False)
        if mode.is_async:
            mode.call(resilient.aclose)
    assert (calls.count, replays.count) == (20, 10)
    # Started; the steps; every fifth item; that the loop has ended, with the error; stopped.
    assert first.count == 1 + steps + 20 // 5 + 1 + 1
    assert resumed.count == 2
