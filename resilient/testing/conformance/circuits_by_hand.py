"""What every backend's circuits must do by hand, tell, remember and forget."""

from __future__ import annotations

import threading

import pytest

from resilient.engine.backend import Backend
from resilient.protocols.circuits import (
    CircuitRules,
    CircuitState,
    CircuitStore,
    Verdict,
    fingerprint,
    parse_announcement,
)
from resilient.testing.conformance.base import LONG, SHORT, Conformance
from resilient.testing.conformance.runs import Run

__all__ = ["BRIEF", "CLOSED", "HALF_OPEN", "OPEN", "RULES", "WIDE", "CircuitsByHand"]

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

RULES = CircuitRules(
    window=10,
    min_calls=5,
    failure_rate=0.5,
    consecutive=None,
    open_for=LONG,
    permits=3,
    lease=LONG,
    ttl=86400.0,
)
WIDE = RULES._replace(window=1000, min_calls=1000)
"""A window in which outcomes are only counted."""
BRIEF = RULES._replace(open_for=SHORT)
"""An open circuit that may be probed soon."""


class CircuitsByHand(Conformance):
    """States by hand, their history, and what becomes of a circuit that is lost."""

    capability = "circuits"

    @pytest.fixture(name="circuits")
    def _circuits(self, store: CircuitStore) -> CircuitStore:
        return store

    def test_forced_states(self, run: Run, circuits: CircuitStore) -> None:
        """By hand a circuit goes from any state into any, with an empty window."""
        run(circuits.record("k", rules=WIDE, outcomes="11"))
        generations = [run(circuits.view("k")).generation]
        for state in (OPEN, CLOSED, HALF_OPEN, *CircuitState, HALF_OPEN, CLOSED):
            view = run(circuits.force("k", state))
            assert (view.state, view.calls, view.failures) == (state, 0, 0)
            assert (0 < view.reopens_in <= 60) is (state is OPEN)
            assert (view.reopens_in > 60) is state.is_forced
            generations.append(view.generation)
        assert generations == sorted(set(generations))
        view = run(circuits.force("k", OPEN, rules=BRIEF))
        assert view.reopens_in <= SHORT

    @pytest.mark.parametrize("state", [s for s in CircuitState if s.is_forced])
    def test_what_is_done_by_hand_ends(
        self, run: Run, circuits: CircuitStore, state: CircuitState
    ) -> None:
        """Until then nothing else moves the circuit; afterwards it goes on as usual."""
        run(circuits.force("k", state, rules=RULES, lasts=LONG, reason="forced by ana: x|y"))
        view = run(circuits.record("k", rules=RULES, outcomes="1" * 9))
        assert (view.state, view.reason) == (state, "forced by ana: x/y")
        counts = state in (CircuitState.FORCED_CLOSED, CircuitState.METRICS_ONLY)
        assert (view.calls, view.breach) == ((9, "failure_rate") if counts else (0, ""))
        verdict = run(circuits.admit("k", rules=RULES, token="t")).verdict
        assert verdict is (Verdict.ALLOWED if state.lets_through else Verdict.REFUSED)
        run(circuits.force("k", state, rules=RULES, lasts=SHORT))
        self.advance(SHORT * 1.2)
        after = run(circuits.admit("k", rules=RULES, token="t")).view
        assert after.state is (CLOSED if state.lets_through else HALF_OPEN)
        assert after.reason == "override_ended"

    def test_history(self, run: Run, circuits: CircuitStore) -> None:
        """The latest 20 transitions are told, the newest first."""
        assert run(circuits.history("k")) == []
        for n in range(12):
            run(circuits.force("k", OPEN, reason=f"forced by ana: {n}"))
            run(circuits.force("k", CLOSED))
        view = run(circuits.view("k"))
        history = run(circuits.history("k"))
        assert len(history) == 20
        assert (history[0].before, history[0].after) == (OPEN, CLOSED)
        assert history[0].generation == view.generation
        assert [each.reason for each in history[:4]] == [
            "forced",
            "forced by ana: 11",
            "forced",
            "forced by ana: 10",
        ]
        ages = [each.age for each in history]
        assert ages == sorted(ages)

    def test_a_lost_circuit_is_told_again(self, run: Run, circuits: CircuitStore) -> None:
        """It is open for the rest of its time, in a generation that it never had."""
        opened = run(circuits.record("k", rules=RULES, outcomes="11111"))
        run(circuits.delete("k"))
        run(circuits.record("k", rules=RULES, outcomes="0"))
        told = opened._replace(reopens_in=LONG / 2, opened=3)
        view = opened
        for _ in range(2):
            view = run(circuits.restore("k", rules=RULES, view=told))
            assert (view.state, view.reason, view.opened) == (OPEN, "restored", 3)
            assert LONG * 0.4 < view.reopens_in <= LONG / 2
            assert view.generation > opened.generation
        closed = run(circuits.force("k", CLOSED))
        assert run(circuits.restore("k", rules=RULES, view=view)).generation == closed.generation

    def test_versions_of_one_breaker_are_told_apart(self, run: Run, circuits: CircuitStore) -> None:
        """An answer names the rules under which outcomes were recorded before."""
        other = RULES._replace(min_calls=7)
        assert run(circuits.record("k", rules=RULES, outcomes="0")).fingerprint == ""
        told = run(circuits.record("k", rules=other, outcomes="0")).fingerprint
        assert told == fingerprint(RULES)
        told = run(circuits.record("k", rules=other, outcomes="0")).fingerprint
        assert told == fingerprint(other)

    def test_idle_circuits_are_forgotten(self, run: Run, circuits: CircuitStore) -> None:
        """A circuit that nobody uses for its TTL is gone."""
        run(circuits.record("k", rules=WIDE._replace(ttl=SHORT, open_for=0.01), outcomes="1"))
        self.advance(SHORT * 1.3)
        assert run(circuits.view("k")).calls == 0

    # --- announcements

    def test_transitions_are_announced(self, run: Run, live: Backend) -> None:
        """Every listener hears of a transition within a second, whatever the key."""
        circuits: CircuitStore = live.require("circuits")
        heard: list[str] = []
        arrived = threading.Event()

        def listener(message: str | None) -> None:
            if message is not None:
                heard.append(message)
                arrived.set()

        live.hub.listen("circuits", listener)
        key = "a|b: c\nd"
        view = run(circuits.record(key, rules=RULES, outcomes="11111"))
        assert arrived.wait(1.0), "the transition was not announced within a second"
        told, what = parse_announcement(heard[0])
        assert (told, what.state, what.generation) == (key, OPEN, view.generation)
        assert (what.reason, what.opened) == (view.reason, 1)
        run(circuits.record(key, rules=RULES, outcomes="1"))
        assert len(heard) == 1, "what is no transition was announced"
