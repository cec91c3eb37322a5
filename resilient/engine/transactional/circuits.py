"""Circuit breakers over transactions: the state machine, stored and announced."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from resilient.engine.transactional import circuit_machine as machine
from resilient.engine.transactional.circuit_machine import Circuit
from resilient.engine.transactional.store import Record, Table, Transaction, TransactionalStore
from resilient.protocols.circuits import (
    HISTORY,
    Admission,
    CircuitRules,
    CircuitState,
    CircuitTransition,
    CircuitView,
    Verdict,
    announcement,
    fingerprint,
    lasting,
)

__all__ = ["TransactionalCircuits"]


class Move(Record, frozen=True, array_like=True):
    """One transition: when it was, and the fields of `CircuitTransition`."""

    moment: float
    before: str
    after: str
    reason: str
    generation: int


class History(Record, frozen=True, array_like=True):
    """The latest transitions of a circuit, the newest first."""

    moves: tuple[Move, ...] = ()


CIRCUITS = Table("circuit", Circuit)
HISTORIES = Table("circuithistory", History)
CHANNEL = "circuits"
HISTORY_LIVES = 30 * 86400.0
"""Seconds for which the transitions are remembered, also of a circuit that is idle."""


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
        self,
        key: str,
        *,
        rules: CircuitRules,
        outcomes: str,
        generation: int | None = None,
        age: float = 0.0,
        retry_after: float = 0.0,
        node: str = "",
        breached: bool = False,
    ) -> CircuitView:
        """Add outcomes to a closed circuit's window and judge it after each of them."""

        def work(tx: Transaction) -> CircuitView:
            before = tx.get(CIRCUITS, key)
            if not (outcomes or node) or (before is None and generation):
                return machine.view(before, tx.now)  # the latter is of a circuit that was lost
            was = before or never_seen(tx)
            is_theirs = generation is None or generation in (0, was.generation)
            circuit = moved_on(tx, key, was, rules)
            state = CircuitState(circuit.state)
            if not state.lets_through or not is_theirs:
                after = msgspec.structs.replace(circuit, stale=circuit.stale + calls_in(outcomes))
            elif state is CircuitState.DISABLED:
                after = circuit
            else:
                after = machine.polled(circuit, node, breached, rules, tx.now, tx.tick, retry_after)
                if after.generation == circuit.generation:
                    after = machine.recorded(
                        after, outcomes, rules, tx.now, tx.tick, age, retry_after
                    )
            if after is not circuit:
                after = msgspec.structs.replace(after, fingerprint=fingerprint(rules))
            seen = stored(tx, key, circuit, after, rules.ttl)
            return seen._replace(fingerprint=was.fingerprint)

        return await self._store.change(work)

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits."""
        return await self._store.change(lambda tx: admit(tx, key, rules, token))

    async def report(
        self,
        key: str,
        *,
        rules: CircuitRules,
        token: str,
        generation: int,
        outcome: str,
        retry_after: float = 0.0,
    ) -> CircuitView:
        """Report a probe."""

        def work(tx: Transaction) -> CircuitView:
            circuit = tx.get(CIRCUITS, key)
            if circuit is None:
                return machine.view(None, tx.now)
            if circuit.generation != generation:
                stale = circuit.stale + calls_in(outcome)
                return stored(
                    tx, key, circuit, msgspec.structs.replace(circuit, stale=stale), rules.ttl
                )
            if not any(p.token == token and p.until > tx.now for p in circuit.permits):
                return machine.view(circuit, tx.now)
            after = machine.reported(circuit, token, outcome, rules, tx.now, tx.tick, retry_after)
            return stored(tx, key, circuit, after, rules.ttl)

        return await self._store.change(work)

    async def force(
        self,
        key: str,
        state: CircuitState,
        *,
        rules: CircuitRules | None = None,
        lasts: float | None = None,
        reason: str = "forced",
    ) -> CircuitView:
        """Put the circuit into a state by hand."""
        put, longest = CircuitState(state), self._max_ttl()
        stays = lasting(put, rules, lasts, longest)

        def work(tx: Transaction) -> CircuitView:
            circuit = tx.get(CIRCUITS, key) or never_seen(tx)
            after = machine.entered(
                circuit,
                put,
                reason.replace("|", "/"),
                tx.tick(),
                tx.now,
                until=0.0 if stays is None else tx.now + stays,
                opened=int(put is CircuitState.OPEN),
            )
            return stored(tx, key, circuit, after, longest if rules is None else rules.ttl)

        return await self._store.change(work)

    async def restore(self, key: str, *, rules: CircuitRules, view: CircuitView) -> CircuitView:
        """Tell a store that has lost its data what this circuit was."""

        def work(tx: Transaction) -> CircuitView:
            circuit = tx.get(CIRCUITS, key)
            if (
                circuit is not None
                and circuit.since is not None
                and circuit.generation >= view.generation
            ):
                return machine.view(circuit, tx.now)
            before = circuit or never_seen(tx)
            after = machine.entered(
                before,
                view.state,
                "restored",
                tx.tick(),
                tx.now,
                until=tx.now + view.reopens_in,
                opened=view.opened,
            )
            return stored(tx, key, before, after, rules.ttl)

        return await self._store.change(work)

    async def history(self, key: str) -> list[CircuitTransition]:
        """The latest transitions, the newest first."""

        def work(tx: Transaction) -> list[CircuitTransition]:
            moves = (tx.get(HISTORIES, key) or History()).moves
            return [
                CircuitTransition(
                    tx.now - each.moment,
                    CircuitState(each.before),
                    CircuitState(each.after),
                    each.reason,
                    each.generation,
                )
                for each in moves
            ]

        return await self._store.read(work)

    async def delete(self, key: str) -> bool:
        """Forget the circuit."""

        def work(tx: Transaction) -> bool:
            if tx.get(CIRCUITS, key) is None:
                return False
            tx.delete(CIRCUITS, key)
            tx.delete(HISTORIES, key)
            return True

        return await self._store.change(work)


def admit(tx: Transaction, key: str, rules: CircuitRules, token: str) -> Admission:
    """Let the call through, or as a probe, or refuse it."""
    before = tx.get(CIRCUITS, key)
    if before is None:
        return Admission(Verdict.ALLOWED, machine.view(before, tx.now), 0.0)
    before = moved_on(tx, key, before, rules)
    circuit = before
    if circuit.state == CircuitState.HALF_OPEN:
        circuit = machine.without_dead_probes(circuit, tx.now)
        probing = machine.admitted(circuit, token, rules, tx.now)
        if probing is not None:
            return Admission(Verdict.PROBE, stored(tx, key, before, probing, rules.ttl), 0.0)
        if not circuit.permits:  # all have ended, under rules that asked for more of them
            circuit = machine.judged(circuit, rules, tx.now, tx.tick)
    seen = stored(tx, key, before, circuit, rules.ttl)
    if seen.state.lets_through:
        return Admission(Verdict.ALLOWED, seen, 0.0)
    return Admission(Verdict.REFUSED, seen, machine.retry_after(circuit, tx.now))


def moved_on(tx: Transaction, key: str, circuit: Circuit, rules: CircuitRules) -> Circuit:
    """The circuit after what was to last until now: a transition of its own."""
    after = machine.time_over(circuit, rules, tx.tick, tx.now)
    stored(tx, key, circuit, after, rules.ttl)
    return after


def calls_in(outcomes: str) -> int:
    """How many calls these outcomes count."""
    return sum(outcome in "0123s" for outcome in outcomes)


def never_seen(tx: Transaction) -> Circuit:
    """A new circuit. Its generation comes from the clock: none that was lost is used again."""
    return Circuit(CircuitState.CLOSED.value, tx.tick())


def stored(tx: Transaction, key: str, before: Circuit, after: Circuit, ttl: float) -> CircuitView:
    """Keep a circuit that has changed; a transition is remembered and announced too."""
    seen = machine.view(after, tx.now)
    if after is before:
        return seen
    lives = machine.lifetime(after, ttl, tx.now)
    tx.put(CIRCUITS, key, after, ttl=lives)
    if after.generation != before.generation:
        moves = (tx.get(HISTORIES, key) or History()).moves
        move = Move(tx.now, before.state, after.state, after.reason, after.generation)
        tx.put(HISTORIES, key, History((move, *moves)[:HISTORY]), ttl=HISTORY_LIVES)
        tx.publish(CHANNEL, announcement(key, seen))
    return seen
