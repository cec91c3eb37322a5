"""Functions run in processes of their own, which a test can watch, pause and kill.

    def hold(url: str) -> str:                       # at module level: it is found by its name
        resilient.configure(url)
        with resilient.lock("k") as lease:
            tell("holding", lease.fence)             # to the test
            receive()                                # from the test
        return "released"

    with group(hold, [(url,)] * 2) as (first, second):
        first.wait_for("holding")
        first.kill()
        second.wait_for("holding")
        second.send()
        assert second.result() == "released"

    assert run_all(increment, [(url, i) for i in range(6)]) == [...]

Each process is a fresh interpreter (not a fork), so that nothing of the test's own is shared. It
imports the function's module first and begins when all of its group have done so. Arguments,
results and messages are JSON. A process ends when the test's process does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Worker", "WorkerFailed", "cont", "group", "kill", "receive", "run_all", "stop", "tell"]

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT = 90.0


class WorkerFailed(AssertionError):
    """A worker raised, was killed, or did not say in time what it should; the message tells."""


# --- in the test


class Worker:
    """One process that runs one function. Made by `group`."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None,
    ) -> None:
        self.name = f"{fn.__module__}:{fn.__qualname__}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.worker", self.name, json.dumps(list(args))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env},
            cwd=cwd,
        )
        self.pid = self._process.pid
        self.messages: list[tuple[str, Any]] = []
        """Everything that it has told and that was waited past, oldest first."""
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._end: dict[str, Any] | None = None
        self._reader = threading.Thread(target=self._read, name=f"worker-{self.pid}", daemon=True)
        self._reader.start()

    def wait_for(self, event: str, timeout: float = 60) -> Any:
        """Wait until it tells this event; gives the value that came with it.

        Raises:
            WorkerFailed: it ended, or `timeout` seconds passed.
        """
        deadline = time.monotonic() + timeout
        while True:
            message = self._next(deadline, f"told {event!r}")
            self.messages.append((message["event"], message["value"]))
            if message["event"] == event:
                return message["value"]

    def told(self, event: str) -> list[Any]:
        """The values of this event so far, without waiting."""
        while self._end is None:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                break
            if self._keep_end(message):
                break
            self.messages.append((message["event"], message["value"]))
        return [value for name, value in self.messages if name == event]

    def send(self, value: Any = None) -> None:
        """Give it a message, which its next `receive` returns."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        self._process.stdin.flush()

    def result(self, timeout: float = 100) -> Any:
        """Wait for its end; what the function returned.

        Raises:
            WorkerFailed: the function raised (the message holds its traceback), the process was
                killed, or `timeout` seconds passed.
        """
        deadline = time.monotonic() + timeout
        while self._end is None:
            with contextlib.suppress(_Ended):
                message = self._next(deadline, "ended")
                self.messages.append((message["event"], message["value"]))
        if "result" not in self._end:
            raise WorkerFailed(f"{self!r} failed:\n{self._end.get('error', 'killed')}")
        return self._end["result"]

    def failure(self, timeout: float = 100) -> str:
        """Wait for its end by an exception; its traceback as text, `"killed"` if it was killed."""
        try:
            result = self.result(timeout)
        except _TimedOut:
            raise
        except WorkerFailed:
            assert self._end is not None
            return str(self._end.get("error", "killed"))
        raise WorkerFailed(f"{self!r} did not fail, it gave {result!r}")

    @property
    def running(self) -> bool:
        """Whether the process is there; a stopped one is."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        kill(self.pid)
        self._process.wait()

    def stop(self) -> None:
        """SIGSTOP: it stands still until `cont`, and its connections stay open."""
        stop(self.pid)

    def cont(self) -> None:
        """SIGCONT."""
        cont(self.pid)

    def close(self) -> None:
        """Kill it if it is still there."""
        if self.running:
            self.kill()
        self._process.wait()
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def __repr__(self) -> str:
        return f"<worker {self.name}, pid {self.pid}>"

    def _next(self, deadline: float, awaited: str) -> dict[str, Any]:
        if self._end is None:
            try:
                message = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise _TimedOut(f"{self!r} has not {awaited} in time") from None
            if not self._keep_end(message):
                return message
        end = self._end or {}
        raise _Ended(f"{self!r} ended before it {awaited}:\n{end.get('error', end)}")

    def _keep_end(self, message: dict[str, Any]) -> bool:
        if "event" in message:
            return False
        self._end = message
        return True

    def _read(self) -> None:
        assert self._process.stdout is not None
        ended = False
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # a killed process may leave half a line
                message = json.loads(line)
                ended = "event" not in message
                self._inbox.put(message)
        if not ended:
            self._inbox.put({"killed": self._process.wait()})


class _Ended(WorkerFailed):
    pass


class _TimedOut(WorkerFailed):
    pass


@contextlib.contextmanager
def group(
    fn: Callable[..., Any],
    args_of_each: Iterable[Sequence[Any]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Iterator[list[Worker]]:
    """Run `fn(*args)` in one process for each `args`; whoever is left at the end is killed.

    Args:
        fn: a `def` or `async def` at the top level of an importable module.
        args_of_each: what JSON can carry, one sequence for each process. A backend goes as its URL.
        env: added to the environment.
        cwd: their working directory.
    """
    workers = [Worker(fn, args, env or {}, cwd) for args in args_of_each]
    try:
        for worker in workers:
            worker.wait_for("ready", START_TIMEOUT)
            worker.messages.clear()
        for worker in workers:
            worker.send("begin")
        yield workers
    finally:
        for worker in workers:
            worker.close()


def run_all(
    fn: Callable[..., Any],
    args_of_each: Iterable[Sequence[Any]],
    *,
    timeout: float = 100,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> list[Any]:
    """`group`, and the results of all in order; `timeout` is in seconds, for all together."""
    deadline = time.monotonic() + timeout
    with group(fn, args_of_each, env=env, cwd=cwd) as workers:
        return [worker.result(max(0.0, deadline - time.monotonic())) for worker in workers]


def kill(pid: int) -> None:
    """SIGKILL; a process that is gone already is fine."""
    _signal(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """SIGSTOP, and wait until the process stands still."""
    _signal(pid, signal.SIGSTOP)
    state = Path(f"/proc/{pid}/stat")
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "TtZ":
        assert time.monotonic() < deadline, f"{pid} does not stop"
        time.sleep(0.001)


def cont(pid: int) -> None:
    """SIGCONT."""
    _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# --- in the worker (its main function is in `worker.py`)


def tell(event: str, value: Any = None) -> None:
    """Tell the test that something happened; it arrives even if the process is killed after it."""
    from tests.support import worker

    worker.say({"event": event, "value": value})


def receive(timeout: float | None = None) -> Any:
    """Wait for the test's next `send`; what it sent. `queue.Empty` after `timeout` seconds."""
    from tests.support import worker

    return worker.INBOX.get(timeout=timeout)
