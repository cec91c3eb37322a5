"""What tests fork: `tests/support/forks.py`."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.support.forks import forked, in_child


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
