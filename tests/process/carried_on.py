"""A call, a job, a cached value and an open circuit, while a replica takes their primary's place.

What the replica had is there afterwards; what was at work meanwhile is at its end, or was told.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import resilient
from resilient import (
    BackendError,
    Consecutive,
    StaleRunner,
    cached,
    checkpointed,
    circuit_breaker,
    idempotent,
)
from resilient.engine.backend import Backend
from tests.support.jobs import each
from tests.support.modes import Mode, ModeName
from tests.support.processes import receive, tell
from tests.support.scale import measured

__all__ = ["await_stored", "carry_on", "check_carried_on"]

PAUSE = 0.02
KEPT: dict[str, Any] = {"ttl": 300, "namespace": "kept", "backend_timeout": "20s"}
ITEMS = 1_000_000
"""More than the job comes to."""


def carry_on(url: str, prefix: str, mode_name: ModeName) -> dict[str, int]:
    """Be at work until told that the fail-over is over; how often what must run once has run."""
    over = threading.Event()
    ran: Counter[str] = Counter()

    async def look_up() -> str:
        ran["look_up"] += 1
        return "found"

    async def fail() -> None:
        ran["fail"] += 1
        raise ConnectionError

    async def charge() -> str:
        ran["charge"] += 1
        tell("charging")
        while not over.is_set():
            await mode.sleep(PAUSE)
        return "charged"

    async def count(job: Any) -> int:
        async for item in each(job.iterate(range(ITEMS))):
            assert job.state.get("next", 0) == item, "left out, or done twice"
            job.state["next"] = item + 1
            if item == 3:
                tell("counting")
            if over.is_set():
                return int(item)
            await mode.sleep(PAUSE)
        raise AssertionError("it has come to the end of the items")

    with Mode(mode_name) as mode, resilient.using(url, prefix=prefix):
        assert mode.call(mode.decorate(cached("value", **KEPT), look_up)) == "found"
        broken = mode.decorate(circuit_breaker("broken", trip=Consecutive(1), open_for=300), fail)
        with suppress(ConnectionError):
            mode.call(broken)
        pay = mode.decorate(idempotent("charge", ttl=300, lease=60), charge)
        # The lease is what the next run waits for if this one cannot even end its own.
        job: Any = checkpointed("count", every=1, lease=3, wait=60)(mode.function(count))

        async def insistent() -> int:
            while True:
                try:
                    done: int = await mode.within(job)
                    return done
                except (BackendError, StaleRunner):  # it goes on from what the replica had
                    ran["interrupted"] += 1

        def listen() -> None:
            receive()
            over.set()

        threading.Thread(target=listen, daemon=True).start()
        paid, counted = mode.together(pay, mode.function(insistent), timeout=100)
        assert paid == mode.call(pay) == "charged"
        assert counted == mode.call(job)
        with suppress(resilient.CircuitOpen):
            mode.call(broken)
        if mode.is_async:
            mode.call(resilient.aclose)
    return ran


def await_stored(backend: Backend) -> None:
    """Wait until the circuit is open for all: a call does not wait until its outcome is told."""
    deadline = time.monotonic() + 20
    while not _is_open(backend):
        assert time.monotonic() < deadline
        time.sleep(PAUSE)


def _is_open(backend: Backend) -> bool:
    return backend.sync.circuits.view("broken").state is resilient.CircuitState.OPEN


def check_carried_on(backend: Backend, ran: dict[str, int]) -> None:
    """What another process finds afterwards; nothing runs there, nor has run twice."""

    def nothing() -> Any:
        raise AssertionError("it runs again")

    assert cached("value", **KEPT, backend=backend)(nothing)() == "found"
    assert idempotent("charge", ttl=300, backend=backend)(nothing)() == "charged"
    assert _is_open(backend)
    interrupted = ran.pop("interrupted", 0)
    measured("a fail-over interrupted the job", interrupted, "times")
    assert ran == {"look_up": 1, "fail": 1, "charge": 1}
