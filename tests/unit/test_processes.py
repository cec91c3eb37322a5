"""The helper that runs functions in processes of their own."""

from __future__ import annotations

import asyncio
import os
import queue
import time

import pytest

from tests.support.processes import WorkerFailed, group, receive, run_all, tell

pytestmark = pytest.mark.process


def add(a: int, b: int) -> list[int]:
    """The sum, and who computed it."""
    print("this is not a message")
    return [a + b, os.getpid()]


async def add_async(a: int, b: int) -> int:
    """The same in an event loop."""
    await asyncio.sleep(0)
    return a + b


def began() -> float:
    """When it ran, on the clock that all processes share."""
    return time.monotonic()


def fail() -> None:
    """Raise."""
    raise KeyError("the reason")


def converse() -> list[object]:
    """Tell, receive, and give what was received."""
    tell("ready for it", {"pid": os.getpid()})
    return [receive(), receive(10)]


def tick() -> None:
    """Tell something again and again, for ever."""
    for n in range(1_000_000):
        tell("tick", n)
        time.sleep(0.01)


def impatient() -> str:
    """Wait for a message that does not come."""
    try:
        return str(receive(0.01))
    except queue.Empty:
        return "nothing"


def test_results_come_in_order() -> None:
    """Each process is another one, and gives its own result, in order."""
    results = run_all(add, [(n, 1) for n in range(4)])
    assert [total for total, _ in results] == [1, 2, 3, 4]
    assert len({pid for _, pid in results} | {os.getpid()}) == 5


def test_coroutine_function_is_run() -> None:
    """An `async def` runs in an event loop of its own."""
    assert run_all(add_async, [(1, 2)]) == [3]


def test_all_begin_together() -> None:
    """Nobody begins before everybody is ready."""
    times = run_all(began, [()] * 4)
    assert max(times) - min(times) < 0.2


def test_failure_is_told() -> None:
    """An exception in a process comes with its traceback."""
    with pytest.raises(WorkerFailed, match="KeyError: 'the reason'"):
        run_all(fail, [()])
    with group(fail, [()]) as (worker,):
        assert "the reason" in worker.failure()
    with group(began, [()]) as (worker,), pytest.raises(WorkerFailed, match="did not fail"):
        worker.failure()


def test_conversation() -> None:
    """The test and a process exchange messages."""
    with group(converse, [()]) as (worker,):
        assert worker.wait_for("ready for it") == {"pid": worker.pid}
        worker.send("first")
        worker.send([2])
        assert worker.result() == ["first", [2]]
        assert worker.told("ready for it") == [{"pid": worker.pid}]
    assert run_all(impatient, [()]) == ["nothing"]


def test_killed_process() -> None:
    """A killed process is gone, and whoever waits for it is told."""
    with group(tick, [()]) as (worker,):
        worker.wait_for("tick")
        worker.kill()
        assert not worker.running
        assert worker.failure() == "killed"
        with pytest.raises(WorkerFailed, match="ended before"):
            worker.wait_for("something else")


def test_stopped_process_stands_still() -> None:
    """Between `stop` and `cont` a process does nothing."""
    with group(tick, [()]) as (worker,):
        worker.wait_for("tick")
        worker.stop()
        time.sleep(0.05)  # what it had told before
        before = worker.told("tick")
        time.sleep(0.1)
        assert worker.told("tick") == before
        worker.cont()
        worker.wait_for("tick")


def test_slow_process_is_not_waited_for() -> None:
    """A wait has an end, and the block kills whoever is left."""
    with group(tick, [()]) as (worker,):
        with pytest.raises(WorkerFailed, match="has not told 'never' in time"):
            worker.wait_for("never", timeout=0.1)
        with pytest.raises(WorkerFailed, match="has not ended in time"):
            worker.result(timeout=0.1)
        with pytest.raises(WorkerFailed, match="in time"):
            worker.failure(timeout=0.1)
    assert not worker.running
