"""Which circuits one process knows on a backend: by their rules, and then by their keys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from resilient.engine.circuits.known import KnownCircuit
from resilient.protocols.circuits import CircuitRules, CircuitState

if TYPE_CHECKING:
    from resilient.engine.circuits.registry import KnownCircuits

__all__ = ["Catalogue", "Table", "is_ordinary"]

MOST_KNOWN = 10_000
"""Circuits above which idle closed ones are dropped, the longest unused first."""

Table = dict[str, KnownCircuit]


class Catalogue:
    """The circuits of one backend. Thread-safe.

    Args:
        circuits: What speaks for them.
    """

    def __init__(self, circuits: KnownCircuits) -> None:
        self._circuits = circuits
        self._tables: dict[CircuitRules, Table] = {}
        self._lock = threading.Lock()
        self._crowded_above = MOST_KNOWN

    def forget(self) -> None:
        """Begin anew, in a forked child: the tables stay the same objects."""
        self._lock = threading.Lock()
        for circuit in self.all():
            circuit.renew_lock()
        for table in self._tables.values():
            table.clear()

    def table(self, rules: CircuitRules) -> Table:
        """The circuits under the same rules, by key. It stays the same object."""
        return self._tables.setdefault(rules, {})

    def circuit(self, key: str, rules: CircuitRules) -> KnownCircuit:
        """The circuit of a key; unknown at first."""
        table = self.table(rules)
        found = table.get(key)
        if found is None:
            found = table.setdefault(key, self._made(key, rules))
            if len(self) > self._crowded_above:
                self._make_room()
        return found

    def __len__(self) -> int:
        return sum(map(len, list(self._tables.values())))

    def of_key(self, key: str) -> Iterator[KnownCircuit]:
        """The circuit of a key, under each of its rules."""
        for table in list(self._tables.values()):
            circuit = table.get(key)
            if circuit is not None:
                yield circuit

    def all(self) -> list[KnownCircuit]:
        """All that are known now."""
        return [each for table in list(self._tables.values()) for each in list(table.values())]

    def _made(self, key: str, rules: CircuitRules) -> KnownCircuit:
        if rules.slow_over is None:
            return KnownCircuit(key, rules, self._circuits)
        from resilient.engine.circuits.in_flight import TimedCircuit  # imports more than the others

        return TimedCircuit(key, rules, self._circuits)

    def _make_room(self) -> None:
        """Drop the longest unused, until there is room for a tenth; never what is not closed.

        It looks at all of them, so it is not done again before so many others have come.
        """
        with self._lock:
            tenth = MOST_KNOWN // 10
            idle = [each for each in self.all() if each.is_idle and is_ordinary(each)]
            idle.sort(key=lambda circuit: circuit.used_at)
            for circuit in idle[: max(len(self) - MOST_KNOWN + tenth, 0)]:
                self._tables[circuit.rules].pop(circuit.key, None)
            self._crowded_above = max(MOST_KNOWN, len(self) + tenth)


def is_ordinary(circuit: KnownCircuit) -> bool:
    """Whether nothing is lost when this process forgets about it."""
    return circuit.state is CircuitState.CLOSED and not circuit.has_unsent
