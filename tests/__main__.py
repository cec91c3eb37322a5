"""The whole suite: `python -m tests`; arguments go to pytest.

In two passes: first, in two processes a core, the tests that may run side by side, since most of
them wait most of the time; then, one after the other, those that measure time or start many
processes, which want the machine to themselves.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ALONE = "process or timing"
TOGETHER = 2 * (os.cpu_count() or 1)
PASSES = (["-n", str(TOGETHER), "-m", f"not ({ALONE})"], ["-n", "0", "-m", ALONE])


def main(arguments: list[str]) -> int:
    """Run both passes, the second one even if the first has failed: the worse exit status."""
    command = [sys.executable, "-m", "pytest"]
    ended = [
        subprocess.run([*command, *chosen, *arguments], check=False).returncode for chosen in PASSES
    ]
    # The arguments may have chosen tests of one pass only.
    return max(
        (status for status in ended if status != pytest.ExitCode.NO_TESTS_COLLECTED),
        default=pytest.ExitCode.NO_TESTS_COLLECTED,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
