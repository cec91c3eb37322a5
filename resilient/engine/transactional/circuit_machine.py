"""The circuit breaker's state machine: everything that moves a circuit is in this file.

Pure functions from a `Circuit` to the next one. They read no clock (the time is handed in) and do
no I/O. The diagram, as the table `TRANSITIONS` says it:

                 failure_rate, consecutive
        CLOSED ─────────────────────────────► OPEN ◄──────────────┐
          ▲                                    │                  │
          │ probes_passed         wait_elapsed │                  │ probes_failed
          └──────────────── HALF_OPEN ◄────────┘                  │
                                │                                 │
                                └─────────────────────────────────┘

and by hand (`forced`) from any state to any. Every transition begins a new generation with an
empty window; what was admitted under an earlier generation is not counted.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from resilient.engine.transactional.store import Record
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView

__all__ = [
    "TRANSITIONS",
    "Circuit",
    "Permit",
    "admitted",
    "forced",
    "opened_for_probes",
    "recorded",
    "reported",
    "view",
    "without_dead_probes",
]

NewGeneration = Callable[[], int]
"""Draws the generation of a transition, should there be one (`Transaction.tick`)."""

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

TRANSITIONS = {
    (CLOSED, "failure_rate"): OPEN,
    (CLOSED, "consecutive"): OPEN,
    (OPEN, "wait_elapsed"): HALF_OPEN,
    (HALF_OPEN, "probes_passed"): CLOSED,
    (HALF_OPEN, "probes_failed"): OPEN,
}
FORCED = "forced"
OPEN_FOR_WITHOUT_RULES = 60.0

SUCCESS = "0"
FAILURE = "1"
NEITHER = "-"


class Permit(Record, frozen=True, array_like=True):
    """A probe under way: its token, and when its permit is free again unless it reports."""

    token: str
    until: float


class Circuit(Record, frozen=True, array_like=True):
    """The state of a circuit; times are the store's, in seconds.

    Attributes:
        state: One of `CircuitState`.
        generation: Of the transition that led here.
        until: Open: when it may be probed.
        outcomes: `"0"` and `"1"`, the oldest first: of the window (closed) or round (half-open).
        consecutive: Failures since the last success or transition.
        last_failure: When the last call failed.
        last_success: When the last call succeeded.
        reason: Why it came into this state.
        permits: Half-open: the probes under way.
    """

    state: str
    generation: int
    until: float = 0.0
    outcomes: str = ""
    consecutive: int = 0
    last_failure: float | None = None
    last_success: float | None = None
    reason: str = ""
    permits: tuple[Permit, ...] = ()


def moved(
    circuit: Circuit, reason: str, draw: NewGeneration, now: float, open_for: float
) -> Circuit:
    """The circuit after the transition that this reason causes."""
    state = TRANSITIONS[CircuitState(circuit.state), reason]
    return entered(circuit, state, reason, draw, now, open_for)


def entered(
    circuit: Circuit,
    state: CircuitState,
    reason: str,
    draw: NewGeneration,
    now: float,
    open_for: float,
) -> Circuit:
    """The circuit as it begins in a state: nothing counted, no probe under way."""
    return Circuit(
        state=state.value,
        generation=draw(),
        until=now + open_for if state is OPEN else 0.0,
        last_failure=circuit.last_failure,
        last_success=circuit.last_success,
        reason=reason,
    )


def recorded(
    circuit: Circuit, outcomes: str, rules: CircuitRules, now: float, draw: NewGeneration
) -> Circuit:
    """A closed circuit after these outcomes, judged after each of them.

    Outcomes after a transition belong to calls that were admitted before it: they are dropped.
    The counts move along with the window, so that a batch costs no more than its length.
    """
    seen = circuit.outcomes + outcomes
    known = len(circuit.outcomes)
    start = max(0, known - rules.window)
    failures = seen.count(FAILURE, start, known)
    consecutive = circuit.consecutive
    for end in range(known + 1, len(seen) + 1):
        failed = seen[end - 1] == FAILURE
        failures += failed
        consecutive = consecutive + 1 if failed else 0
        if end - start > rules.window:
            failures -= seen[start] == FAILURE
            start += 1
        reason = verdict(end - start, failures, consecutive, rules)
        if reason is not None:
            circuit = dated(circuit, seen[known:end], now)
            return moved(circuit, reason, draw, now, rules.open_for)
    circuit = msgspec.structs.replace(circuit, outcomes=seen[start:], consecutive=consecutive)
    return dated(circuit, outcomes, now)


def dated(circuit: Circuit, outcomes: str, now: float) -> Circuit:
    """The circuit after these outcomes, as far as it remembers when they were."""
    return msgspec.structs.replace(
        circuit,
        last_failure=now if FAILURE in outcomes else circuit.last_failure,
        last_success=now if SUCCESS in outcomes else circuit.last_success,
    )


def verdict(calls: int, failures: int, consecutive: int, rules: CircuitRules) -> str | None:
    """Why a closed circuit must open; `None` if it need not."""
    if rules.consecutive is not None and consecutive >= rules.consecutive:
        return "consecutive"
    if rules.failure_rate is None or calls < min(rules.min_calls, rules.window):
        return None
    return "failure_rate" if failures / calls >= rules.failure_rate else None


def opened_for_probes(circuit: Circuit, draw: NewGeneration, now: float) -> Circuit:
    """An open circuit whose time is over begins its half-open round; any other stays as it is."""
    if circuit.state == OPEN and now >= circuit.until:
        return moved(circuit, "wait_elapsed", draw, now, 0.0)
    return circuit


def without_dead_probes(circuit: Circuit, now: float) -> Circuit:
    """The permits of probes whose lease ran out are free again."""
    if all(permit.until > now for permit in circuit.permits):
        return circuit
    alive = tuple(permit for permit in circuit.permits if permit.until > now)
    return msgspec.structs.replace(circuit, permits=alive)


def admitted(circuit: Circuit, token: str, rules: CircuitRules, now: float) -> Circuit | None:
    """A half-open circuit with a permit for this token; `None` if all are taken."""
    if any(permit.token == token for permit in circuit.permits):
        return circuit
    if len(circuit.permits) + len(circuit.outcomes) >= rules.permits:
        return None
    permits = (*circuit.permits, Permit(token, now + rules.lease))
    return msgspec.structs.replace(circuit, permits=permits)


def reported(
    circuit: Circuit, token: str, outcome: str, rules: CircuitRules, now: float, draw: NewGeneration
) -> Circuit:
    """A half-open circuit after the report of a probe that has a live permit."""
    rest = tuple(permit for permit in circuit.permits if permit.token != token)
    circuit = msgspec.structs.replace(circuit, permits=rest)
    if outcome == NEITHER:
        return circuit
    counted = msgspec.structs.replace(
        circuit,
        outcomes=circuit.outcomes + outcome,
        consecutive=circuit.consecutive + 1 if outcome == FAILURE else 0,
    )
    circuit = dated(counted, outcome, now)
    return judged(circuit, rules, now, draw)


def judged(circuit: Circuit, rules: CircuitRules, now: float, draw: NewGeneration) -> Circuit:
    """A half-open circuit moves on when all probes of its round have ended."""
    calls = len(circuit.outcomes)
    if calls < rules.permits:
        return circuit
    failures = circuit.outcomes.count(FAILURE)
    # Without a rate, one failure is one too many.
    share = rules.failure_rate if rules.failure_rate is not None else 1 / calls
    reason = "probes_failed" if failures / calls >= share else "probes_passed"
    return moved(circuit, reason, draw, now, rules.open_for)


def forced(
    circuit: Circuit,
    state: CircuitState,
    rules: CircuitRules | None,
    now: float,
    draw: NewGeneration,
) -> Circuit:
    """The circuit put into a state by hand."""
    open_for = OPEN_FOR_WITHOUT_RULES if rules is None else rules.open_for
    return entered(circuit, state, FORCED, draw, now, open_for)


def retry_after(circuit: Circuit, now: float) -> float:
    """Seconds after which a refused caller may ask again."""
    if circuit.state == OPEN:
        return max(0.0, circuit.until - now)
    # Half-open: a probe may report at any moment, and its permit is free by then at the latest.
    return min((permit.until - now for permit in circuit.permits), default=0.0)


def view(circuit: Circuit | None, now: float) -> CircuitView:
    """The circuit as callers see it; one that was never seen is closed."""
    if circuit is None:
        return CircuitView(CLOSED, 0, 0.0, 0, 0, 0, None, None, "")
    return CircuitView(
        state=CircuitState(circuit.state),
        generation=circuit.generation,
        reopens_in=max(0.0, circuit.until - now) if circuit.state == OPEN else 0.0,
        calls=len(circuit.outcomes),
        failures=circuit.outcomes.count(FAILURE),
        consecutive=circuit.consecutive,
        last_failure=None if circuit.last_failure is None else now - circuit.last_failure,
        last_success=None if circuit.last_success is None else now - circuit.last_success,
        reason=circuit.reason,
    )


def lifetime(circuit: Circuit, ttl: float, now: float) -> float:
    """Seconds for which to keep the record: idle for `ttl`, and at least while it is open."""
    busy_until = max((permit.until for permit in circuit.permits), default=circuit.until)
    return ttl + max(0.0, busy_until - now)
