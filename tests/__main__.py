"""The whole suite: `python -m tests`; arguments go to pytest.

In three passes: tests that mostly wait run in three processes a core; those that start processes of
their own, in half as many; those that compare how long things take want the machine to themselves.

What fails is looked at again, alone: a busy machine may have done it. Such a test must then pass
several times in a row, and is named at the end, for it is to be mended. So is a pass that ended
before its tests did: it is run once more, whole. Why the suite has failed stands at the very end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

CORES = os.cpu_count() or 1
STEALING = ["--dist", "worksteal"]
"""Each worker has a part of the tests that belong together, and starts fewer servers."""
PASSES = {
    "side by side": ["-n", str(3 * CORES), *STEALING, "-m", "not (process or timing)"],
    "processes": ["-n", str(CORES + CORES // 2), *STEALING, "-m", "process and not timing"],
    "timing": ["-n", "0", "-m", "timing"],
}
TIMES = 3
"""How often in a row a test that failed must pass alone."""
FEW = 16
"""How many may fail to be looked at again: a slow machine fails up to eight, and a defect more."""
LINES = 40
"""How much is shown at the end of what a pass said before it broke off."""


@dataclass(frozen=True)
class Ended:
    """How one run of pytest ended.

    Attributes:
        name: What was run.
        status: Its exit status, below 0 when a signal killed it.
        output: The file that has what it printed.
    """

    name: str
    status: int
    output: Path

    @property
    def complete(self) -> bool:
        """Whether each of its tests was run, and is known to have passed or failed."""
        return self.passed or self.status == pytest.ExitCode.TESTS_FAILED

    @property
    def passed(self) -> bool:
        """Whether nothing failed; the arguments may have chosen tests of other passes only."""
        return self.status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)

    def __str__(self) -> str:
        how = f"signal {-self.status}" if self.status < 0 else f"status {self.status}"
        return f"{self.name}: ended by {how}"

    def reason(self) -> str:
        """What it said of an error of pytest's own, or else said last."""
        lines = self.output.read_text(errors="replace").splitlines()
        internal = [line for line in lines if "INTERNALERROR" in line]
        return "\n".join((internal or lines)[-LINES:])


class Suite:
    """One run of it.

    Args:
        directory: For what pytest remembers and prints; it is empty.
        arguments: For pytest.
    """

    def __init__(self, directory: Path, arguments: list[str]) -> None:
        self._directory = directory
        self._arguments = arguments
        self._runs = Counter[str]()
        self._unsteady: list[str] = []

    def run(self) -> int:
        """Run all passes, also after one has failed, and what failed again: the exit status."""
        ended = [self._pass(name, chosen) for name, chosen in PASSES.items()]
        broken = [each for each in ended if not each.complete]
        failed = self._failed()
        if not broken and 0 < len(failed) <= FEW:
            print(f"\n{len(failed)} failed: to pass {TIMES} times in a row, alone", flush=True)
            for _ in range(TIMES):
                again = self._pytest("what failed, again", "-n", "0", *failed)
                if again.status != pytest.ExitCode.OK:
                    return self._has_failed(failed, [] if again.complete else [again])
            self._unsteady += failed
        elif not all(each.passed for each in ended):
            return self._has_failed(failed, broken)
        if self._unsteady:
            print("\nUNSTEADY, and to be mended:", *self._unsteady, sep="\n  ")
        nothing = all(each.status == pytest.ExitCode.NO_TESTS_COLLECTED for each in ended)
        return pytest.ExitCode.NO_TESTS_COLLECTED if nothing else pytest.ExitCode.OK

    def _pass(self, name: str, chosen: list[str]) -> Ended:
        """One pass; once more if it broke off: what breaks it off is looked for by that as well."""
        ended = self._pytest(name, *chosen, *self._arguments)
        if ended.complete:
            return ended
        print(f"\n{ended}: once more, whole", flush=True)
        self._unsteady.append(f"{ended}\n{ended.reason()}")
        return self._pytest(name, *chosen, *self._arguments)

    def _has_failed(self, failed: list[str], broken: list[Ended]) -> int:
        """Tell why, where a log that is cut has it as well: the exit status."""
        if failed:
            print("\nFAILED:", *failed[:LINES], sep="\n  ")
        for each in broken:
            print(f"\nBROKEN OFF: {each}", each.reason(), sep="\n")
        return pytest.ExitCode.INTERNAL_ERROR if broken else pytest.ExitCode.TESTS_FAILED

    def _pytest(self, name: str, *arguments: str) -> Ended:
        """Run it, and print what it prints."""
        self._runs[name] += 1
        output = self._directory / f"{name}, {self._runs[name]}.log"
        command = [sys.executable, "-u", "-m", "pytest", *self._options(), *arguments]
        with (
            output.open("wb") as out,
            output.open("rb") as said,
            # Not a pipe: who else has it open might outlive pytest.
            subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process,
        ):
            while True:
                ended = process.poll() is not None
                if piece := said.read():
                    sys.stdout.buffer.write(piece)
                    sys.stdout.flush()
                elif ended:
                    return Ended(name, process.returncode, output)
                else:
                    time.sleep(0.05)

    def _options(self) -> list[str]:
        color = ["--color=yes"] if sys.stdout.isatty() else []
        return ["-o", f"cache_dir={self._directory / 'cache'}", *color]

    def _failed(self) -> list[str]:
        """The tests that failed in any pass, as pytest remembers them."""
        file = self._directory / "cache" / "v" / "cache" / "lastfailed"
        return list(json.loads(file.read_text())) if file.exists() else []


if __name__ == "__main__":
    # What a shell runs behind it ignores Ctrl-C, and so would all that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as directory:
        sys.exit(Suite(Path(directory), sys.argv[1:]).run())
