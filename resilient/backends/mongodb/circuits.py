"""Circuit breakers on MongoDB: one document a circuit, with its window and its history.

The state machine is `circuit_pipelines.py`; the rules go with each operation.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from bson.int64 import Int64

from resilient.backends.mongodb import circuit_pipelines as become
from resilient.backends.mongodb.circuit_windows import runs_of
from resilient.backends.mongodb.commands import Change, Document, Look, Pipeline, compiled
from resilient.backends.mongodb.expressions import NOW, put
from resilient.backends.mongodb.keys import Keys
from resilient.backends.mongodb.waking import escaped
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

__all__ = ["MongoCircuits"]

CIRCUITS = "circuits"
DURATIONS = frozenset({"open_for", "lease", "ttl", "seconds", "longest", "calm"})
AT_ONCE = compiled(put(at=NOW))
NEVER_SEEN = CircuitView(CircuitState.CLOSED, 0, 0.0, 0, 0, 0, None, None, "")


class MongoCircuits:
    """Shared windows and probe permits (`resilient.protocols.circuits.CircuitStore`)."""

    def __init__(self, transport: Transport[Any], keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl
        self._channel = keys.broadcast("circuits")

    async def view(self, key: str) -> CircuitView:
        """The circuit now."""
        circuit = await self._look(key)
        is_known = circuit is not None and circuit["expires"] > circuit["at"]
        return _view(circuit if is_known else None)

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
        if not (outcomes or node):
            return await self.view(key)
        arguments = {
            **_written(rules),
            "outcomes": outcomes,
            "runs": runs_of(outcomes),
            "successes": "0" * min(len(outcomes), rules.window),
            "calls": _calls_in(outcomes),
            "admitted": bool(generation),
            "generation": generation or 0,
            "age": _microseconds(age),
            "retry_after": _microseconds(retry_after),
            "node": node,
            "breached": breached,
            "fingerprint": fingerprint(rules),
            "batch": secrets.token_hex(8),  # by which it is known when it is sent again
        }
        pipeline = become.RECORD_COUNTED if rules.seconds is None else become.RECORD_TIMED
        circuit = await self._change(key, pipeline, arguments)
        seen = _view(circuit)
        return seen._replace(fingerprint=circuit["fingerprint_before"]) if circuit else seen

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits."""
        arguments = {**_written(rules), "token": token, "retry_after": 0}
        circuit = await self._change(key, become.ADMIT, arguments, upsert=False)
        if circuit is None or circuit["turn"] == "allowed":
            return Admission(Verdict.ALLOWED, _view(circuit), 0.0)
        if circuit["turn"] in ("probe", "new probe"):
            return Admission(Verdict.PROBE, _view(circuit), 0.0)
        return Admission(Verdict.REFUSED, _view(circuit), _retry_after(circuit))

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
        arguments = {
            **_written(rules),
            "token": token,
            "generation": generation,
            "outcome": outcome,
            "calls": _calls_in(outcome),
            "retry_after": _microseconds(retry_after),
        }
        return _view(await self._change(key, become.REPORT, arguments, upsert=False))

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
        reason = reason.replace("|", "/")
        arguments = {
            "state": state.value,
            "has_end": stays is not None,
            "lasts": _microseconds(stays or 0.0),
            "opened": int(state is CircuitState.OPEN),
            "reason": reason,
            "told": escaped(reason),
            "ttl": _microseconds(self._max_ttl() if rules is None else rules.ttl),
        }
        return _view(await self._change(key, become.FORCE, arguments))

    async def restore(self, key: str, *, rules: CircuitRules, view: CircuitView) -> CircuitView:
        """Tell a store that has lost its data what this circuit was."""
        arguments = {
            "state": view.state.value,
            "has_end": True,
            "lasts": _microseconds(view.reopens_in),
            "opened": view.opened,
            "reason": "restored",
            "seen": view.generation,
            "ttl": _microseconds(rules.ttl),
        }
        return _view(await self._change(key, become.RESTORE, arguments))

    async def history(self, key: str) -> list[CircuitTransition]:
        """The latest transitions, the newest first."""
        circuit = await self._look(key)
        if circuit is None or circuit["remembered"] <= circuit["at"]:
            return []
        return [
            CircuitTransition(
                (circuit["at"] - move["at"]) / 1e6,
                CircuitState(move["before"]),
                CircuitState(move["after"]),
                move["reason"],
                int(move["generation"]),
            )
            for move in circuit["history"]
        ]

    async def delete(self, key: str) -> bool:
        """Forget the circuit."""
        circuit = await self._change(key, become.DELETE, {}, upsert=False)
        return circuit is not None and bool(circuit["turn"])

    # --- inside

    async def _change(
        self,
        key: str,
        pipeline: Pipeline,
        arguments: Mapping[str, Any],
        *,
        upsert: bool = True,
    ) -> Document | None:
        """The circuit afterwards; `None` if it is not known then."""
        change = Change(
            CIRCUITS,
            self._keys.name(key),
            pipeline,
            {**arguments, "channel": self._channel, "name": escaped(key)},
            read=_same,
            upsert=upsert,
        )
        circuit: Document | None = await Ask(self._transport, change)
        return circuit

    async def _look(self, key: str) -> Document | None:
        look = Look(CIRCUITS, {"_id": self._keys.name(key)}, AT_ONCE, read=_one)
        circuit: Document | None = await Ask(self._transport, look)
        return circuit


def _same(document: Document | None) -> Document | None:
    return document


def _one(found: list[Document]) -> Document | None:
    return found[0] if found else None


@lru_cache(maxsize=1024)
def _written(rules: CircuitRules) -> Mapping[str, Any]:
    """The rules as the server applies them, and for how long the circuit is remembered."""
    fields: dict[str, Any] = {}
    for name, value in rules._asdict().items():
        if value is not None and name in DURATIONS:
            fields[name] = Int64(_microseconds(value))
        else:
            fields[name] = Int64(value) if type(value) is int else value
    fields["longest"] = fields["longest"] or fields["open_for"]
    return {"rules": fields, "ttl": _microseconds(rules.ttl)}


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _calls_in(outcomes: str) -> int:
    """How many calls these outcomes count."""
    return sum(outcome in "0123s" for outcome in outcomes)


# --- what callers see


def _retry_after(circuit: Document) -> float:
    """Seconds after which a refused caller may ask again."""
    if circuit["state"] != CircuitState.HALF_OPEN:
        return max(0, int(circuit["until"] - circuit["at"])) / 1e6
    # Half-open: a probe may report at any moment, and its permit is free by then at the latest.
    left = [int(permit["until"] - circuit["at"]) for permit in circuit["permits"]]
    return min(left, default=0) / 1e6


def _view(circuit: Document | None) -> CircuitView:
    if circuit is None or not circuit["known"]:
        return NEVER_SEEN
    at, outcomes = circuit["at"], circuit["outcomes"]
    state = CircuitState(circuit["state"])
    is_over = state.is_forced and state.lets_through and at >= circuit["until"]
    buckets = [bucket for bucket in circuit["buckets"] if bucket["until"] > at]

    def since(moment: int | None) -> float | None:
        return None if moment is None else (at - moment) / 1e6

    def count(kinds: str, field: str) -> int:
        in_ring = sum(outcome in kinds for outcome in outcomes)
        return in_ring + sum(int(bucket[field]) for bucket in buckets)

    return CircuitView(
        state=CircuitState.CLOSED if is_over else state,
        generation=int(circuit["generation"]),
        reopens_in=max(0.0, (circuit["until"] - at) / 1e6),
        calls=count("0123", "calls"),
        failures=count("13", "failures"),
        consecutive=int(circuit["consecutive"]),
        last_failure=since(circuit["last_failure"]),
        last_success=since(circuit["last_success"]),
        reason=circuit["reason"],
        slow=count("23", "slow"),
        stale=int(circuit["stale"]),
        opened=int(circuit["opened"]),
        age=since(circuit["since"]) or 0.0,
        breach=circuit["breach"],
        fingerprint=circuit["fingerprint"],
    )
