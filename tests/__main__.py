"""The whole suite: `python -m tests`; arguments go to pytest.

In three passes: tests that mostly wait run in two processes a core; those that start processes of
their own, in one a core; those that compare how long things take want the machine to themselves.

What fails is looked at again, alone: a busy machine may have done it. Such a test must then pass
several times in a row, and is named at the end, for it is to be mended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CORES = os.cpu_count() or 1
PASSES = (
    ["-n", str(2 * CORES), "-m", "not (process or timing)"],
    ["-n", str(CORES), "--dist", "worksteal", "-m", "process and not timing"],
    ["-n", "0", "-m", "timing"],
)
TIMES = 3
"""How often in a row a test that failed must pass alone."""
FEW = 8
"""How many may fail to be looked at again: more are no accident."""


def main(arguments: list[str]) -> int:
    """Run all passes, also after one has failed: the worst exit status."""
    with tempfile.TemporaryDirectory() as cache:
        ended = [_pytest(cache, *chosen, *arguments) for chosen in PASSES]
        # The arguments may have chosen tests of one pass only.
        worst = max(
            (status for status in ended if status != pytest.ExitCode.NO_TESTS_COLLECTED),
            default=pytest.ExitCode.NO_TESTS_COLLECTED,
        )
        failed = _failed(cache)
        if worst != pytest.ExitCode.TESTS_FAILED or not 0 < len(failed) <= FEW:
            return worst
        print(f"\n{len(failed)} failed: to pass {TIMES} times in a row, alone", flush=True)
        for _ in range(TIMES):
            if status := _pytest(cache, "-n", "0", *failed):
                return status
    print("\nUNSTEADY, and to be mended:", *failed, sep="\n  ")
    return 0


def _pytest(cache: str, *arguments: str) -> int:
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *arguments]
    return subprocess.run(command, check=False).returncode


def _failed(cache: str) -> list[str]:
    """The tests that failed in any pass, as pytest remembers them."""
    file = Path(cache, "v", "cache", "lastfailed")
    return list(json.loads(file.read_text())) if file.exists() else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
