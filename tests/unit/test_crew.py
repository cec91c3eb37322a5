"""The threads that do what no caller shall wait for."""

from __future__ import annotations

import logging
import queue

import pytest

from resilient.engine.crew import Crew


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
