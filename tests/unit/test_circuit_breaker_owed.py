"""Permits of which the server is to be told in the background, and cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.backends.memory import MemoryBackend
from resilient.engine.circuits import registry
from resilient.engine.circuits.permits import OwedPermit
from resilient.engine.circuits.registry import KnownCircuits
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import NOW
from resilient.errors import BackendError
from resilient.protocols.circuits import CircuitStore, CircuitView


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
