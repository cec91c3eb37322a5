"""`@circuit_breaker` and `CircuitBreaker`: a failing dependency is left alone by the whole fleet.

`rules` and `recovery` are the options' words and `options` reads them; `plan` is the policy,
`calls` what it lets through, `wrapper` the fast path in front of it; `breaker` and `decorator` are
its two forms, `circuit` what can be done by hand, `replay` what would have been done. What one
process knows of its circuits is in `resilient.engine.circuits`.
"""

from resilient.policies.circuit_breaker.breaker import CircuitBreaker, Guard
from resilient.policies.circuit_breaker.calls import Call
from resilient.policies.circuit_breaker.circuit import Circuit
from resilient.policies.circuit_breaker.decorator import circuit_breaker
from resilient.policies.circuit_breaker.recovery import Backoff, HalfOpen, Quorum, Ramp
from resilient.policies.circuit_breaker.replay import Outcome, Replay
from resilient.policies.circuit_breaker.rules import (
    Consecutive,
    CountWindow,
    FailureRate,
    SlowRate,
    TimeWindow,
    Trip,
)
from resilient.protocols.circuits import CircuitState, CircuitTransition, CircuitView

__all__ = [
    "Backoff",
    "Call",
    "Circuit",
    "CircuitBreaker",
    "CircuitState",
    "CircuitTransition",
    "CircuitView",
    "Consecutive",
    "CountWindow",
    "FailureRate",
    "Guard",
    "HalfOpen",
    "Outcome",
    "Quorum",
    "Ramp",
    "Replay",
    "SlowRate",
    "TimeWindow",
    "Trip",
    "circuit_breaker",
]
