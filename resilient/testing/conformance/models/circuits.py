"""The reference model of circuit breakers.

Transcribes `CircuitStore` and `CircuitRules` (`resilient/protocols/circuits.py`). The count window
is resilience4j's count-based sliding window: the last N outcomes in a ring, judged after every
outcome once `minimumNumberOfCalls` (at most N) are in it, "equal or greater than the threshold"
opens (https://resilience4j.readme.io/docs/circuitbreaker). Its half-open state permits a fixed
number of calls and is judged when all of them are done; here a permit is a lease, which comes back
when its prober dies.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .answers import ANYTHING

__all__ = ["Admission", "CircuitModel", "CircuitRules", "CircuitView"]

FORCED_OPEN_FOR = 60.0


class CircuitRules(NamedTuple):
    """When a circuit opens and closes again."""

    window: int
    min_calls: int
    failure_rate: float | None
    consecutive: int | None
    open_for: float
    permits: int
    lease: float
    ttl: float


class CircuitView(NamedTuple):
    """A circuit as the server sees it."""

    state: str
    generation: int
    reopens_in: float
    calls: int
    failures: int
    consecutive: int
    last_failure: float | None
    last_success: float | None
    reason: str


class Admission(NamedTuple):
    """The answer to a call that asks to be let through."""

    verdict: str
    view: CircuitView
    retry_after: float


@dataclass
class _Circuit:
    state: str = "closed"
    generation: int = 0
    until: float = 0.0
    window: deque[str] = field(default_factory=deque)
    consecutive: int = 0
    probes: dict[str, float] = field(default_factory=dict)
    """Live permits: the token of the prober, and when its lease runs out."""
    last: dict[str, float] = field(default_factory=dict)
    reason: Any = ""


class CircuitModel:
    """All circuits of one backend."""

    def __init__(self) -> None:
        self.now = 0.0
        self._circuits: dict[str, _Circuit] = {}
        self._generations = 0

    def view(self, key: str) -> CircuitView:
        """The circuit now; a key that was never seen is closed, with generation 0."""
        return self._view(self._circuits.get(key, _Circuit()))

    def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, generation: int | None
    ) -> CircuitView:
        """Add outcomes to a closed circuit's window and judge it after each of them.

        Those of another generation are dropped; `None` and 0 always count.
        """
        circuit = self._circuits.get(key, _Circuit())
        if circuit.state == "closed" and generation in (None, 0, circuit.generation):
            if key not in self._circuits:
                # Seen from now on, and so not 0 any more: what is admitted now can become stale.
                self._circuits[key], circuit.generation = circuit, self._draw()
            for outcome in outcomes:
                if circuit.state == "closed":
                    self._add(circuit, rules, outcome)
        return self._view(circuit)

    def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits; opens the half-open round when its time has come.

        Permits whose lease has run out are given back first.
        """
        circuit = self._circuits.get(key, _Circuit())
        if circuit.state == "closed":
            return Admission("allowed", self._view(circuit), 0.0)
        if circuit.state == "open":
            if self.now < circuit.until:
                return Admission("refused", self._view(circuit), circuit.until - self.now)
            self._move(circuit, "half_open", ANYTHING)
        self._give_back(circuit)
        if token not in circuit.probes:
            if len(circuit.window) + len(circuit.probes) >= rules.permits:
                return Admission("refused", self._view(circuit), ANYTHING)
            circuit.probes[token] = self.now + rules.lease
        return Admission("probe", self._view(circuit), ANYTHING)

    def report(
        self, key: str, *, rules: CircuitRules, token: str, generation: int, outcome: str
    ) -> CircuitView:
        """Report a probe: `"0"` success, `"1"` failure, `"-"` neither (the permit goes back).

        A report from another generation, or without a live permit, changes nothing. The round is
        judged when all probes have ended: it closes unless the failure rate (1 failure, if only
        `consecutive` is set) was reached.
        """
        circuit = self._circuits.get(key, _Circuit())
        self._give_back(circuit)
        if generation != circuit.generation or token not in circuit.probes:
            return self._view(circuit)
        del circuit.probes[token]
        if outcome != "-":
            circuit.last[outcome] = self.now
            circuit.window.append(outcome)
        if len(circuit.window) >= rules.permits:
            failed = circuit.window.count("1")
            rate = failed / len(circuit.window)
            bad = failed > 0 if rules.failure_rate is None else rate >= rules.failure_rate
            if bad:
                circuit.until = self.now + rules.open_for
            self._move(circuit, "open" if bad else "closed", ANYTHING)
        return self._view(circuit)

    def force(self, key: str, state: str, *, rules: CircuitRules | None) -> CircuitView:
        """Put the circuit into a state by hand: a transition, with an empty window.

        Open lasts `rules.open_for` (60 seconds without rules) and then goes on as usual.
        """
        circuit = self._circuits.setdefault(key, _Circuit())
        circuit.until = self.now + (FORCED_OPEN_FOR if rules is None else rules.open_for)
        self._move(circuit, state, ANYTHING)
        return self._view(circuit)

    def delete(self, key: str) -> bool:
        """Forget the circuit; false if there was none."""
        return self._circuits.pop(key, None) is not None

    def _add(self, circuit: _Circuit, rules: CircuitRules, outcome: str) -> None:
        circuit.last[outcome] = self.now
        circuit.window.append(outcome)
        while len(circuit.window) > rules.window:
            circuit.window.popleft()
        circuit.consecutive = circuit.consecutive + 1 if outcome == "1" else 0
        reasons = self._reasons(circuit, rules)
        if reasons:
            circuit.until = self.now + rules.open_for
            self._move(circuit, "open", reasons[0] if len(reasons) == 1 else ANYTHING)

    def _reasons(self, circuit: _Circuit, rules: CircuitRules) -> list[str]:
        calls = len(circuit.window)
        enough = calls >= min(rules.min_calls, rules.window)
        rate = circuit.window.count("1") / calls
        found = []
        if rules.failure_rate is not None and enough and rate >= rules.failure_rate:
            found.append("failure_rate")
        if rules.consecutive is not None and circuit.consecutive >= rules.consecutive:
            found.append("consecutive")
        return found

    def _move(self, circuit: _Circuit, state: str, reason: Any) -> None:
        circuit.state, circuit.generation, circuit.reason = state, self._draw(), reason
        circuit.window.clear()
        circuit.probes.clear()
        circuit.consecutive = 0

    def _draw(self) -> int:
        self._generations += 1
        return self._generations

    def _give_back(self, circuit: _Circuit) -> None:
        circuit.probes = {t: until for t, until in circuit.probes.items() if until > self.now}

    def _view(self, circuit: _Circuit) -> CircuitView:
        return CircuitView(
            state=circuit.state,
            generation=circuit.generation,
            reopens_in=max(0.0, circuit.until - self.now) if circuit.state == "open" else 0.0,
            calls=len(circuit.window),
            failures=circuit.window.count("1"),
            # What the run of failures is while the circuit is not closed is left open.
            consecutive=circuit.consecutive if circuit.state == "closed" else ANYTHING,
            last_failure=self._age(circuit, "1"),
            last_success=self._age(circuit, "0"),
            reason=circuit.reason,
        )

    def _age(self, circuit: _Circuit, outcome: str) -> float | None:
        return self.now - circuit.last[outcome] if outcome in circuit.last else None
