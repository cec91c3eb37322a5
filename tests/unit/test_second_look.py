"""`python -m tests` looks again at what failed, and forgives only what then passes each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNTED = """
import os
from pathlib import Path

def count(name):
    counted = Path(__file__).with_name(name)
    times = int(counted.read_text()) + 1 if counted.exists() else 1
    counted.write_text(str(times))
    return times
"""
FAILS_IN = """
from counted import count

def test_steady():
    pass

def test_it():
    assert count("runs") not in {runs_that_fail}
"""
BREAKS_OFF_IN = """
import os
from counted import count

def pytest_runtestloop(session):
    if count("passes") in {passes_that_break_off}:
        {what_happens}
"""
UNSTEADY = "UNSTEADY, and to be mended:\n  "
AN_ERROR = "raise LookupError('of pytest itself')"
A_KILL = "os.kill(os.getpid(), 9)"

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Of which the suite is run; it has a test that passes."""
    (tmp_path / "counted.py").write_text(COUNTED)
    (tmp_path / "test_it.py").write_text(FAILS_IN.replace("{runs_that_fail}", "()"))
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nmarkers =\n    process:\n    timing:\n"
    )
    return tmp_path


def suite(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it, by default with all in one process, which is quick."""
    return subprocess.run(
        [sys.executable, "-m", "tests", *(arguments or ("-n", "0"))],
        cwd=project,
        # Without what it does not need, each pytest starts in half of the time.
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "xdist.plugin",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def end_of(output: str) -> str:
    """What is left of it where a log is cut."""
    return "\n".join(output.splitlines()[-60:])


@pytest.mark.parametrize(
    ("runs_that_fail", "status", "runs"),
    [("(1,)", 0, "4"), ("(1, 4)", 1, "4"), ("range(9)", 1, "2")],
)
def test_what_failed_is_run_again(
    project: Path, runs_that_fail: str, status: int, runs: str
) -> None:
    """A test that failed must pass three times alone, or the suite has failed."""
    (project / "test_it.py").write_text(FAILS_IN.replace("{runs_that_fail}", runs_that_fail))
    done = suite(project)
    assert done.returncode == status, done.stdout + done.stderr
    assert (project / "runs").read_text() == runs
    assert done.stdout.count(UNSTEADY + "test_it.py::test_it") == (status == 0)
    assert done.stdout.count("FAILED:\n  test_it.py::test_it") == (status == 1)


@pytest.mark.parametrize(
    ("what_happens", "how", "why", "passes", "status"),
    [
        (AN_ERROR, "status 3", "LookupError: of pytest itself", (1,), 0),
        (AN_ERROR, "status 3", "LookupError: of pytest itself", (1, 2), 3),
        (A_KILL, "signal 9", "test session starts", (1, 2), 3),
    ],
)
def test_a_pass_that_breaks_off_is_run_again(
    project: Path, what_happens: str, how: str, why: str, passes: tuple[int, ...], status: int
) -> None:
    """Once, and whole; if it does so again the suite has failed. The end tells how and why."""
    (project / "conftest.py").write_text(
        BREAKS_OFF_IN.replace("{passes_that_break_off}", str(passes)).replace(
            "{what_happens}", what_happens
        )
    )
    done = suite(project)
    assert done.returncode == status, done.stdout + done.stderr
    told = UNSTEADY if status == 0 else "BROKEN OFF: "
    assert f"{told}side by side: ended by {how}" in end_of(done.stdout)
    assert why in end_of(done.stdout)
    assert (project / "passes").read_text() == "4"  # three, and the first one again


def test_a_worker_that_crashes_has_failed_its_test(project: Path) -> None:
    """It is looked at again like others."""
    crashes = "    if count('runs') == 1:\n        os.kill(os.getpid(), 9)\n"
    (project / "test_it.py").write_text(f"{COUNTED}\ndef test_it():\n{crashes}")
    done = suite(project, "-n", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert UNSTEADY + "test_it.py::test_it" in done.stdout
