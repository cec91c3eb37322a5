"""Permits of which the server is to be told in the background, and cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.backends.memory import MemoryBackend
from resilient.engine.circuits import registry
from resilient.engine.circuits.known import KnownCircuit
from resilient.engine.circuits.local_view import NEVER_SEEN
from resilient.engine.circuits.outcomes import FAILURE, SUCCESS
from resilient.engine.circuits.permits import OwedPermit
from resilient.engine.circuits.registry import KnownCircuits
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import NOW
from resilient.errors import BackendError
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitStore, CircuitView


class Untold(KnownCircuits):
    """Circuits of which nobody tells the server."""

    def touch(self, circuit: KnownCircuit) -> None:
        """Nor in the background."""

    send_at_once = touch


RULES = CircuitRules(
    window=10, min_calls=10, failure_rate=None, consecutive=1, open_for=600, permits=1, lease=10,
    ttl=600,
)  # fmt: skip
"""The first failure opens."""


class Unsettled(OwedPermit):
    """A permit of which the server is told in vain."""

    __slots__ = ()

    async def settled(self, store: CircuitStore) -> CircuitView:
        await NOW
        raise ERRORS[self.token]


ERRORS: dict[str, Exception] = {
    "away": BackendError("it is away"),
    "fault": ValueError("what is this?"),
}


def owing(*tokens: str) -> KnownCircuits:
    """The circuits of a backend, which owe it these permits."""
    backend = MemoryBackend()
    circuits = KnownCircuits(backend, MemoryBackend().require("circuits"))
    circuit: Any = None  # of none of them is ever told
    for token in tokens:
        circuits._owed.add(Unsettled(circuit, token, until=1e12))
    return circuits


def opened(backend: MemoryBackend) -> tuple[KnownCircuits, KnownCircuit]:
    """A circuit that this process has opened, of which the server has not been told."""
    circuits = Untold(backend, MemoryBackend().require("circuits"))
    circuit = KnownCircuit("k", RULES, circuits)
    circuit.noted(circuit.counter, FAILURE)
    assert (circuit.state, circuit.generation) == (CircuitState.OPEN, NEVER_SEEN)
    return circuits, circuit


def test_a_permit_that_is_settled_does_not_undo_what_has_opened_since() -> None:
    """The server has a first generation by another's outcome, and not been told of the trip."""
    backend = MemoryBackend()
    circuits, circuit = opened(backend)
    backend.sync.circuits.record("k", rules=RULES, outcomes=SUCCESS)
    circuits._owed.add(OwedPermit(circuit, "token", until=1e12))
    drive(circuits._settle(100.0))
    assert not circuits._owed.take(100.0)
    assert (circuit.state, circuit.has_unsent) == (CircuitState.OPEN, True)


def test_a_reset_counts_whenever_its_answer_comes() -> None:
    """By hand it is closed, though this process has opened it meanwhile."""
    backend = MemoryBackend()
    _, circuit = opened(backend)
    closed = backend.sync.circuits.force("k", state=CircuitState.CLOSED, reason="forced|reset")
    circuit.adopt(closed, circuit.version - 1)
    assert (circuit.state, circuit.has_unsent) == (CircuitState.CLOSED, False)


def test_what_is_not_settled_stays_owed() -> None:
    """Whatever the error: each permit is given back until its lease has run out."""
    circuits = owing("away", "fault")
    with pytest.raises(ValueError, match="what is this"):
        drive(circuits._settle(100.0))
    assert [permit.token for permit in circuits._owed.take(100.0)] == ["away", "fault"]


def test_what_cannot_be_settled_is_not_tried_without_end() -> None:
    """After an error that is not the server's there is a pause: the rest is reported meanwhile."""
    circuits = owing("fault")
    with pytest.raises(ValueError, match="what is this"):
        drive(circuits._settle(100.0))
    assert circuits.due() == 100.0 + registry.UNFORESEEN
    drive(circuits._settle(100.5))
    with pytest.raises(ValueError, match="what is this"):
        drive(circuits._settle(101.0))
    with pytest.raises(ValueError, match="what is this"):  # the backend is being closed
        drive(circuits.finish())
