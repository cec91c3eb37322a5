"""Circuits against resilience4j, as its documentation describes it.

The model below is written from https://resilience4j.readme.io/docs/circuitbreaker and imports
nothing of `resilient`. Two differences are on purpose, and are not exercised: outcomes of an
earlier generation are dropped, and a permit comes back when its lease is over.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from resilient import Backend
from resilient.config import resolve
from resilient.engine.clock import ManualClock, installed
from resilient.protocols.circuits import CircuitRules
from tests.support.scale import scaled
from tests.support.servers import RedisAt


class Resilience4j:
    """One circuit breaker."""

    def __init__(self, rules: dict[str, Any], now: float) -> None:
        self.rules = rules
        self.state = "closed"
        self.calls: deque[tuple[float, str]] = deque()
        self.until = now
        self.permitted = 0

    def record(self, outcome: str, now: float) -> None:
        """ "onError, onSuccess": closed, it is judged after each call."""
        if self.state != "closed":
            return
        self.calls.append((now, outcome))
        self._slide(now)
        minimum = self.rules["min_calls"]
        if self.rules["seconds"] is None:
            # "If the minimumNumberOfCalls is greater than the window size, the latter is taken."
            minimum = min(minimum, self.rules["window"])
        # "minimumNumberOfCalls: the minimum number of calls which are required before the
        # CircuitBreaker can calculate the error rate or slow call rate."
        if len(self.calls) >= minimum and self._is_bad():
            self._open(now)

    def acquire(self, now: float) -> bool:
        """ "After a wait time duration has elapsed, the state changes from OPEN to HALF_OPEN and
        permits a configurable number of calls. Further calls are rejected until all permitted
        calls have completed."
        """
        if self.state == "open" and now >= self.until:
            self.state, self.permitted = "half_open", self.rules["permits"]
            self.calls.clear()
        if self.state == "half_open" and self.permitted > 0:
            self.permitted -= 1
            return True
        return self.state == "closed"

    def probe(self, outcome: str, now: float) -> None:
        """ "If the failure rate or slow call rate is then equal or greater than the configured
        threshold, the state changes back to OPEN", else to CLOSED.
        """
        self.calls.append((now, outcome))
        if len(self.calls) < self.rules["permits"]:
            return
        if self._is_bad():
            self._open(now)
        else:
            self.state = "closed"
            self.calls.clear()

    def _slide(self, now: float) -> None:
        seconds = self.rules["seconds"]
        if seconds is None:
            # "The count-based sliding window is implemented with a circular array of N
            # measurements."
            while len(self.calls) > self.rules["window"]:
                self.calls.popleft()
            return
        # "The time-based sliding window is implemented with a circular array of N partial
        # aggregations (buckets)"; the head is that of the current epoch second.
        width = seconds / self.rules["buckets"]
        oldest = now // width - self.rules["buckets"] + 1
        while self.calls and self.calls[0][0] // width < oldest:
            self.calls.popleft()

    def _is_bad(self) -> bool:
        # "equal or greater than a configurable threshold"
        calls = len(self.calls)
        failed = sum(outcome in "13" for _, outcome in self.calls) / calls
        slow = sum(outcome in "23" for _, outcome in self.calls) / calls
        return bool(failed >= self.rules["failure_rate"] or slow >= self.rules["slow_rate"])

    def _open(self, now: float) -> None:
        self.state, self.until = "open", now + self.rules["open_for"]
        self.calls.clear()


def rules_by(chance: random.Random, *, timed: bool, open_for: float) -> dict[str, Any]:
    """A random configuration."""
    return {
        "window": chance.randint(1, 20),
        "min_calls": chance.randint(1, 25),
        "failure_rate": chance.choice([0.1, 0.25, 0.5, 0.75, 1.0]),
        "slow_rate": chance.choice([0.3, 0.5, 1.0]),
        "open_for": open_for,
        "permits": chance.randint(1, 6),
        "seconds": 10.0 if timed else None,
        "buckets": 10,
    }


def compare(backend: Backend, clock: ManualClock | None, seed: int, *, timed: bool) -> None:
    """One random history: the same states and counts after each step."""
    chance = random.Random(seed)
    options = rules_by(chance, timed=timed, open_for=20.0)
    store = backend.sync.circuits
    rules = CircuitRules(consecutive=None, lease=1000.0, ttl=86400.0, slow_over=1.0, **options)
    key = f"r4j-{timed}-{seed}"
    now = clock.wall() if clock is not None else 0.0
    model = Resilience4j(options, now)
    bad = chance.choice(["0", "01", "0123", "0002", "0001"])
    for step in range(60):
        if clock is not None and chance.random() < 0.3:
            clock.advance(chance.choice([0.25, 1.0, 2.5, 20.0]))
        now = clock.wall() if clock is not None else 0.0
        outcome = chance.choice(bad)
        if model.state == "closed":
            model.record(outcome, now)
            view = store.record(key, rules=rules, outcomes=outcome)
        else:
            admitted = model.acquire(now)
            admission = store.admit(key, rules=rules, token=f"t{step}")
            assert (admission.verdict == "probe") is admitted, (seed, step)
            view = admission.view
            if admitted:
                generation = admission.view.generation
                model.probe(outcome, now)
                view = store.report(
                    key, rules=rules, token=f"t{step}", generation=generation, outcome=outcome
                )
        assert (view.state.value, view.calls) == (model.state, len(model.calls)), (seed, step)


SEEDS = int(scaled(1000, 200))


@pytest.mark.parametrize("timed", [False, True])
def test_as_resilience4j_documents_it(timed: bool) -> None:
    """Random configurations and histories in memory, count and time windows: no difference."""
    clock = ManualClock(start=1e6)
    with installed(clock):
        backend = resolve("memory://")
        for seed in range(SEEDS):
            compare(backend, clock, seed, timed=timed)
        backend.close()


def test_as_resilience4j_documents_it_on_sqlite(tmp_path: Any) -> None:
    """The same in a file, with a count window: its clock is the machine's."""
    backend = resolve(f"sqlite:///{tmp_path}/state.db")
    for seed in range(SEEDS // 4):
        compare(backend, None, seed, timed=False)
    backend.close()


def test_as_resilience4j_documents_it_on_redis(redis_server: RedisAt, prefix: str) -> None:
    """The same by the scripts, with a count window: the server's clock cannot be set."""
    backend = resolve(redis_server.url, prefix)
    for seed in range(SEEDS // 4):
        compare(backend, None, seed, timed=False)
    backend.close()
