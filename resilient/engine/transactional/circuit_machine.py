"""The circuit breaker's state machine over records: how outcomes, permits and hands move a circuit.

Pure functions from a `Circuit` to the next one. They read no clock (the time is handed in) and do
no I/O. Which transitions there are is the table `resilient.protocols.circuit_table`; each begins a
new generation with an empty window, and what was admitted under an earlier one does not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from math import ceil

import msgspec

from resilient.engine.transactional.circuit_windows import (
    Bucket,
    Window,
    has_failed,
    is_slow,
    window_of,
)
from resilient.engine.transactional.store import Record
from resilient.protocols.circuit_table import TRANSITIONS
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView

__all__ = [
    "Circuit",
    "Node",
    "Permit",
    "admitted",
    "entered",
    "judged",
    "polled",
    "recorded",
    "reported",
    "time_over",
    "view",
    "without_dead_probes",
]

NewGeneration = Callable[[], int]
"""Draws the generation of a transition, should there be one (`Transaction.tick`)."""

S = CircuitState
NEITHER = "-"
NODE_LIVES = 60.0
"""Seconds for which what a node has said counts, at least."""
MOST_DOUBLINGS = 64
"""Further openings in a row make an open circuit wait no longer."""


class Permit(Record, frozen=True, array_like=True):
    """A probe under way: its token, and when its permit is free again unless it reports."""

    token: str
    until: float


class Node(Record, frozen=True, array_like=True):
    """A process that has reported: until when that counts, and whether it finds the service bad."""

    name: str
    until: float
    breached: bool


class Circuit(Record, frozen=True, array_like=True):
    """The state of a circuit; times are the store's, in seconds.

    Attributes:
        state: One of `CircuitState`.
        generation: Of the transition that led here.
        until: Open: when it may be probed. By hand: when that ends.
        outcomes: The oldest first: of a count window (closed) or of the round (half-open).
        consecutive: Failures since the last success or transition.
        last_failure: When the last call failed.
        last_success: When the last call succeeded.
        reason: Why it came into this state.
        permits: Half-open: the probes under way.
        buckets: Of a time window.
        opened: How many times in a row it has opened.
        since: When the last transition was; `None`: there was none.
        stale: Calls that were dropped.
        breach: Why it would have opened, had it not been put into its state by hand.
        fingerprint: Of the rules under which outcomes were recorded last.
        nodes: What each node has said, where the rules have a quorum.
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
    buckets: tuple[Bucket, ...] = ()
    opened: int = 0
    since: float | None = None
    stale: int = 0
    breach: str = ""
    fingerprint: str = ""
    nodes: tuple[Node, ...] = ()


def moved(
    circuit: Circuit,
    reason: str,
    draw: NewGeneration,
    now: float,
    rules: CircuitRules,
    retry_after: float = 0.0,
) -> Circuit:
    """The circuit after the transition that this reason causes."""
    state = TRANSITIONS[CircuitState(circuit.state), reason]
    generation = draw()
    opened, until = circuit.opened, 0.0
    if state is S.OPEN:
        if circuit.state == S.CLOSED and circuit.since is not None:
            calm = now - circuit.since > rules.calm
            opened = 0 if calm else opened
        opened += 1
        until = now + max(open_time(rules, opened, generation), retry_after)
    return entered(circuit, state, reason, generation, now, until=until, opened=opened)


def open_time(rules: CircuitRules, opened: int, generation: int) -> float:
    """Seconds for which a circuit stays open that has opened so many times in a row.

    The jitter is drawn from the generation: every store that opens it so comes to the same.
    """
    growth = rules.factor ** min(opened - 1, MOST_DOUBLINGS)
    pause = min(rules.open_for * growth, rules.longest or rules.open_for)
    digest = hashlib.sha1(str(generation).encode(), usedforsecurity=False).hexdigest()
    share = int(digest[:8], 16) / 2**32
    return pause * (1 + rules.jitter * (2 * share - 1))


def entered(
    circuit: Circuit,
    state: CircuitState,
    reason: str,
    generation: int,
    now: float,
    *,
    until: float = 0.0,
    opened: int = 0,
) -> Circuit:
    """The circuit as it begins in a state: nothing counted, no probe under way."""
    return Circuit(
        state=state.value,
        generation=generation,
        until=until,
        last_failure=circuit.last_failure,
        last_success=circuit.last_success,
        reason=reason,
        opened=opened,
        since=now,
        stale=circuit.stale,
        fingerprint=circuit.fingerprint,
    )


def time_over(circuit: Circuit, rules: CircuitRules, draw: NewGeneration, now: float) -> Circuit:
    """What was open, or was done by hand, for a time that is over moves on; else as it is."""
    if circuit.state == S.OPEN and now >= circuit.until:
        return moved(circuit, "wait_elapsed", draw, now, rules)
    if CircuitState(circuit.state).is_forced and now >= circuit.until:
        return moved(circuit, "override_ended", draw, now, rules)
    return circuit


# --- closed


def recorded(
    circuit: Circuit,
    outcomes: str,
    rules: CircuitRules,
    now: float,
    draw: NewGeneration,
    age: float = 0.0,
    retry_after: float = 0.0,
) -> Circuit:
    """A circuit that lets calls through after these outcomes, judged after each of them.

    Outcomes after a transition belong to calls that were admitted before it: they are dropped.
    """
    window = window_of(circuit.outcomes, circuit.buckets, rules, now, age)
    consecutive, breach = circuit.consecutive, circuit.breach
    for number, outcome in enumerate(outcomes, 1):
        window.add(outcome)
        if outcome != "s":
            consecutive = consecutive + 1 if has_failed(outcome) else 0
        breach = verdict(window, consecutive, rules) or ""
        if breach and circuit.state == S.CLOSED and rules.quorum is None:
            circuit = dated(circuit, outcomes[:number], now - age)
            return moved(circuit, breach, draw, now, rules, retry_after)
    counted = msgspec.structs.replace(
        circuit,
        consecutive=consecutive,
        breach="" if circuit.state == S.CLOSED else breach,
        **window.kept(),
    )
    return dated(counted, outcomes, now - age)


def dated(circuit: Circuit, outcomes: str, moment: float) -> Circuit:
    """The circuit after these outcomes, as far as it remembers when they were."""
    failed = any(map(has_failed, outcomes))
    succeeded = any(outcome in "02o" for outcome in outcomes)
    return msgspec.structs.replace(
        circuit,
        last_failure=moment if failed else circuit.last_failure,
        last_success=moment if succeeded else circuit.last_success,
    )


def verdict(window: Window, consecutive: int, rules: CircuitRules) -> str | None:
    """Why a closed circuit must open; `None` if it need not."""
    if rules.consecutive is not None and consecutive >= rules.consecutive:
        return "consecutive"
    enough = rules.min_calls if rules.seconds is not None else min(rules.min_calls, rules.window)
    if window.calls < enough or not window.calls:
        return None
    if rules.failure_rate is not None and window.failures / window.calls >= rules.failure_rate:
        return "failure_rate"
    if rules.slow_rate is not None and window.slow / window.calls >= rules.slow_rate:
        return "slow_rate"
    return None


def polled(
    circuit: Circuit,
    node: str,
    breached: bool,
    rules: CircuitRules,
    now: float,
    draw: NewGeneration,
    retry_after: float = 0.0,
) -> Circuit:
    """A closed circuit after a node's word on the service; enough bad words open it."""
    if rules.quorum is None or not node:
        return circuit
    lives = max(NODE_LIVES, rules.seconds or 0.0, 2 * rules.open_for)
    others = [each for each in circuit.nodes if each.name != node and each.until > now]
    nodes = (*others, Node(node, now + lives, breached))
    circuit = msgspec.structs.replace(circuit, nodes=nodes)
    bad = sum(each.breached for each in nodes)
    if circuit.state == S.CLOSED and bad >= max(
        rules.quorum, ceil(rules.quorum_share * len(nodes))
    ):
        return moved(circuit, "quorum", draw, now, rules, retry_after)
    return circuit


# --- half-open


def without_dead_probes(circuit: Circuit, now: float) -> Circuit:
    """The permits of probes whose lease ran out are free again."""
    if all(permit.until > now for permit in circuit.permits):
        return circuit
    alive = tuple(permit for permit in circuit.permits if permit.until > now)
    return msgspec.structs.replace(circuit, permits=alive)


def admitted(circuit: Circuit, token: str, rules: CircuitRules, now: float) -> Circuit | None:
    """A half-open circuit that has given this token a permit; `None` if all are taken."""
    if any(permit.token == token for permit in circuit.permits):
        return circuit
    live = len(circuit.permits)
    if live + len(circuit.outcomes) >= rules.permits or live >= (rules.concurrency or live + 1):
        return None
    permits = (*circuit.permits, Permit(token, now + rules.lease))
    return msgspec.structs.replace(circuit, permits=permits)


def reported(
    circuit: Circuit,
    token: str,
    outcome: str,
    rules: CircuitRules,
    now: float,
    draw: NewGeneration,
    retry_after: float = 0.0,
) -> Circuit:
    """A half-open circuit after the report of a probe that has a live permit."""
    rest = tuple(permit for permit in circuit.permits if permit.token != token)
    circuit = msgspec.structs.replace(circuit, permits=rest)
    if outcome == NEITHER:
        return circuit
    counted = msgspec.structs.replace(
        circuit,
        outcomes=circuit.outcomes + outcome,
        consecutive=circuit.consecutive + 1 if has_failed(outcome) else 0,
    )
    return judged(dated(counted, outcome, now), rules, now, draw, retry_after)


def judged(
    circuit: Circuit,
    rules: CircuitRules,
    now: float,
    draw: NewGeneration,
    retry_after: float = 0.0,
) -> Circuit:
    """A half-open circuit moves on when all probes of its round have ended, or one too many."""
    calls = len(circuit.outcomes)
    failures = sum(map(has_failed, circuit.outcomes))
    if rules.all_must_pass and failures:
        return moved(circuit, "probes_failed", draw, now, rules, retry_after)
    if calls < rules.permits:
        return circuit
    slow = sum(map(is_slow, circuit.outcomes))
    too_slow = rules.slow_rate is not None and slow / calls >= rules.slow_rate
    if too_slow or failures / calls >= failing_share(rules, calls):
        return moved(circuit, "probes_failed", draw, now, rules, retry_after)
    return moved(circuit, "probes_passed", draw, now, rules)


def failing_share(rules: CircuitRules, calls: int) -> float:
    """The share of failures at which a round has failed: without a rate one is too many."""
    if rules.failure_rate is not None:
        return rules.failure_rate
    return 2.0 if rules.consecutive is None and rules.slow_rate is not None else 1 / calls


# --- what callers see


def retry_after(circuit: Circuit, now: float) -> float:
    """Seconds after which a refused caller may ask again."""
    if circuit.state != S.HALF_OPEN:
        return max(0.0, circuit.until - now)
    # Half-open: a probe may report at any moment, and its permit is free by then at the latest.
    return min((permit.until - now for permit in circuit.permits), default=0.0)


def view(circuit: Circuit | None, now: float) -> CircuitView:
    """The circuit as callers see it; one that was never seen is closed."""
    if circuit is None:
        return CircuitView(S.CLOSED, 0, 0.0, 0, 0, 0, None, None, "")
    state = CircuitState(circuit.state)
    is_over = state.is_forced and now >= circuit.until
    buckets = [bucket for bucket in circuit.buckets if bucket.until > now]
    return CircuitView(
        state=S.CLOSED if is_over and state.lets_through else state,
        generation=circuit.generation,
        reopens_in=max(0.0, circuit.until - now),
        calls=len(circuit.outcomes) + sum(bucket.calls for bucket in buckets),
        failures=sum(map(has_failed, circuit.outcomes)) + sum(b.failures for b in buckets),
        consecutive=circuit.consecutive,
        last_failure=None if circuit.last_failure is None else now - circuit.last_failure,
        last_success=None if circuit.last_success is None else now - circuit.last_success,
        reason=circuit.reason,
        slow=sum(map(is_slow, circuit.outcomes)) + sum(bucket.slow for bucket in buckets),
        stale=circuit.stale,
        opened=circuit.opened,
        age=0.0 if circuit.since is None else now - circuit.since,
        breach=circuit.breach,
        fingerprint=circuit.fingerprint,
    )


def lifetime(circuit: Circuit, ttl: float, now: float) -> float:
    """Seconds for which to keep the record: idle for `ttl`, and at least while it is open."""
    busy_until = max((permit.until for permit in circuit.permits), default=circuit.until)
    return ttl + max(0.0, busy_until - now)
