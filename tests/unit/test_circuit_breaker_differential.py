"""Circuits against resilience4j, as its documentation describes it.

The model below is written from https://resilience4j.readme.io/docs/circuitbreaker, which it quotes,
and from the Javadoc of `CircuitBreakerConfig`, where it says so; it imports nothing of `resilient`.
Two differences are on purpose, and are not exercised: outcomes of an earlier generation are
dropped, and a permit comes back when its lease is over.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from resilient import Backend
from resilient.engine.clock import ManualClock, installed
from resilient.protocols.circuits import Admission, CircuitRules, CircuitState, CircuitView, Verdict
from resilient.resolving import resolve
from tests.support.faketime import ServerTime
from tests.support.scale import scaled
from tests.support.servers import redis_server

TOGETHER = 20
"""Histories that go through the same time."""


class Resilience4j:
    """One circuit breaker; its time is in whole seconds."""

    def __init__(self, rules: dict[str, Any]) -> None:
        self.rules = rules
        self.state = "closed"
        self.calls: deque[tuple[int, str]] = deque()
        self.until = 0.0
        self.permitted = 0

    def record(self, outcome: str, now: int) -> None:
        """Closed: "The state of the CircuitBreaker changes from CLOSED to OPEN when the failure
        rate is equal or greater than a configurable threshold."
        """
        self.calls.append((now, outcome))
        self._slide(now)
        minimum = self.rules["min_calls"]
        if self.rules["seconds"] is None:
            # Javadoc of `slidingWindow`: "If the slidingWindowType is COUNT_BASED, the
            # minimumNumberOfCalls may not be greater than slidingWindowSize. If a greater value is
            # provided, minimumNumberOfCalls will be equal to slidingWindowSize."
            minimum = min(minimum, self.rules["window"])
        # "The failure rate and slow call rate can only be calculated, if a minimum number of calls
        # were recorded."
        if len(self.calls) >= minimum and self._is_bad():
            self._open(now)

    def acquire(self, now: int) -> bool:
        """Not closed: "After a wait time duration has elapsed, the CircuitBreaker state changes
        from OPEN to HALF_OPEN and permits a configurable number of calls [...]. Further calls are
        rejected with a CallNotPermittedException, until all permitted calls have completed."
        """
        if self.state == "open" and now >= self.until:
            self.state, self.permitted = "half_open", self.rules["permits"]
        if self.state == "half_open" and self.permitted > 0:
            self.permitted -= 1
            return True
        return False

    def probe(self, outcome: str, now: int) -> None:
        """Half-open: "If the failure rate or slow call rate is then equal or greater than the
        configured threshold, the state changes back to OPEN. If the failure rate and slow call rate
        is below the threshold, the state changes back to CLOSED."
        """
        self.calls.append((now, outcome))
        if len(self.calls) < self.rules["permits"]:
            return
        if self._is_bad():
            self._open(now)
        else:
            self.state = "closed"
            self.calls.clear()

    def _slide(self, now: int) -> None:
        seconds = self.rules["seconds"]
        if seconds is None:
            # "The count-based sliding window is implemented with a circular array of N
            # measurements."
            while len(self.calls) > self.rules["window"]:
                self.calls.popleft()
            return
        # "The time-based sliding window is implemented with a circular array of N partial
        # aggregations (buckets). [...] Every bucket aggregates the outcome of all calls which
        # happen in a certain epoch second. [...] The head bucket of the circular array stores the
        # call outcomes of the current epoch second."
        while self.calls and self.calls[0][0] <= now - seconds:
            self.calls.popleft()

    def _is_bad(self) -> bool:
        # "The CircuitBreaker also changes from CLOSED to OPEN when the percentage of slow calls is
        # equal or greater than a configurable threshold."
        calls = len(self.calls)
        failed = sum(outcome in "13" for _, outcome in self.calls) / calls
        slow = sum(outcome in "23" for _, outcome in self.calls) / calls
        return bool(failed >= self.rules["failure_rate"] or slow >= self.rules["slow_rate"])

    def _open(self, now: int) -> None:
        self.state, self.until = "open", now + self.rules["open_for"]
        self.calls.clear()


def rules_by(chance: random.Random) -> dict[str, Any]:
    """A random configuration: a count window, or a time window of as many buckets as seconds."""
    seconds = chance.randint(1, 20)
    return {
        "window": chance.randint(1, 20),
        "min_calls": chance.randint(1, 25),
        "failure_rate": chance.choice([0.1, 0.25, 0.5, 0.75, 1.0]),
        "slow_rate": chance.choice([0.3, 0.5, 1.0]),
        "open_for": chance.randint(1, 10) - 0.5,  # never exactly over at a whole second
        "permits": chance.randint(1, 6),
        "seconds": chance.choice([None, float(seconds)]),
        "buckets": seconds,
    }


class History:
    """A circuit under a random configuration, and the model of it."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self._chance = random.Random(seed)
        options = rules_by(self._chance)
        self._outcomes = self._chance.choice(["0", "01", "0123", "0002", "0001"])
        self._store = backend.sync.circuits
        self._rules = CircuitRules(
            consecutive=None, lease=1000.0, ttl=86400.0, slow_over=1.0, **options
        )
        self._key = f"r4j-{seed}"
        self._tokens = count()
        self.model = Resilience4j(options)
        self.kind = "count" if options["seconds"] is None else "time"

    def step(self, now: int) -> CircuitState:
        """One random call: the same verdict, state and counts in both of them."""
        outcome = self._chance.choice(self._outcomes)
        view = self._call(outcome, now)
        seen, expected = (view.state, view.calls), (self.model.state, len(self.model.calls))
        assert seen == expected, (self._key, now)
        return view.state

    def _call(self, outcome: str, now: int) -> CircuitView:
        store, key, rules, model = self._store, self._key, self._rules, self.model
        if model.state == "closed":
            model.record(outcome, now)
            recorded: CircuitView = store.record(key, rules=rules, outcomes=outcome)
            return recorded
        token, admitted = f"t{next(self._tokens)}", model.acquire(now)
        admission: Admission = store.admit(key, rules=rules, token=token)
        assert (admission.verdict is Verdict.PROBE) is admitted, (key, now)
        if not admitted:
            return admission.view
        model.probe(outcome, now)
        reported: CircuitView = store.report(
            key, rules=rules, token=token, generation=admission.view.generation, outcome=outcome
        )
        return reported


def compare(backend: Backend, advance: Callable[[int], None], seeds: Sequence[int]) -> set[str]:
    """Random histories in one time; which states they came to, with which kinds of windows."""
    histories = [History(backend, seed) for seed in seeds]
    chance, now, seen = random.Random(min(seeds)), 0, set()
    for _ in range(60):
        if chance.random() < 0.3:
            seconds = chance.choice([1, 1, 2, 3, 8])
            advance(seconds)
            now += seconds
        seen |= {f"{history.step(now)}, {history.kind}" for history in histories}
    return seen


@contextmanager
def _on_redis(directory: Path) -> Iterator[tuple[str, Callable[[int], None]]]:
    clock, moment = ServerTime(directory / "time"), int(time.time())

    with redis_server(env=clock.env) as server, server.client() as client:

        def advance(seconds: int) -> None:
            nonlocal moment
            moment += seconds
            clock.stop_at(moment)
            while _seconds(client.time()) != moment:
                time.sleep(0.0001)

        advance(1)
        yield server.url, advance


def _seconds(answer: Any) -> int:
    return int(answer[0])


@contextmanager
def _by_our_own_clock(url: str) -> Iterator[tuple[str, Callable[[int], None]]]:
    with installed(clock := ManualClock()):
        yield url, clock.advance


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_as_resilience4j_documents_it(kind: str, tmp_path: Path) -> None:
    """1,000 random configurations and histories, count and time windows: no difference."""
    if kind == "redis":
        timed = _on_redis(tmp_path)
    else:
        timed = _by_our_own_clock(
            "memory://" if kind == "memory" else f"sqlite:///{tmp_path}/state.db"
        )
    with timed as (url, advance):
        backend = resolve(url)
        seen: set[str] = set()
        for first in range(0, scaled(1000, 100), TOGETHER):
            seen |= compare(backend, advance, range(first, first + TOGETHER))
        backend.close()
    assert len(seen) == 6  # three states, with both kinds of windows
