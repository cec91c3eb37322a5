"""`python -m tests` looks again at what failed, and forgives only what then passes each time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAILS_IN = """
from pathlib import Path

def test_steady():
    pass

def test_it():
    runs = Path(__file__).with_name("runs")
    run = int(runs.read_text()) + 1 if runs.exists() else 1
    runs.write_text(str(run))
    assert run not in {runs_that_fail}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs_that_fail", "status", "runs"),
    [("(1,)", 0, "4"), ("(1, 4)", 1, "4"), ("range(9)", 1, "2")],
)
def test_what_failed_is_run_again(
    tmp_path: Path, runs_that_fail: str, status: int, runs: str
) -> None:
    """A test that failed must pass three times alone, or the suite has failed."""
    (tmp_path / "test_it.py").write_text(FAILS_IN.replace("{runs_that_fail}", runs_that_fail))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    process:\n    timing:\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert (tmp_path / "runs").read_text() == runs
    assert done.stdout.count("UNSTEADY, and to be mended:\n  test_it.py::test_it") == (status == 0)
