"""What tests fork: `tests/support/forks.py`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.forks import forked, in_child

TESTS = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "process/checkpointed_workers.py": "a worker, which is no process of pytest's",
    "unit/test_cached.py": "in a forked child",
    "unit/test_checkpointed_runners.py": "a program of its own",
}
"""Who else forks, and where that is."""


def test_a_child_does_not_come_back(capfd: pytest.CaptureFixture[str]) -> None:
    """A forked child ends where its work does, however that is, and tells what it raised."""

    def work() -> None:
        raise KeyboardInterrupt("in the child")

    assert in_child(work) == 1
    assert "KeyboardInterrupt: in the child" in capfd.readouterr().err
    assert in_child(lambda: False) == 1
    assert in_child(lambda: None) == 0
    assert in_child(lambda: sys.exit(0)) == 1


def test_a_child_does_not_stay() -> None:
    """One that hangs is killed."""
    _, status = os.waitpid(forked(signal.pause, lifetime=1), 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM


def test_no_test_forks_in_another_way() -> None:
    """One child that came back would end the whole run."""
    call = "os." + "fork()"
    forking = {
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        if call in path.read_text() and path != TESTS / "support" / "forks.py"
    }
    assert forking == set(ELSEWHERE)
