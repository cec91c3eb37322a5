"""Jobs from outside: cancelled, rewound, forked, begun again, shown; and states of old versions."""

from __future__ import annotations

import gc
import logging
import sys
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import resilient
from resilient import checkpointed
from resilient.engine.clock import ManualClock, installed
from resilient.policies.checkpointed.record import Record
from resilient.protocols.values import Encoded
from tests.support.jobs import each
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


@pytest.fixture(name="clock", autouse=True)
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with installed(clock):
        yield clock


class Flaky(Exception):
    """Raised by a body once."""


class Counting:
    """A job over numbers, during whose items each test does what it wants."""

    def __init__(self, mode: Mode, count: int = 6, **options: Any) -> None:
        self.mode = mode
        self.seen: list[int] = []
        self.during: dict[int, Any] = {}
        self.count = count
        options = {"every": 2, "fingerprint": (), **options}
        self.run = mode.decorate(checkpointed("count:{name}", **options), self._body)
        self.runs = checkpointed.of(self.run)

    async def _body(self, job: Any, name: str) -> list[int]:
        await self.mode.within(job.step, "first", lambda: self.seen.append(-1))
        async for item in each(job.iterate(range(self.count))):
            self.seen.append(item)
            job.state.setdefault("items", []).append(item)
            if item in self.during:
                await self.during.pop(item)()
        items: list[int] = job.state["items"]
        return items


def test_a_cancelled_job_stops_with_its_next_item(mode: Mode, clock: ManualClock) -> None:
    """The item in hand is finished and saved; the next call goes on."""
    job = Counting(mode)
    runs = job.runs.at("a")

    async def cancel() -> None:
        assert await mode.within(runs.cancel) is True
        assert (await mode.within(runs.status)).cancelled is True
        clock.advance(1.5)

    job.during[2] = cancel
    with pytest.raises(resilient.JobCancelled, match="was cancelled") as caught:
        mode.call(job.run, "a")
    assert caught.value.key == "count:a"
    status = mode.call(runs.status)
    assert (status.phase, status.cancelled, status.checkpoint.done) == ("stopped", False, 3)
    assert mode.call(runs.cancel) is False
    assert mode.call(job.run, "a") == [0, 1, 2, 3, 4, 5]
    assert job.seen == [-1, 0, 1, 2, 3, 4, 5]


def test_a_cancelled_job_stops_with_its_next_step(mode: Mode, clock: ManualClock) -> None:
    """A job without a loop sees it where it begins a step."""
    seen: list[str] = []

    async def steps(job: Any) -> None:
        for name in ("one", "two", "three"):
            await mode.within(job.step, name, lambda name=name: seen.append(name))
            clock.advance(1.5)
            await mode.within(checkpointed.of(run).at().cancel)

    run = mode.decorate(checkpointed("k"), steps)
    with pytest.raises(resilient.JobCancelled):
        mode.call(run)
    assert seen == ["one"]


def test_a_job_goes_on_from_an_earlier_checkpoint(mode: Mode) -> None:
    """Of a finished job too: with the state of then, and its steps as they were."""
    job = Counting(mode)
    assert mode.call(job.run, "a") == [0, 1, 2, 3, 4, 5]
    runs = job.runs.at("a")
    numbers = [saved.sequence for saved in mode.call(runs.history)]
    assert numbers == [1, 2, 3]
    job.seen.clear()
    assert mode.call(runs.resume, from_checkpoint=1) == [0, 1, 2, 3, 4, 5]
    assert job.seen == [2, 3, 4, 5]
    assert mode.call(runs.resume) == [0, 1, 2, 3, 4, 5]
    assert len(job.seen) == 4, "a finished job answers its result"
    with pytest.raises(resilient.ConfigurationError, match="no checkpoint 17"):
        mode.call(runs.resume, from_checkpoint=17)


def test_a_running_job_is_neither_rewound_nor_forked_into(mode: Mode) -> None:
    """Both name who runs it."""
    job = Counting(mode)
    refused: list[str] = []

    async def meddle() -> None:
        runs = job.runs.at("a")
        for control in (
            lambda: runs.resume(from_checkpoint=1),
            lambda: job.runs.at("done").fork(runs),
        ):
            with pytest.raises(resilient.JobRunning, match="is run by pid") as caught:
                await mode.within(control)
            refused.append(str(caught.value))

    assert mode.call(job.run, "done")
    job.during[3] = meddle
    assert mode.call(job.run, "a") == [0, 1, 2, 3, 4, 5]
    assert len(refused) == 2


def test_a_fork_needs_a_job(mode: Mode) -> None:
    """Another one's key is none: the error says what is, at once."""
    job = Counting(mode)
    mode.call(job.run, "a")
    with pytest.raises(resilient.ConfigurationError, match="to='count:b' is no job, such as"):
        job.runs.at("a").fork("count:b")  # type: ignore[arg-type]  # that is shown


def test_a_fork_begins_where_the_other_was_saved(mode: Mode) -> None:
    """Another key, the checkpoint and steps of the first; the first stays as it is."""
    job = Counting(mode)
    mode.call(job.run, "a")
    job.seen.clear()
    runs, other = job.runs.at("a"), job.runs.at("b")
    mode.call(runs.fork, other, from_checkpoint=2)
    [saved] = mode.call(other.history)
    assert (saved.done, saved.state, saved.label) == (
        4,
        {"items": [0, 1, 2, 3]},
        "fork of count:a:2",
    )
    assert mode.call(job.run, "b") == [0, 1, 2, 3, 4, 5]
    assert job.seen == [4, 5]
    assert mode.call(job.run, "a") == [0, 1, 2, 3, 4, 5]
    for to, message in ((other, "begun already"), (runs, "the job itself")):
        with pytest.raises(resilient.ConfigurationError, match=message):
            mode.call(runs.fork, to)
    with pytest.raises(resilient.ConfigurationError, match="no such checkpoint"):
        mode.call(runs.fork, job.runs.at("c"), from_checkpoint=99)


def test_a_finished_job_may_run_again_with_each_call(mode: Mode) -> None:
    """`on_complete="rerun"`: from the beginning, steps too; one that failed is resumed."""
    job = Counting(mode, on_complete="rerun")
    for _ in range(2):
        job.seen.clear()
        assert mode.call(job.run, "a") == [0, 1, 2, 3, 4, 5]
        assert job.seen == [-1, 0, 1, 2, 3, 4, 5]

    async def fail() -> None:
        raise Flaky

    job.during[3] = fail
    with pytest.raises(Flaky):
        mode.call(job.run, "a")
    job.seen.clear()
    assert mode.call(job.run, "a") == [0, 1, 2, 3, 4, 5]
    assert job.seen == [3, 4, 5]


# --- versions


@dataclass
class Old:
    """The state of version 1."""

    rows: int = 0
    name: str = "x"


@dataclass
class New:
    """The state of version 2."""

    count: int = 0


def interrupted(mode: Mode, **options: Any) -> None:
    """Leave a job behind that has done 3 of its items, under version 1."""

    async def load(job: Any) -> None:
        async for item in each(job.iterate(range(5))):
            if item == 3:
                raise Flaky
            job.state.rows += 1

    with pytest.raises(Flaky):
        mode.call(mode.decorate(checkpointed("k", state=Old, version="1", **options), load))


def test_the_state_of_another_version_is_migrated(mode: Mode) -> None:
    """`migrate` gets the old fields as plain data, and the old version; positions stay."""
    interrupted(mode)
    asked: list[Any] = []

    def migrate(fields: dict[str, Any], version: str) -> New:
        asked.append((fields, version))
        return New(fields["rows"])

    async def load(job: Any) -> int:
        async for _ in each(job.iterate(range(5))):
            job.state.count += 1
        count: int = job.state.count
        return count

    run = mode.decorate(checkpointed("k", state=New, version="2", migrate=migrate), load)
    assert mode.call(run) == 5
    assert asked == [({"rows": 3, "name": "x"}, "1")]


def test_another_source_of_one_version_only_warns() -> None:
    """The job goes on; the same source does not warn."""

    def begun(job: resilient.Job, fails: bool) -> int:
        for item in job.iterate(range(5)):
            if fails and item == 3:
                raise Flaky
        return job.progress.done

    def edited(job: resilient.Job, fails: bool) -> int:
        for _ in job.iterate(range(5)):
            assert not fails
        return 7

    decorate = checkpointed("k", version="1", fingerprint=(), on_complete="rerun")
    for attempt in (begun, begun, edited):
        with pytest.raises((Flaky, AssertionError)), warnings.catch_warnings():
            warnings.simplefilter("error" if attempt is begun else "ignore")
            decorate(attempt)(True)
    with pytest.warns(resilient.JobCodeChanged, match="another source of .*edited"):
        assert decorate(edited)(False) == 7


def test_a_large_state_is_compressed() -> None:
    """It comes back as it was, and takes less; a small one and a random one stay as they are."""
    large = b"row " * 10_000
    for state, is_smaller in ((large, True), (b"small", False), (bytes(range(256)) * 8, False)):
        record = Record("1", {"#1": [1, None, False, {}]}, Encoded(state))
        data = record.encode()
        assert Record.decode(data) == record
        assert (len(data) < len(state)) is is_smaller


# --- progress


def test_progress_is_stored_with_each_checkpoint(mode: Mode, clock: ManualClock) -> None:
    """How many are done, of how many, how fast, and how long it will take."""
    job = Counting(mode)

    async def pass_time() -> None:
        clock.advance(2)

    job.during = dict.fromkeys(range(6), pass_time)
    mode.call(job.run, "a")
    first = mode.call(job.runs.at("a").history)[0]
    assert (first.done, first.total, first.percent) == (2, 6, pytest.approx(100 / 3))
    assert first.rate == pytest.approx(0.5)
    assert first.eta == pytest.approx(8)


def test_without_a_terminal_a_line_is_logged_every_so_often(
    mode: Mode, clock: ManualClock, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """Every ten seconds and at the end, and nothing is drawn."""
    caplog.set_level(logging.INFO, logger="resilient.jobs")
    job = Counting(mode, progress="auto")

    async def pass_time() -> None:
        clock.advance(6)

    job.during = dict.fromkeys(range(6), pass_time)
    mode.call(job.run, "a")
    lines = [record.message for record in caplog.records if record.name == "resilient.jobs"]
    assert lines[0].startswith("count:a: 33 %, 2 of 6, 0.2 a second, ")
    assert lines[-1].startswith("count:a: 100 %, 6 of 6")
    assert len(lines) == 4
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bar", ["rich", "tqdm", "auto"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_bar_on_a_terminal(
    mode: Mode, bar: str, fails: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It is drawn on standard error, names the job, and is closed whatever happens."""
    pytest.importorskip("rich" if bar == "auto" else bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    job = Counting(mode, progress=bar)

    async def fail() -> None:
        raise Flaky

    if fails:
        job.during[3] = fail
        with pytest.raises(Flaky):
            mode.call(job.run, "a")
    else:
        mode.call(job.run, "a")
    printed = capsys.readouterr()
    assert "count:a" in printed.err
    assert printed.out == ""
    assert ("100%" in printed.err) is not fails


def test_a_bar_that_there_is_not_is_refused() -> None:
    """An unknown kind is named."""
    with pytest.raises(resilient.ConfigurationError, match="progress='fancy'"):
        checkpointed("k", progress="fancy")  # type: ignore[call-overload]  # that is the case


def test_a_stored_step_is_something_saved(mode: Mode) -> None:
    """A job that has stored the result of a step, and no checkpoint, is not new."""

    async def fails(job: Any, first: bool) -> None:
        if first:
            await mode.within(job.step, "first", mode.function(note))
        raise Flaky

    async def note() -> int:
        return 1

    run = mode.decorate(checkpointed("steps:{first}"), fails)
    for first, phase in ((False, "new"), (True, "stopped")):
        with pytest.raises(Flaky):
            mode.call(run, first)
        status = mode.call(checkpointed.of(run).at(first).status)
        assert (status.phase, status.checkpoint) == (phase, None)


def test_a_run_leaves_no_cycle_behind(mode: Mode) -> None:
    """What a job has made is freed when it ends, without the garbage collector."""
    made: list[weakref.ref[Any]] = []

    async def load(job: Any) -> int:
        assert resilient.current_job() is job
        made.extend([weakref.ref(job), weakref.ref(job._run)])
        await mode.within(job.step, "first", mode.function(one), returns=int)
        async for _ in each(job.iterate(range(3))):
            async for _ in each(job.iterate(range(3))):
                assert resilient.current_job() is job
                break
        return int(job.progress.done)

    async def one() -> int:
        return 1

    run = mode.decorate(checkpointed("cycles"), load)
    gc.collect()
    gc.disable()
    try:
        assert mode.call(run) == 3
        assert [reference() for reference in made] == [None] * 2
    finally:
        gc.enable()


def test_a_job_that_has_ended_knows_how_far_it_came(mode: Mode) -> None:
    """Whoever has kept it can still ask it."""
    kept: list[Any] = []

    async def load(job: Any) -> None:
        kept.append(job)
        async for _ in each(job.iterate(range(3))):
            pass

    mode.call(mode.decorate(checkpointed("ended"), load))
    [job] = kept
    assert (job.progress.done, job.progress.total, job.task) == (3, 3, "ended")
