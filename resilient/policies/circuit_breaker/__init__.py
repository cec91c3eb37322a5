"""`@circuit_breaker` and `CircuitBreaker`: a failing dependency is left alone by the whole fleet.

`rules` are the options' words, `plan` is the policy, `wrapper` the fast path in front of it,
`breaker` and `decorator` are its two forms. What one process knows of its circuits is in
`resilient.engine.circuits`.
"""

from resilient.policies.circuit_breaker.breaker import Circuit, CircuitBreaker, Guard
from resilient.policies.circuit_breaker.decorator import circuit_breaker
from resilient.policies.circuit_breaker.plan import Call
from resilient.policies.circuit_breaker.rules import (
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    Trip,
)
from resilient.protocols.circuits import CircuitState, CircuitView

__all__ = [
    "Call",
    "Circuit",
    "CircuitBreaker",
    "CircuitState",
    "CircuitView",
    "Consecutive",
    "CountWindow",
    "FailureRate",
    "Guard",
    "HalfOpen",
    "Trip",
    "circuit_breaker",
]
