"""Circuit breakers on PostgreSQL: a row for the state, another for the window.

The state machine is `sql/circuit_machine.sql`; the rules go with each operation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from resilient.backends.postgres.commands import Call, Function, same
from resilient.backends.postgres.keys import Keys
from resilient.backends.postgres.texts import Argument, Row
from resilient.engine.plan import Ask, Transport
from resilient.protocols.circuits import (
    Admission,
    CircuitRules,
    CircuitState,
    CircuitTransition,
    CircuitView,
    Verdict,
    fingerprint,
    lasting,
)

__all__ = ["PostgresCircuits"]

NOW = Function("circuit_now", read=same)
RECORD = Function("circuit_record", read=same, repeatable=False)
"""Sent twice it would count twice."""
ADMIT = Function("circuit_admit", read=same)
REPORT = Function("circuit_report", read=same)
FORCE = Function("circuit_force", read=same)
RESTORE = Function("circuit_restore", read=same)
HISTORY = Function("circuit_history", read=same, many=True)
DELETE = Function("circuit_delete", read=bool)
IN_ORDER = (
    *("window", "min_calls", "failure_rate", "consecutive", "open_for", "permits", "lease", "ttl"),
    *("seconds", "buckets", "slow_rate", "factor", "longest", "jitter", "calm", "concurrency"),
    *("all_must_pass", "quorum", "quorum_share"),
)
"""The rules that the server applies, as the type `rules` has them."""
DURATIONS = frozenset({"open_for", "lease", "ttl", "seconds", "longest", "calm"})


class PostgresCircuits:
    """Shared windows and probe permits (`resilient.protocols.circuits.CircuitStore`)."""

    def __init__(self, transport: Transport, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl
        self._channel = keys.broadcast("circuits")

    async def view(self, key: str) -> CircuitView:
        """The circuit now."""
        return _view(await Ask(self._transport, Call(NOW, self._keys.name(key))))

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
        answer = await self._ask(
            RECORD,
            key,
            _written(rules),
            outcomes,
            generation,
            _microseconds(age),
            _microseconds(retry_after),
            fingerprint(rules),
            node,
            breached,
        )
        return _view(answer)

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits."""
        verdict, retry_after, seen = await self._ask(ADMIT, key, _written(rules), token)
        return Admission(Verdict(verdict), _view(seen), retry_after / 1e6)

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
        wait = _microseconds(retry_after)
        return _view(
            await self._ask(REPORT, key, _written(rules), token, generation, outcome, wait)
        )

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
        state = CircuitState(state)
        stays = lasting(state, rules, lasts, self._max_ttl())
        ends = None if stays is None else _microseconds(stays)
        ttl = _microseconds(self._max_ttl() if rules is None else rules.ttl)
        reason = reason.replace("|", "/")
        return _view(await self._ask(FORCE, key, ttl, state, reason, ends))

    async def restore(self, key: str, *, rules: CircuitRules, view: CircuitView) -> CircuitView:
        """Tell a store that has lost its data what this circuit was."""
        left, ttl = _microseconds(view.reopens_in), _microseconds(rules.ttl)
        return _view(
            await self._ask(RESTORE, key, ttl, view.state, view.generation, left, view.opened)
        )

    async def history(self, key: str) -> list[CircuitTransition]:
        """The latest transitions, the newest first."""
        call = Call(HISTORY, self._keys.name(key))
        return _transitions(await Ask(self._transport, call))

    async def delete(self, key: str) -> bool:
        """Forget the circuit."""
        call = Call(DELETE, self._keys.name(key))
        return bool(await Ask(self._transport, call))

    async def _ask(self, function: Function, key: str, *words: Argument) -> Any:
        call = Call(function, self._keys.name(key), self._channel, key, *words)
        return await Ask(self._transport, call)


@lru_cache(maxsize=1024)
def _written(rules: CircuitRules) -> str:
    """The rules as the server reads a row: what is not set is left out."""
    fields = []
    for name in IN_ORDER:
        value = getattr(rules, name)
        if value is not None and name in DURATIONS:
            value = _microseconds(value)
        fields.append("" if value is None else str(value))
    return f"({','.join(fields)})"


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _transitions(rows: list[Row]) -> list[CircuitTransition]:
    return [
        CircuitTransition(age / 1e6, CircuitState(before), CircuitState(after), reason, generation)
        for age, before, after, reason, generation in rows
    ]


def _view(row: Row) -> CircuitView:
    state, generation, left, calls, failures, consecutive, failed, succeeded, reason = row[:9]
    slow, stale, opened, age, breach, rules = row[9:]
    return CircuitView(
        state=CircuitState(state),
        generation=generation,
        reopens_in=left / 1e6,
        calls=calls,
        failures=failures,
        consecutive=consecutive,
        last_failure=None if failed is None else failed / 1e6,
        last_success=None if succeeded is None else succeeded / 1e6,
        reason=reason,
        slow=slow,
        stale=stale,
        opened=opened,
        age=age / 1e6,
        breach=breach,
        fingerprint=rules,
    )
