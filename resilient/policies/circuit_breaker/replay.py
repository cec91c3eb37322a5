"""What a breaker would have done: recorded outcomes, run through the state machine."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitTransition

if TYPE_CHECKING:
    from resilient.engine.transactional.circuit_machine import Circuit, NewGeneration

__all__ = ["Outcome", "Replay", "replayed"]


# The state machine is imported with the first replay: a breaker on Redis never needs it.


class Outcome(NamedTuple):
    """A call that was recorded.

    Attributes:
        at: When it ended, in seconds since any moment.
        failed: Whether it was a failure.
        took: For how many seconds it ran.
    """

    at: float
    failed: bool
    took: float = 0.0


class Replay(NamedTuple):
    """What a breaker would have done.

    Attributes:
        calls: How many calls there were.
        rejected: How many of them it would have refused.
        failures_spared: Failures among those.
        transitions: The states that it would have come into; their age is counted from the last
            call.
    """

    calls: int
    rejected: int
    failures_spared: int
    transitions: list[CircuitTransition]


def replayed(rules: CircuitRules, outcomes: Iterable[Outcome]) -> Replay:
    """Run recorded outcomes through a circuit of one process, one probe at a time."""
    from resilient.engine.transactional.circuit_machine import Circuit

    numbers = count(2)
    circuit = Circuit(CircuitState.CLOSED.value, 1)
    moves: list[tuple[float, Circuit, Circuit]] = []
    calls = rejected = spared = 0
    now = 0.0
    for at, failed, took in outcomes:
        calls, now = calls + 1, at
        slow = rules.slow_over is not None and took > rules.slow_over
        outcome = str(failed + 2 * slow)
        for after in _steps(circuit, outcome, rules, at, lambda: next(numbers)):
            if after is None:
                rejected, spared = rejected + 1, spared + failed
                break
            if after.generation != circuit.generation:
                moves.append((at, circuit, after))
            circuit = after
    return Replay(
        calls,
        rejected,
        spared,
        [
            CircuitTransition(
                now - moment,
                CircuitState(before.state),
                CircuitState(after.state),
                after.reason,
                after.generation,
            )
            for moment, before, after in moves
        ],
    )


def _steps(
    circuit: Circuit, outcome: str, rules: CircuitRules, now: float, draw: NewGeneration
) -> Iterable[Circuit | None]:
    """The circuit after each step of a call that ended now; `None`: it is refused."""
    from resilient.engine.transactional import circuit_machine as machine

    circuit = machine.time_over(circuit, rules, draw, now)
    yield circuit
    if circuit.state == CircuitState.CLOSED:
        yield machine.recorded(circuit, outcome, rules, now, draw)
        return
    if circuit.state == CircuitState.HALF_OPEN:
        probing = machine.admitted(circuit, "replay", rules, now)
        if probing is not None:
            yield machine.reported(probing, "replay", outcome, rules, now, draw)
            return
    yield None
