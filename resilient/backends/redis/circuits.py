"""Circuit breakers on Redis.

A circuit is one hash that holds its window as a string of outcomes, or of buckets; the probes of a
half-open round lie beside it, by the moment when their permits lapse. The state machine is
`lua/circuits`; the rules go with each operation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from resilient.backends.redis.commands import Plain, Script, text
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.server import Server
from resilient.engine.plan import Ask
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

__all__ = ["RedisCircuits"]

VIEW, ADMIT, REPORT, FORCE, RESTORE, HISTORY = (
    Script(f"circuits/{name}", shared=("circuits/machine",))
    for name in ("view", "admit", "report", "force", "restore", "history")
)
RECORD = Script("circuits/record", shared=("circuits/machine", "circuits/windows"))

DURATIONS = frozenset({"open_for", "lease", "ttl", "seconds", "longest", "calm"})
FOR_CALLERS = frozenset({"slow_over", "ramp", "ramp_start"})
"""Rules that the callers apply: no script reads them."""


class RedisCircuits:
    """Shared windows and probe permits (`resilient.protocols.circuits.CircuitStore`)."""

    def __init__(self, transport: Server, keys: Keys, max_ttl: Callable[[], float]) -> None:
        self._transport = transport
        self._keys = keys
        self._max_ttl = max_ttl

    async def view(self, key: str) -> CircuitView:
        """The circuit now."""
        return _view(await self._ask(VIEW, key, None))

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
            rules,
            outcomes,
            "" if generation is None else generation,
            _microseconds(age),
            _microseconds(retry_after),
            fingerprint(rules),
            node.replace(",", " ").replace(";", " "),
            int(breached),
            repeatable=False,  # sent twice it would count twice
        )
        return _view(answer)

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits."""
        verdict, retry_after, seen = await self._ask(ADMIT, key, rules, token)
        return Admission(Verdict(text(verdict)), _view(seen), retry_after / 1e6)

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
        return _view(
            await self._ask(
                REPORT, key, rules, token, generation, outcome, _microseconds(retry_after)
            )
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
        ends = "" if stays is None else _microseconds(stays)
        return _view(await self._ask(FORCE, key, rules, state, reason, ends))

    async def restore(self, key: str, *, rules: CircuitRules, view: CircuitView) -> CircuitView:
        """Tell a store that has lost its data what this circuit was."""
        left = _microseconds(view.reopens_in)
        return _view(
            await self._ask(RESTORE, key, rules, view.state, view.generation, left, view.opened)
        )

    async def history(self, key: str) -> list[CircuitTransition]:
        """The latest transitions, the newest first."""
        now, lines = await self._ask(HISTORY, key, None)
        return [_transition(line, int(now)) for line in text(lines).splitlines()]

    async def delete(self, key: str) -> bool:
        """Forget the circuit."""
        names = self._names(key)
        return bool(await Ask(self._transport, Plain("DEL", *names, key=names[0])))

    async def _ask(
        self,
        script: Script,
        key: str,
        rules: CircuitRules | None,
        *words: str | int,
        repeatable: bool = True,
    ) -> Any:
        written = _written(rules) if rules else f'{{"ttl":{_microseconds(self._max_ttl())}}}'
        names = self._names(key)
        channel = self._transport.broadcast(self._keys.broadcast("circuits"), names[0])
        call = script(names, key, channel, written, *words, repeatable=repeatable)
        return await Ask(self._transport, call)

    def _names(self, key: str) -> list[str]:
        return self._keys.names("circuit", key, "probes")


@lru_cache(maxsize=1024)
def _written(rules: CircuitRules) -> str:
    """The rules as the scripts read them: what is not set is left out."""
    told = {
        name: _microseconds(value) if name in DURATIONS else value
        for name, value in rules._asdict().items()
        if value is not None and name not in FOR_CALLERS
    }
    return json.dumps(told, separators=(",", ":"))


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _transition(line: str, now: int) -> CircuitTransition:
    moment, before, after, reason, generation = line.split("|")
    age = (now - int(moment)) / 1e6
    return CircuitTransition(
        age, CircuitState(before), CircuitState(after), reason, int(generation)
    )


def _view(fields: list[Any]) -> CircuitView:
    state, generation, left, calls, failures, consecutive, failed, succeeded, reason = fields[:9]
    slow, stale, opened, age, breach, rules = fields[9:]
    return CircuitView(
        state=CircuitState(text(state)),
        generation=int(generation),
        reopens_in=left / 1e6,
        calls=calls,
        failures=failures,
        consecutive=consecutive,
        last_failure=None if failed < 0 else failed / 1e6,
        last_success=None if succeeded < 0 else succeeded / 1e6,
        reason=text(reason),
        slow=slow,
        stale=stale,
        opened=opened,
        age=age / 1e6,
        breach=text(breach),
        fingerprint=text(rules),
    )
