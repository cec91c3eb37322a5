"""The benchmarks themselves work, whatever is installed to compare with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(300)
def test_every_case_of_ours_is_measured() -> None:
    """One round of all of them: ours are measured, and others are measured or say why not."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "1", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    ours = [row for row in rows if row["case"].startswith("resilient")]
    assert len(ours) > 40
    assert [row for row in ours if "error" in row] == []
    for row in rows:
        assert row.get("error") or row["best_us"] > 0
