"""The circuit breaker's state machine, as a table: states by events, and the diagram of it.

Every store moves circuits by these transitions alone (`resilient.engine.transactional`, and the
scripts of the Redis backend, which a test holds against the table).
"""

from __future__ import annotations

from resilient.protocols.circuits import CircuitState

__all__ = ["BY_HAND", "TRANSITIONS", "diagram"]

S = CircuitState

TRANSITIONS: dict[tuple[CircuitState, str], CircuitState] = {
    (S.CLOSED, "failure_rate"): S.OPEN,
    (S.CLOSED, "slow_rate"): S.OPEN,
    (S.CLOSED, "consecutive"): S.OPEN,
    (S.CLOSED, "quorum"): S.OPEN,
    (S.OPEN, "wait_elapsed"): S.HALF_OPEN,
    (S.HALF_OPEN, "probes_passed"): S.CLOSED,
    (S.HALF_OPEN, "probes_failed"): S.OPEN,
    (S.FORCED_OPEN, "override_ended"): S.HALF_OPEN,
    (S.FORCED_CLOSED, "override_ended"): S.CLOSED,
    (S.METRICS_ONLY, "override_ended"): S.CLOSED,
    (S.DISABLED, "override_ended"): S.CLOSED,
}
"""Where each event leads. What is not here cannot happen."""

BY_HAND = frozenset({"forced", "restored"})
"""Events that lead from any state to the one that they name: what somebody does by hand, and what a
store that has lost its data is told again."""


def diagram() -> str:
    """The table as a Mermaid state diagram, which the documentation shows."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        arrows.setdefault((before.value, after.value), []).append(event)
    lines = [f"    {before} --> {after}: {', '.join(e)}" for (before, after), e in arrows.items()]
    forced = [f"    [*] --> {state.value}: forced" for state in S if state.is_forced]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {S.CLOSED.value}", *lines, *forced])
