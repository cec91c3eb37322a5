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

__all__ = ["Admission", "CircuitModel", "CircuitRules", "CircuitTransition", "CircuitView"]

OPEN_WITHOUT_RULES = 60.0
MAX_TTL = 30 * 86400.0
FORCED = ("forced_open", "forced_closed", "metrics_only", "disabled")
PASSING = ("closed", "forced_closed", "metrics_only", "disabled")


class CircuitTransition(NamedTuple):
    """One transition of a circuit."""

    age: float
    before: str
    after: str
    reason: Any
    generation: int


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
    seconds: float | None = None
    buckets: int = 10
    slow_rate: float | None = None
    slow_over: float | None = None
    factor: float = 1.0
    longest: float | None = None
    jitter: float = 0.0
    calm: float = 60.0
    concurrency: int | None = None
    all_must_pass: bool = False
    ramp: float | None = None
    ramp_start: float = 0.1
    quorum: int | None = None
    quorum_share: float = 0.0


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
    slow: int
    stale: int
    opened: int
    age: float
    breach: str
    fingerprint: Any


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
    stale: int = 0
    opened: int = 0
    since: float | None = None
    breach: str = ""
    history: list[tuple[float, str, str, Any, int]] = field(default_factory=list)


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
        """Add outcomes to the window of a circuit that lets calls through, and judge after each.

        Those of another generation are dropped and counted as stale; `None` and 0 always count.
        """
        circuit = self._circuits.get(key, _Circuit())
        is_theirs = generation in (None, 0, circuit.generation)
        if key not in self._circuits and not is_theirs:
            return self._view(circuit)
        if key not in self._circuits:
            # Seen from now on, and so not 0 any more: what is admitted now can become stale.
            self._circuits[key], circuit.generation = circuit, self._draw()
        self._pass_time(circuit)
        if circuit.state not in PASSING or not is_theirs:
            circuit.stale += sum(outcome in "0123s" for outcome in outcomes)
        elif circuit.state != "disabled":
            begun = circuit.generation
            for outcome in outcomes:
                if circuit.generation == begun:
                    self._add(circuit, rules, outcome)
        return self._view(circuit)

    def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits; opens the half-open round when its time has come.

        Permits whose lease has run out are given back first.
        """
        circuit = self._circuits.get(key, _Circuit())
        self._pass_time(circuit)
        if circuit.state in PASSING:
            return Admission("allowed", self._view(circuit), 0.0)
        if circuit.state != "half_open":
            return Admission("refused", self._view(circuit), circuit.until - self.now)
        self._give_back(circuit)
        if token not in circuit.probes:
            live = len(circuit.probes)
            too_many = rules.concurrency is not None and live >= rules.concurrency
            if len(circuit.window) + live >= rules.permits or too_many:
                return Admission("refused", self._view(circuit), ANYTHING)
            circuit.probes[token] = self.now + rules.lease
        return Admission("probe", self._view(circuit), ANYTHING)

    def report(
        self, key: str, *, rules: CircuitRules, token: str, generation: int, outcome: str
    ) -> CircuitView:
        """Report a probe: `"0"` to `"3"`, or `"-"`: no outcome (the permit goes back).

        A report from another generation, or without a live permit, changes nothing. The round is
        judged when all probes have ended: it closes unless the failure rate (1 failure, if only
        `consecutive` is set) or the slow rate was reached; or at the first failure.
        """
        circuit = self._circuits.get(key, _Circuit())
        self._give_back(circuit)
        if generation != circuit.generation and key in self._circuits:
            circuit.stale += outcome != "-"
        if generation != circuit.generation or token not in circuit.probes:
            return self._view(circuit)
        del circuit.probes[token]
        if outcome != "-":
            self._date(circuit, outcome)
            circuit.window.append(outcome)
            self._judge_round(circuit, rules)
        return self._view(circuit)

    def _judge_round(self, circuit: _Circuit, rules: CircuitRules) -> None:
        calls = len(circuit.window)
        failed = sum(outcome in "13" for outcome in circuit.window)
        slow = sum(outcome in "23" for outcome in circuit.window)
        if not (calls >= rules.permits or (rules.all_must_pass and failed)):
            return
        if rules.failure_rate is not None:
            bad = failed / calls >= rules.failure_rate
        else:
            bad = failed > 0 and (rules.consecutive is not None or rules.slow_rate is None)
        if rules.slow_rate is not None:
            bad = bad or slow / calls >= rules.slow_rate
        if rules.all_must_pass:
            bad = bad or failed > 0
        if bad:
            self._open(circuit, rules, "probes_failed")
        else:
            self._move(circuit, "closed", "probes_passed")

    def force(
        self, key: str, state: str, *, rules: CircuitRules | None, lasts: float | None = None
    ) -> CircuitView:
        """Put the circuit into a state by hand: a transition, with an empty window.

        Without `lasts`, open lasts `rules.open_for` (60 seconds without rules), and the states that
        exist by hand only last as long as anything is kept.
        """
        circuit = self._circuits.setdefault(key, _Circuit())
        circuit.opened = int(state == "open")
        self._move(circuit, state, "forced")
        if state == "open":
            usual = OPEN_WITHOUT_RULES if rules is None else rules.open_for
            circuit.until = self.now + (usual if lasts is None else lasts)
        elif state in FORCED:
            circuit.until = self.now + (MAX_TTL if lasts is None else lasts)
        return self._view(circuit)

    def restore(self, key: str, state: str, generation: int, left: float) -> CircuitView:
        """Tell a store that has lost its data what this circuit was: not if it knows better."""
        circuit = self._circuits.setdefault(key, _Circuit())
        if circuit.since is None or circuit.generation < generation:
            circuit.opened = 1
            self._move(circuit, state, "restored")
            circuit.until = self.now + left
        return self._view(circuit)

    def history(self, key: str) -> list[CircuitTransition]:
        """The latest 20 transitions, the newest first."""
        history = self._circuits.get(key, _Circuit()).history
        return [CircuitTransition(self.now - each[0], *each[1:]) for each in history[:-21:-1]]

    def delete(self, key: str) -> bool:
        """Forget the circuit; false if there was none."""
        return self._circuits.pop(key, None) is not None

    def _add(self, circuit: _Circuit, rules: CircuitRules, outcome: str) -> None:
        self._date(circuit, outcome)
        if outcome == "f":
            slow = [at for at, each in enumerate(circuit.window) if each == "2"]
            if slow:
                circuit.window[slow[-1]] = "3"
        elif outcome != "o":
            circuit.window.append("2" if outcome == "s" else outcome)
        while len(circuit.window) > rules.window:
            circuit.window.popleft()
        if outcome != "s":
            circuit.consecutive = circuit.consecutive + 1 if outcome in "13f" else 0
        reasons = self._reasons(circuit, rules)
        reason = "" if not reasons else reasons[0] if len(reasons) == 1 else ANYTHING
        if circuit.state != "closed":
            circuit.breach = reason
        elif reasons:
            self._open(circuit, rules, reason)

    def _reasons(self, circuit: _Circuit, rules: CircuitRules) -> list[str]:
        calls = len(circuit.window)
        found = []
        if calls and calls >= min(rules.min_calls, rules.window):
            failed = sum(outcome in "13" for outcome in circuit.window) / calls
            slow = sum(outcome in "23" for outcome in circuit.window) / calls
            if rules.failure_rate is not None and failed >= rules.failure_rate:
                found.append("failure_rate")
            if rules.slow_rate is not None and slow >= rules.slow_rate:
                found.append("slow_rate")
        if rules.consecutive is not None and circuit.consecutive >= rules.consecutive:
            found.append("consecutive")
        return found

    def _open(self, circuit: _Circuit, rules: CircuitRules, reason: Any) -> None:
        is_first = circuit.since is None or self.now - circuit.since > rules.calm
        if circuit.state == "closed" and is_first:
            circuit.opened = 0
        circuit.opened += 1
        pause = rules.open_for * rules.factor ** (circuit.opened - 1)
        self._move(circuit, "open", reason)
        circuit.until = self.now + min(pause, rules.longest or rules.open_for)

    def _move(self, circuit: _Circuit, state: str, reason: Any) -> None:
        before, circuit.state = circuit.state, state
        circuit.generation, circuit.reason = self._draw(), reason
        circuit.since, circuit.until, circuit.breach = self.now, 0.0, ""
        circuit.window.clear()
        circuit.probes.clear()
        circuit.consecutive = 0
        circuit.history.append((self.now, before, state, reason, circuit.generation))

    def _pass_time(self, circuit: _Circuit) -> None:
        """What was open, or was done by hand, for a time that is over moves on."""
        if self.now < circuit.until:
            return
        if circuit.state in ("open", "forced_open"):
            self._move(circuit, "half_open", ANYTHING)
        elif circuit.state in FORCED:
            self._move(circuit, "closed", "override_ended")

    def _date(self, circuit: _Circuit, outcome: str) -> None:
        if outcome != "s":
            circuit.last["1" if outcome in "13f" else "0"] = self.now

    def _draw(self) -> int:
        self._generations += 1
        return self._generations

    def _give_back(self, circuit: _Circuit) -> None:
        circuit.probes = {t: until for t, until in circuit.probes.items() if until > self.now}

    def _view(self, circuit: _Circuit) -> CircuitView:
        is_over = circuit.state in FORCED and self.now >= circuit.until
        return CircuitView(
            state="closed" if is_over and circuit.state in PASSING else circuit.state,
            generation=circuit.generation,
            reopens_in=max(0.0, circuit.until - self.now),
            calls=len(circuit.window),
            failures=sum(outcome in "13" for outcome in circuit.window),
            # What the run of failures is while the circuit is not closed is left open.
            consecutive=circuit.consecutive if circuit.state == "closed" else ANYTHING,
            last_failure=self._age(circuit, "1"),
            last_success=self._age(circuit, "0"),
            reason=circuit.reason,
            slow=sum(outcome in "23" for outcome in circuit.window),
            stale=circuit.stale,
            opened=circuit.opened,
            age=0.0 if circuit.since is None else self.now - circuit.since,
            breach=circuit.breach,
            fingerprint=ANYTHING,
        )

    def _age(self, circuit: _Circuit, outcome: str) -> float | None:
        return self.now - circuit.last[outcome] if outcome in circuit.last else None
