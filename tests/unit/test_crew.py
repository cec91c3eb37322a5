"""The threads that do what no caller shall wait for."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading

import pytest

from resilient.engine.crew import Crew, aside


def test_jobs_that_raise_end_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """More jobs fail than there are threads, each is logged, and the next ones are done."""
    crew = Crew("crew", 2)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def fail(error: BaseException) -> None:
        raise error

    with caplog.at_level(logging.ERROR, "resilient"):
        for _ in range(4):
            crew.submit(lambda: fail(LookupError("nobody")))
            crew.submit(lambda: fail(SystemExit()))
        for number in range(3):
            crew.submit(lambda number=number: done.put(number))  # type: ignore[misc]  # a default
        assert sorted(done.get(timeout=10) for _ in range(3)) == [0, 1, 2]
        crew.stop()
    assert len(caplog.records) == 8
    assert crew._unfinished == 0


def test_what_is_done_once_leaves_no_thread() -> None:
    """Threads that shall not linger end with their work; others start with what comes later."""
    crew = Crew("crew", 2, linger=0)
    for _ in range(3):
        done = threading.Event()
        crew.submit(done.set)
        assert done.wait(10)
        for thread in list(crew._threads):
            thread.join(10)
        assert not crew._threads


def test_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is offered is not taken, so that who offers it does it; nothing is half begun."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    crew = Crew("crew", 2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        assert not crew.offer(lambda: None)
    done = threading.Event()
    assert crew.offer(done.set)
    assert done.wait(10)
    crew.stop()


def test_what_blocks_is_done_aside() -> None:
    """An event loop goes on meanwhile, gets the answer or the error, and no thread is left."""
    done = threading.Event()

    def fail() -> None:
        raise LookupError("nobody")

    async def main() -> None:
        before = set(threading.enumerate())
        asyncio.get_running_loop().call_soon(done.set)
        assert await aside(lambda: done.wait(30))
        with pytest.raises(LookupError, match="nobody"):
            await aside(fail)
        assert await aside(threading.current_thread) not in before

    asyncio.run(main())


def test_what_is_done_aside_is_done_whoever_waits() -> None:
    """A task that is cancelled does not wait, and one whose loop has ended is not told."""
    go_on, ended = threading.Event(), threading.Event()

    async def main() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(30)
            ended.set()

        waiting = asyncio.create_task(aside(work))
        await begun.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(30)
