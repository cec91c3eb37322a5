"""What a backend that several processes share must do, also when some of them die."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from resilient.engine.backend import Backend, Capability
from resilient.engine.signals import RECHECK
from resilient.protocols.checkpoints import Started
from resilient.protocols.circuits import CircuitRules, CircuitState, Verdict
from resilient.protocols.locks import Grant
from resilient.resolving import resolve
from resilient.testing.conformance.runs import Run

__all__ = ["ProcessConformance"]

WORKER = Path(__file__).with_name("_worker.py")
PATIENCE = 60.0
"""Seconds for which a test waits for a process to say something."""
ABREAST = 4
"""How many processes are started at a time: twenty at once keep a small machine busy for long."""
LEASE = 1.0
MARGIN = 0.5
"""Seconds within which a lease that has run out must be there for others: whoever asks later than
that is not refused. A machine that lets nobody ask for a while proves nothing."""
RULES = CircuitRules(
    window=100_000,
    min_calls=100_000,
    failure_rate=0.5,
    consecutive=None,
    open_for=60.0,
    permits=3,
    lease=60.0,
    ttl=600.0,
)


class Worker:
    """One process at work."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            # Safe path: the folder of the script holds names like `cache`.
            [sys.executable, "-P", str(WORKER), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._unread = b""

    def hears(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._process.stdout], [], [], left)
            piece = os.read(self._process.stdout.fileno(), 65536) if readable else b""
            if not piece:
                pytest.fail(f"a worker said nothing more (exit code {self._process.poll()})")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def go(self) -> None:
        """Let it begin, or go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; after SIGKILL it is gone on return."""
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._process.wait()

    def end(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def finishes(self) -> None:
        """It must end by itself, and well."""
        assert self._process.wait(PATIENCE) == 0


class Namespace:
    """A fresh prefix at the URL under test, a backend on it in this process, and workers."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = f"conformance-{uuid.uuid4().hex[:12]}:"
        self._workers: list[Worker] = []
        self.backend: Backend = resolve(url, self._prefix)
        self._modes = sorted(self.backend.modes)
        self.run = Run(self._modes[-1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.end()
        self.run.close()

    def needs(self, *capabilities: Capability) -> None:
        """Skip a test of what the backend lacks."""
        for capability in capabilities:
            if getattr(self.backend, capability) is None:
                pytest.skip(f"{self.backend.name} offers no {capability}")

    def start(self, task: str, calls: Sequence[Sequence[Sequence[Any]]]) -> list[Worker]:
        """One process for each list of calls; all of them begin at the same moment.

        Async and sync ones by turns, as far as the backend serves both.
        """
        workers: list[Worker] = []
        for each, mode in zip(calls, cycle(self._modes), strict=False):
            options = {
                "task": task,
                "url": self._url,
                "prefix": self._prefix,
                "mode": mode,
                "calls": each,
            }
            if len(workers) >= ABREAST:
                assert workers[-ABREAST].hears() == "ready"
            workers.append(Worker(options))
            self._workers.append(workers[-1])
        for worker in workers[-ABREAST:]:
            assert worker.hears() == "ready"
        for worker in workers:
            worker.go()
        return workers


class ProcessConformance:
    """Several processes on one backend: they exclude each other, count right, and may be killed.

    One half of the processes calls from threads, the other from event loops. Needs POSIX signals.

    Attributes:
        processes: How many contend.
        newcomers: How many open an empty backend at the same moment: 20 for one that makes tables
            or files then; fewer do where nothing is made.
    """

    processes: ClassVar[int] = 4
    newcomers: ClassVar[int] = 20

    def url(self) -> str:
        """The URL under which every process finds the backend; keys get a random prefix."""
        raise NotImplementedError(f"{type(self).__name__} needs `def url(self)`")

    @pytest.fixture(name="shared")
    def _shared(self) -> Iterator[Namespace]:
        namespace = Namespace(self.url())
        with namespace, namespace.run.closing(namespace.backend):
            yield namespace

    # --- many at once

    def test_many_open_at_once(self, shared: Namespace) -> None:
        """Processes that open an empty backend at the same moment all can use it."""
        workers = shared.start("touch", [[[f"worker-{n}"]] for n in range(self.newcomers)])
        for worker in workers:
            answers = worker.hears()
            assert answers == dict.fromkeys(answers, True)
            worker.finishes()

    def test_exact_counter(self, shared: Namespace, tmp_path: Path) -> None:
        """Read-modify-write under a lock loses nothing, and fences grow in that order."""
        shared.needs("locks")
        counter = tmp_path / "counter"
        counter.write_text("0 0")
        workers = shared.start(
            "count", [[[str(counter), f"worker-{n}", 25]] for n in range(self.processes)]
        )
        fences = [worker.hears() for worker in workers]
        total, last = (int(part) for part in counter.read_text().split())
        assert total == 25 * self.processes
        assert all(own == sorted(own) for own in fences)
        assert len({fence for own in fences for fence in own}) == total
        assert max(fence for own in fences for fence in own) == last

    def test_one_of_64_claims_wins(self, shared: Namespace) -> None:
        """Of 64 duplicates over the processes, exactly one makes the call."""
        shared.needs("idempotency")
        each = 64 // self.processes
        workers = shared.start(
            "claim", [[[f"{n}-{k}"] for k in range(each)] for n in range(self.processes)]
        )
        answers = [worker.hears() for worker in workers for _ in range(each)]
        assert len(answers) == each * self.processes
        assert answers.count(True) == 1

    def test_all_outcomes_count(self, shared: Namespace) -> None:
        """Outcomes that processes record at the same time are all in the window."""
        shared.needs("circuits")
        workers = shared.start("record", [[[RULES, 50]] for _ in range(self.processes)])
        assert [worker.hears() for worker in workers] == [50] * self.processes
        assert shared.backend.circuits is not None
        view = shared.run(shared.backend.circuits.view("circuit"))
        assert (view.calls, view.failures) == (100 * self.processes, 50 * self.processes)

    def test_so_many_probes_in_the_fleet(self, shared: Namespace) -> None:
        """The permits of a half-open round are counted over all processes."""
        shared.needs("circuits")
        assert shared.backend.circuits is not None
        shared.run(shared.backend.circuits.force("circuit", CircuitState.HALF_OPEN, rules=RULES))
        workers = shared.start(
            "probe", [[[RULES, f"worker-{n}", 5, ""]] for n in range(self.processes)]
        )
        assert sum(worker.hears() for worker in workers) == RULES.permits

    # --- deaths and pauses

    def test_killed_holder(self, shared: Namespace) -> None:
        """The lock of a process that was killed is free when its TTL is over, not before."""
        shared.needs("locks")
        locks = shared.backend.locks
        assert locks is not None
        [worker] = shared.start("hold", [[["k", LEASE]]])
        before = time.monotonic()
        assert worker.hears() is True
        granted = time.monotonic()
        worker.send(signal.SIGKILL)
        self._taken_over(shared, granted, before=before)

    def test_paused_holder(self, shared: Namespace) -> None:
        """A process paused past its TTL is told that it lost, and frees nobody else's lock."""
        shared.needs("locks")
        locks = shared.backend.locks
        assert locks is not None
        [worker] = shared.start("hold", [[["k", LEASE]]])
        assert worker.hears() is True
        granted = time.monotonic()
        worker.send(signal.SIGSTOP)
        self._taken_over(shared, granted)
        worker.send(signal.SIGCONT)
        worker.go()
        assert worker.hears() is False, "a late renewal was granted"
        assert worker.hears() is False, "a late release was confirmed"
        assert shared.run(locks.is_held("k", owner="next"))

    def test_killed_prober(self, shared: Namespace) -> None:
        """The permit of a prober that was killed is free when its lease is over."""
        shared.needs("circuits")
        circuits = shared.backend.circuits
        assert circuits is not None
        rules = RULES._replace(permits=1, lease=LEASE)
        shared.run(circuits.force("circuit", CircuitState.HALF_OPEN, rules=rules))
        [worker] = shared.start("probe", [[[rules, "dead", 1, "hang"]]])
        assert worker.hears() == 1
        granted = time.monotonic()
        worker.send(signal.SIGKILL)
        while True:
            asked = time.monotonic()
            answer = shared.run(circuits.admit("circuit", rules=rules, token="next"))
            if answer.verdict is Verdict.PROBE:
                break
            assert asked < granted + LEASE + MARGIN, "the permit did not come back"
            time.sleep(0.01)

    def test_killed_runner(self, shared: Namespace) -> None:
        """Every save that a killed job was told of is there, and the job goes on from it."""
        shared.needs("checkpoints")
        jobs = shared.backend.checkpoints
        assert jobs is not None
        [worker] = shared.start("save", [[[LEASE]]])
        told = [worker.hears() for _ in range(20)]
        assert told == list(range(1, 21))
        worker.send(signal.SIGKILL)
        killed = time.monotonic()
        latest = shared.run(jobs.latest("job"))
        assert latest is not None
        assert latest.sequence >= 20
        assert latest.data == b"%d" % latest.sequence * 100
        kept = [saved.sequence for saved in shared.run(jobs.list("job"))]
        assert kept == list(range(latest.sequence - 4, latest.sequence + 1))
        while True:
            asked = time.monotonic()
            answer = shared.run(jobs.start("job", owner="next", lease=60, ttl=600))
            if isinstance(answer, Started):
                break
            assert asked < killed + LEASE + MARGIN, "the job was not taken over"
            time.sleep(0.01)
        assert answer.checkpoint == latest
        assert answer.attempt == 2

    # --- signals and forks

    def test_woken_by_another_process(self, shared: Namespace) -> None:
        """Who waits for a lock is woken within a second after another process released it."""
        shared.needs("locks")
        locks = shared.backend.locks
        assert locks is not None
        if shared.backend.hub.recheck < RECHECK:
            pytest.skip(f"{shared.backend.name} has no signals: its waiters look by themselves")
        [worker] = shared.start("hold", [[["k", 60]]])
        assert worker.hears() is True
        waiter, address = shared.run.listen(shared.backend)
        shared.run(locks.acquire("k", ttl=60, owner="next", waiter=address))
        assert not shared.run.wait(waiter, 0.1)
        worker.go()
        assert worker.hears() is True
        assert worker.hears() is True
        assert shared.run.wait(waiter, 1.0), "not woken within a second"
        assert isinstance(shared.run(locks.acquire("k", ttl=60, owner="next")), Grant)

    def test_fork(self, shared: Namespace) -> None:
        """A forked child and its parent use the backend at the same time, without mixing up."""
        shared.needs("cache")
        if "sync" not in shared.backend.modes:
            pytest.skip("a process is forked outside of its event loop")
        [worker] = shared.start("fork", [[[200]]])
        assert worker.hears() == [True, 0]
        worker.finishes()

    def _taken_over(self, shared: Namespace, granted: float, before: float = 0.0) -> None:
        locks = shared.backend.locks
        assert locks is not None
        while True:
            asked = time.monotonic()
            answer = shared.run(locks.acquire("k", ttl=60, owner="next"))
            if isinstance(answer, Grant):
                break
            assert asked < granted + LEASE + MARGIN, "the lock was not free in time"
            time.sleep(0.01)
        assert time.monotonic() >= before + LEASE, (
            "the lock was taken from its holder before its time"
        )
