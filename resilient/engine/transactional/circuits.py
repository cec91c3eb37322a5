"""Circuit breakers over transactions: the state machine, stored and announced."""

from __future__ import annotations

from collections.abc import Callable

from resilient.engine.transactional import circuit_machine as machine
from resilient.engine.transactional.circuit_machine import Circuit
from resilient.engine.transactional.store import Table, Transaction, TransactionalStore
from resilient.protocols.circuits import (
    Admission,
    CircuitRules,
    CircuitState,
    CircuitView,
    Verdict,
    announcement,
)

__all__ = ["TransactionalCircuits"]

CIRCUITS = Table("circuit", Circuit)
CHANNEL = "circuits"


class TransactionalCircuits:
    """`CircuitStore` (`resilient.protocols.circuits`) over any store with transactions.

    Args:
        store: Where the circuits are kept.
        max_ttl: Seconds for which a circuit is kept that was forced without rules.
    """

    def __init__(self, store: TransactionalStore, max_ttl: Callable[[], float]) -> None:
        self._store = store
        self._max_ttl = max_ttl

    async def view(self, key: str) -> CircuitView:
        """The circuit now."""
        return await self._store.read(lambda tx: machine.view(tx.get(CIRCUITS, key), tx.now))

    async def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, generation: int | None = None
    ) -> CircuitView:
        """Add outcomes to a closed circuit's window and judge it after each of them."""
        return await self._store.change(lambda tx: record(tx, key, rules, outcomes, generation))

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits."""
        return await self._store.change(lambda tx: admit(tx, key, rules, token))

    async def report(
        self, key: str, *, rules: CircuitRules, token: str, generation: int, outcome: str
    ) -> CircuitView:
        """Report a probe."""
        return await self._store.change(
            lambda tx: report(tx, key, rules, token, generation, outcome)
        )

    async def force(
        self, key: str, state: CircuitState, *, rules: CircuitRules | None = None
    ) -> CircuitView:
        """Put the circuit into a state by hand."""
        ttl = self._max_ttl() if rules is None else rules.ttl
        return await self._store.change(lambda tx: force(tx, key, state, rules, ttl))

    async def delete(self, key: str) -> bool:
        """Forget the circuit."""
        return await self._store.change(lambda tx: delete(tx, key))


def record(
    tx: Transaction, key: str, rules: CircuitRules, outcomes: str, generation: int | None
) -> CircuitView:
    """Count what belongs to the circuit's present generation."""
    before = tx.get(CIRCUITS, key)
    circuit = before or never_seen(tx)
    counts = generation is None or generation in (0, circuit.generation)
    if circuit.state != CircuitState.CLOSED or not counts or not outcomes:
        return machine.view(before, tx.now)
    after = machine.recorded(circuit, outcomes, rules, tx.now, tx.tick)
    return stored(tx, key, circuit, after, rules.ttl)


def admit(tx: Transaction, key: str, rules: CircuitRules, token: str) -> Admission:
    """Let the call through, or as a probe, or refuse it."""
    before = tx.get(CIRCUITS, key)
    if before is None or before.state == CircuitState.CLOSED:
        return Admission(Verdict.ALLOWED, machine.view(before, tx.now), 0.0)
    circuit = machine.opened_for_probes(before, tx.tick, tx.now)
    if circuit.state == CircuitState.HALF_OPEN:
        circuit = machine.without_dead_probes(circuit, tx.now)
        probing = machine.admitted(circuit, token, rules, tx.now)
        if probing is not None:
            return Admission(Verdict.PROBE, stored(tx, key, before, probing, rules.ttl), 0.0)
        if not circuit.permits:  # all have ended, under rules that asked for more of them
            circuit = machine.judged(circuit, rules, tx.now, tx.tick)
    seen = stored(tx, key, before, circuit, rules.ttl)
    if seen.state is CircuitState.CLOSED:
        return Admission(Verdict.ALLOWED, seen, 0.0)
    return Admission(Verdict.REFUSED, seen, machine.retry_after(circuit, tx.now))


def report(
    tx: Transaction, key: str, rules: CircuitRules, token: str, generation: int, outcome: str
) -> CircuitView:
    """Count a probe's outcome, if its permit is alive."""
    circuit = tx.get(CIRCUITS, key)
    if (
        circuit is None
        or circuit.state != CircuitState.HALF_OPEN
        or circuit.generation != generation
        or not any(p.token == token and p.until > tx.now for p in circuit.permits)
    ):
        return machine.view(circuit, tx.now)
    after = machine.reported(circuit, token, outcome, rules, tx.now, tx.tick)
    return stored(tx, key, circuit, after, rules.ttl)


def force(
    tx: Transaction, key: str, state: CircuitState, rules: CircuitRules | None, ttl: float
) -> CircuitView:
    """Make a transition by hand."""
    circuit = tx.get(CIRCUITS, key) or never_seen(tx)
    after = machine.forced(circuit, state, rules, tx.now, tx.tick)
    return stored(tx, key, circuit, after, ttl)


def delete(tx: Transaction, key: str) -> bool:
    """Forget the circuit."""
    if tx.get(CIRCUITS, key) is None:
        return False
    tx.delete(CIRCUITS, key)
    return True


def never_seen(tx: Transaction) -> Circuit:
    """A new circuit. Its generation comes from the clock: none that was lost is used again."""
    return Circuit(CircuitState.CLOSED.value, tx.tick())


def stored(tx: Transaction, key: str, before: Circuit, after: Circuit, ttl: float) -> CircuitView:
    """Keep a circuit that has changed, and announce it if that was a transition."""
    seen = machine.view(after, tx.now)
    if after is not before:
        tx.put(CIRCUITS, key, after, ttl=machine.lifetime(after, ttl, tx.now))
    if after.generation != before.generation:
        tx.publish(CHANNEL, announcement(key, seen))
    return seen
