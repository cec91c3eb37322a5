"""Permits of probes of which the server could not be told what became of them.

The reply to a request for a permit may be lost, and so may the report of a probe: the server then
keeps the permit until its lease runs out, and with it the half-open round. The token is the
client's own, and a token that asks again is given the same permit. So it is told again, in the
background, as soon as the server answers.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from resilient.engine.circuits.known import KnownCircuit
from resilient.engine.circuits.outcomes import NEITHER
from resilient.protocols.circuits import CircuitStore, CircuitView, Verdict

__all__ = ["OwedPermit", "OwedPermits"]

MOST_OWED = 1000


class OwedPermit(NamedTuple):
    """One permit.

    Attributes:
        circuit: Whose it is.
        token: Under which it was asked for.
        until: When its lease has run out at the server, on the local clock: then it is free anyway.
        generation: Of the round that it belongs to; `None`: it is not known whether it was given.
        outcome: What came of the probe; it never ran, unless you say.
        retry_after: Seconds for which the service has asked to be left alone.
    """

    circuit: KnownCircuit
    token: str
    until: float
    generation: int | None = None
    outcome: str = NEITHER
    retry_after: float = 0.0

    async def settled(self, store: CircuitStore) -> CircuitView:
        """The circuit, once the server knows; at most two trips."""
        key, rules, generation = self.circuit.key, self.circuit.rules, self.generation
        if generation is None:
            admission = await store.admit(key, rules=rules, token=self.token)
            if admission.verdict is not Verdict.PROBE:
                return admission.view
            generation = admission.view.generation
        return await store.report(
            key,
            rules=rules,
            token=self.token,
            generation=generation,
            outcome=self.outcome,
            retry_after=self.retry_after,
        )


class OwedPermits:
    """Those of one backend, the oldest first; no more than can matter. Thread-safe."""

    def __init__(self) -> None:
        self._permits: deque[OwedPermit] = deque(maxlen=MOST_OWED)

    def __bool__(self) -> bool:
        return bool(self._permits)

    def add(self, permit: OwedPermit) -> None:
        """The server is to be told of it."""
        self._permits.append(permit)

    def take(self, now: float) -> list[OwedPermit]:
        """Those whose lease has not run out, to be told or added again."""
        taken = []
        while self._permits:
            permit = self._permits.popleft()
            if now < permit.until:
                taken.append(permit)
        return taken
