"""Circuits against their model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView
from resilient.testing.conformance._machines.base import READY, Machine, World
from resilient.testing.conformance.models import circuits as models
from resilient.testing.conformance.models.circuits import CircuitModel

__all__ = ["CircuitMachine"]

RULES = {
    "rate": CircuitRules(
        window=4, min_calls=3, failure_rate=0.5, consecutive=None,
        open_for=100.0, permits=2, lease=50.0, ttl=86400.0, factor=2.0, longest=300.0,
        concurrency=1,
    ),
    "slow": CircuitRules(
        window=5, min_calls=3, failure_rate=0.8, consecutive=None, slow_rate=0.6,
        open_for=100.0, permits=3, lease=50.0, ttl=86400.0, all_must_pass=True,
    ),
    "run": CircuitRules(
        window=5, min_calls=5, failure_rate=None, consecutive=3,
        open_for=100.0, permits=1, lease=50.0, ttl=86400.0,
    ),
    "both": CircuitRules(
        window=6, min_calls=9, failure_rate=1.0, consecutive=4,
        open_for=100.0, permits=3, lease=50.0, ttl=86400.0,
    ),
}  # fmt: skip
"""Each key has rules of its own; a `min_calls` above the window means a full window."""

KEYS = st.sampled_from(sorted(RULES))
OUTCOMES = st.text(alphabet="0011123sfo", min_size=1, max_size=5)
TOKENS = st.sampled_from(["p1", "p2", "p3", "p4"])
STATES = st.sampled_from(list(CircuitState))


class CircuitMachine(Machine):
    """One circuit for each kind of rules."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model = CircuitModel()
        self._stale: dict[str, int] = {}
        """Of each key, a generation of the store that is over."""

    @rule(
        key=KEYS,
        outcomes=OUTCOMES,
        admitted=st.sampled_from(["now", "before", "unknown"]),
        ready=READY,
    )
    def record(self, key: str, outcomes: str, admitted: str, ready: bool) -> None:
        if ready and self._view(key).state != "closed":
            self.force(key, CircuitState.CLOSED, True)
        before = self._view(key)
        theirs: int | None = None
        mine: int | None = None
        if admitted == "now":
            theirs, mine = self._generation(key), before.generation
        elif admitted == "before" and key in self._stale:
            theirs, mine = self._stale[key], -1
        expected = self.model.record(
            key, rules=self._rules(key), outcomes=outcomes, generation=mine
        )
        actual = self.ask(
            self.store.record(
                self.name(key), rules=RULES[key], outcomes=outcomes, generation=theirs
            )
        )
        self._agree(key, before, expected, actual)

    @rule(key=KEYS, token=TOKENS, times=st.integers(1, 2))
    def admit(self, key: str, token: str, times: int) -> None:
        for _ in range(times):
            before = self._view(key)
            expected = self.model.admit(key, rules=self._rules(key), token=token)
            actual = self.ask(self.store.admit(self.name(key), rules=RULES[key], token=token))
            self._outdate(key, before, expected.view)
            self.agree(key, expected, actual)
            longest = max(actual.view.reopens_in, RULES[key].lease) + 1e-3
            assert 0 <= actual.retry_after <= longest, "retry_after is out of all bounds"

    @rule(
        key=KEYS,
        token=TOKENS,
        outcome=st.sampled_from("00123-"),
        fresh=st.sampled_from([True, True, True, False]),
        times=st.integers(1, 2),
        ready=READY,
    )
    def report(
        self, key: str, token: str, outcome: str, fresh: bool, times: int, ready: bool
    ) -> None:
        if ready and (self._view(key).state != "half_open" or not fresh):
            self.force(key, CircuitState.HALF_OPEN, True)
        if ready:
            self.admit(key, token, 1)
        stale = self._stale.get(key)
        generation = self._generation(key)
        mine = self._view(key).generation
        if not fresh and stale is not None:
            generation, mine = stale, -1
        for _ in range(times):
            before = self._view(key)
            expected = self.model.report(
                key, rules=self._rules(key), token=token, generation=mine, outcome=outcome
            )
            actual = self.ask(
                self.store.report(
                    self.name(key),
                    rules=RULES[key],
                    token=token,
                    generation=generation,
                    outcome=outcome,
                )
            )
            self._agree(key, before, expected, actual)

    @rule(key=KEYS, state=STATES, with_rules=st.booleans(), lasts=st.sampled_from([None, 70.0]))
    def force(
        self, key: str, state: CircuitState, with_rules: bool, lasts: float | None = None
    ) -> None:
        before = self._view(key)
        mine = self._rules(key) if with_rules else None
        theirs = RULES[key] if with_rules else None
        expected = self.model.force(key, state.value, rules=mine, lasts=lasts)
        actual = self.ask(self.store.force(self.name(key), state, rules=theirs, lasts=lasts))
        self._agree(key, before, expected, actual)

    @rule(key=KEYS, state=st.sampled_from(["open", "forced_open", "disabled"]), loses=st.booleans())
    def restore(self, key: str, state: str, loses: bool) -> None:
        """A client tells what it knew last, of a circuit that may be lost."""
        if loses:
            self.delete(key)
        before = self._view(key)
        told = CircuitView(CircuitState(state), 1, 40.0, 0, 0, 0, None, None, "", opened=1)
        expected = self.model.restore(key, state, -1, 40.0)
        actual = self.ask(self.store.restore(self.name(key), rules=RULES[key], view=told))
        self._agree(key, before, expected, actual)

    @rule(key=KEYS)
    def history(self, key: str) -> None:
        self.agree(key, self.model.history(key), self.ask(self.store.history(self.name(key))))

    @rule(key=KEYS)
    def view(self, key: str) -> None:
        self.agree(key, self._view(key), self.ask(self.store.view(self.name(key))))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        before = self._view(key)
        expected = self.model.delete(key)
        self.agree(key, expected, self.ask(self.store.delete(self.name(key))))
        self._outdate(key, before, self._view(key))

    @precondition(lambda self: self.world.advance is not None)
    @rule(key=KEYS, tokens=st.lists(TOKENS, min_size=1, max_size=4, unique=True))
    def probe_round(self, key: str, tokens: list[str]) -> None:
        """A circuit that was opened is probed: rare by chance, so it is a rule of its own."""
        self.force(key, CircuitState.OPEN, True)
        self._advance(RULES[key].open_for)
        for token in tokens:
            self.admit(key, token, 1)

    def _rules(self, key: str) -> models.CircuitRules:
        return models.CircuitRules(*RULES[key])

    def _view(self, key: str) -> models.CircuitView:
        view: models.CircuitView = self.model.view(key)
        return view

    def _generation(self, key: str) -> int:
        view = self.ask(self.store.view(self.name(key)))
        self.agree(key, self._view(key), view)
        return int(view.generation)

    def _agree(
        self, key: str, before: models.CircuitView, expected: models.CircuitView, actual: object
    ) -> None:
        self._outdate(key, before, expected)
        self.agree(key, expected, actual)

    def _outdate(self, key: str, before: models.CircuitView, after: models.CircuitView) -> None:
        """Keep the number of a generation that has ended."""
        if before.generation not in (0, after.generation):
            self._stale[key] = self.numbers(key)[before.generation]
