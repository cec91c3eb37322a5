"""The kill harness: kills as often as it says, and tells what came of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from resilient.errors import ConfigurationError
from resilient.testing import kill_at_random, killing

pytestmark = pytest.mark.process


def counted(path: str, pause: float) -> int:
    """Count its own starts in a file, and answer how many there were."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(pause)
    return len(Path(path).read_text().split())


async def acounted(path: str, pause: float) -> int:
    """The same as an `async def`."""
    return counted(path, pause)


def failing() -> None:
    """A function that raises."""
    raise LookupError("of its own")


def slow_at_last(path: str) -> int:
    """Longer than anybody waits."""
    return counted(path, 60)


@pytest.mark.parametrize("function", [counted, acounted])
def test_it_is_killed_so_often_and_then_ends(function: object, tmp_path: Path) -> None:
    """Each start is a process of its own; the last one answers."""
    assert callable(function)
    report = kill_at_random(function, str(tmp_path / "runs"), 0.2, kills=5, within="100ms", seed=1)
    assert report.kills == 5
    assert len(report.runs) == 6
    pids = (tmp_path / "runs").read_text().split()
    assert report.result == len(pids) == len(set(pids)) <= 6
    assert str(os.getpid()) not in pids


def test_what_it_raises_is_told() -> None:
    """With its traceback."""
    with pytest.raises(AssertionError, match=r"failing raised:[\s\S]*of its own"):
        kill_at_random(failing, kills=0)


def test_an_end_before_the_kills_is_told(tmp_path: Path) -> None:
    """A test that kills less often than it says would prove nothing."""
    with pytest.raises(AssertionError, match="ended after 0 of 3 kills"):
        kill_at_random(counted, str(tmp_path / "runs"), 0.0, kills=3, within=5, seed=1)


def test_an_end_is_heard_that_comes_with_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function may be done before anybody has read that its process was started."""
    line = killing._Nursery._line

    def late_line(nursery: killing._Nursery) -> bytes:
        while not nursery._answer.exists():
            time.sleep(0.01)
        time.sleep(0.2)  # its end is told after its answer
        return line(nursery)

    monkeypatch.setattr(killing._Nursery, "_line", late_line)
    assert kill_at_random(counted, str(tmp_path / "runs"), 0.0, kills=0, timeout=10).result == 1


def test_who_never_ends_is_told(tmp_path: Path) -> None:
    """After the time-out, and without leaving a process behind."""
    with pytest.raises(AssertionError, match=r"not done within 0\.5 s"):
        kill_at_random(slow_at_last, str(tmp_path / "runs"), kills=0, timeout=0.5)
    [pid] = (tmp_path / "runs").read_text().split()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_function_without_a_name_is_refused() -> None:
    """It could not be found in another process."""
    with pytest.raises(ConfigurationError, match="top level"):
        kill_at_random(lambda: 1)
