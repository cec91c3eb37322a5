"""`kill_at_random`: does your job survive being killed, at any moment, again and again?

    # jobs.py
    def run(path: str) -> list[int]:
        resilient.configure("sqlite:///state.db")
        return load(path)

    # test_jobs.py
    def test_kills_change_nothing():
        report = kill_at_random(jobs.run, "rows.csv", kills=100, seed=1)
        assert report.result == jobs.expected()

The function runs in a process of its own, which is killed with SIGKILL, and started again, until it
was killed so often; then it may end. A fresh process is forked each time from one that has done
nothing but import the function's module: what that imports, each start need not import again.
"""

from __future__ import annotations

import os
import pickle
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from resilient.engine.durations import Duration, seconds
from resilient.errors import ConfigurationError

__all__ = ["KillReport", "kill_at_random"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class KillReport(Generic[R]):
    """What came of a function that was killed again and again.

    Attributes:
        result: What it answered in the end.
        kills: How often it was killed.
        runs: Seconds for which each of its processes lived; the last one is that which ended.
    """

    result: R
    kills: int
    runs: tuple[float, ...]


def kill_at_random(
    function: Callable[..., Coroutine[Any, Any, R]] | Callable[..., R],
    /,
    *args: Any,
    kills: int = 20,
    within: Duration = 0.1,
    seed: int | None = None,
    timeout: Duration = 60,
) -> KillReport[R]:
    """Run a function in a process that is killed at random moments, until it ends.

    Args:
        function: A `def` or `async def` at the top level of an importable module. It configures
            its backend itself; what it does must outlive its process.
        *args: With what it is called; they and the result are pickled.
        kills: How often it is killed. A process that ends before its turn ends the test.
        within: Each kill comes at a random moment of that time after the start: seconds, or as
            `"100ms"`. Long enough for some items, and short enough for all kills to come.
        seed: Makes the moments the same each time.
        timeout: Seconds for the last process, which nobody kills.

    Raises:
        ConfigurationError: The function cannot be found by its name.
        AssertionError: It ended before it was killed so often, raised, or was not done in time.

    Example:
        >>> import math
        >>> kill_at_random(math.sqrt, 4.0, kills=0).result
        2.0
    """
    longest = seconds(within, option="within")
    patience = seconds(timeout, option="timeout")
    chance = random.Random(seed)
    runs: list[float] = []
    with tempfile.TemporaryDirectory() as directory, _Nursery(function, args, directory) as nursery:
        for _ in range(kills):
            began = time.monotonic()
            pid = nursery.begin()
            time.sleep(chance.uniform(0.0, longest))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            outcome = nursery.end(patience)
            runs.append(time.monotonic() - began)
            if outcome is not None:
                raise AssertionError(
                    f"{nursery.name} ended after {len(runs) - 1} of {kills} kills: have it do "
                    f"more, or kill it sooner (within={within!r}): {outcome.result!r}"
                )
        began = time.monotonic()
        nursery.begin()
        outcome = nursery.end(patience)
        runs.append(time.monotonic() - began)
    if outcome is None:
        raise AssertionError(f"{nursery.name} was killed, though not by us")
    return KillReport(outcome.result, kills, tuple(runs))


@dataclass(frozen=True, slots=True)
class _Outcome:
    result: Any


class _Nursery:
    """The process from which those that run the function are forked (`resilient.testing._nursery`).

    It answers each line that it gets with the pid of a new child, and with that child's end.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], directory: str) -> None:
        module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
        if module in (None, "__main__") or "<" in name:
            raise ConfigurationError(
                f"kill_at_random: {function!r} is not at the top level of a module that can be "
                "imported"
            )
        self.name = f"{module}.{name}"
        self._answer = Path(directory) / "answer"
        call = Path(directory) / "call"
        call.write_bytes(pickle.dumps((module, name, args)))
        path = os.pathsep.join(each for each in sys.path if each)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "resilient.testing._nursery", str(call), str(self._answer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,  # what is in a buffer nobody can wait for
        )

    def begin(self) -> int:
        """Fork a child, which runs the function; its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"begin\n")
        return int(self._line())

    def end(self, patience: float) -> _Outcome | None:
        """Wait for the end of the child: what the function answered, or `None` if it was killed."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], patience)[0]:
            raise AssertionError(f"{self.name} was not done within {patience:g} s")
        self._line()
        if not self._answer.exists():
            return None
        result, error = pickle.loads(self._answer.read_bytes())
        self._answer.unlink()
        if error is not None:
            raise AssertionError(f"{self.name} raised:\n{error}")
        return _Outcome(result)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.name} cannot be run: see what was printed")
        return line

    def __enter__(self) -> _Nursery:
        return self

    def __exit__(self, *error: object) -> None:
        process = self._process
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
