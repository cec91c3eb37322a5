"""Circuit breakers on Redis.

A circuit is one hash that holds its window as a string of outcomes; the probes of a half-open round
lie beside it, by the moment when their permits lapse. The state machine is `lua/circuits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient.backends.redis.commands import Plain, Script, milliseconds, text
from resilient.backends.redis.keys import Keys
from resilient.engine.plan import Ask, Transport
from resilient.protocols.circuits import (
    Admission,
    CircuitRules,
    CircuitState,
    CircuitView,
    Verdict,
)

__all__ = ["RedisCircuits"]

VIEW, RECORD, ADMIT, REPORT, FORCE = (
    Script(f"circuits/{name}", shared="circuits/machine")
    for name in ("view", "record", "admit", "report", "force")
)

OPEN_FOR_WITHOUT_RULES = 60_000
"""Milliseconds for which a circuit stays open that was forced open without rules."""


class RedisCircuits:
    """Shared windows and probe permits (`resilient.protocols.circuits.CircuitStore`)."""

    def __init__(self, transport: Transport, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl

    async def view(self, key: str) -> CircuitView:
        """The circuit now."""
        return _view(await Ask(self._transport, VIEW(self._names(key))))

    async def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, generation: int | None = None
    ) -> CircuitView:
        """Add outcomes to a closed circuit's window and judge it after each of them."""
        call = RECORD(
            self._names(key),
            *self._common(key, rules.ttl),
            outcomes,
            "" if generation is None else generation,
            rules.window,
            rules.min_calls,
            _rate(rules),
            "" if rules.consecutive is None else rules.consecutive,
            _open_for(rules),
            repeatable=False,  # sent twice it would count twice
        )
        return _view(await Ask(self._transport, call))

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits."""
        call = ADMIT(
            self._names(key),
            *self._common(key, rules.ttl),
            token,
            rules.permits,
            milliseconds(rules.lease, "lease"),
            _rate(rules),
            _open_for(rules),
        )
        verdict, retry_after, seen = await Ask(self._transport, call)
        return Admission(Verdict(text(verdict)), _view(seen), retry_after / 1e6)

    async def report(
        self, key: str, *, rules: CircuitRules, token: str, generation: int, outcome: str
    ) -> CircuitView:
        """Report a probe."""
        call = REPORT(
            self._names(key),
            *self._common(key, rules.ttl),
            token,
            generation,
            outcome,
            rules.permits,
            _rate(rules),
            _open_for(rules),
        )
        return _view(await Ask(self._transport, call))

    async def force(
        self, key: str, state: CircuitState, *, rules: CircuitRules | None = None
    ) -> CircuitView:
        """Put the circuit into a state by hand."""
        ttl = self._max_ttl() if rules is None else rules.ttl
        open_for = OPEN_FOR_WITHOUT_RULES if rules is None else _open_for(rules)
        call = FORCE(self._names(key), *self._common(key, ttl), CircuitState(state), open_for)
        return _view(await Ask(self._transport, call))

    async def delete(self, key: str) -> bool:
        """Forget the circuit."""
        return bool(await Ask(self._transport, Plain("DEL", *self._names(key))))

    def _names(self, key: str) -> list[str]:
        return self._keys.names("circuit", key, "probes")

    def _common(self, key: str, ttl: float) -> tuple[str, str, int]:
        return key, self._keys.broadcast("circuits"), milliseconds(ttl, "ttl")


def _rate(rules: CircuitRules) -> float | str:
    return "" if rules.failure_rate is None else rules.failure_rate


def _open_for(rules: CircuitRules) -> int:
    return milliseconds(rules.open_for, "open_for")


def _view(fields: list[Any]) -> CircuitView:
    state, generation, reopens, calls, failures, consecutive, failed, succeeded, reason = fields
    return CircuitView(
        state=CircuitState(text(state)),
        generation=int(generation),
        reopens_in=reopens / 1e6,
        calls=calls,
        failures=failures,
        consecutive=consecutive,
        last_failure=None if failed < 0 else failed / 1e6,
        last_success=None if succeeded < 0 else succeeded / 1e6,
        reason=text(reason),
    )
