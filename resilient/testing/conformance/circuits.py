"""What every backend's circuits must do."""

from __future__ import annotations

import pytest

from resilient.engine.plan import Plan
from resilient.protocols.circuits import (
    CircuitRules,
    CircuitState,
    CircuitStore,
    CircuitView,
    Verdict,
)
from resilient.testing.conformance._machines.base import World
from resilient.testing.conformance._machines.circuits import CircuitMachine
from resilient.testing.conformance.base import LONG, SHORT
from resilient.testing.conformance.circuits_by_hand import (
    BRIEF,
    CLOSED,
    HALF_OPEN,
    OPEN,
    RULES,
    WIDE,
    CircuitsByHand,
)
from resilient.testing.conformance.runs import Run

__all__ = ["CircuitConformance"]


class CircuitConformance(CircuitsByHand):
    """Windows shared by the fleet, a bounded number of probes, generations that end."""

    def mark(self, store: CircuitStore, key: str, number: int) -> Plan[CircuitView]:
        """So many calls."""
        return store.record(key, rules=WIDE, outcomes="0" * number)

    async def marked(self, store: CircuitStore, key: str) -> int | None:
        """How many calls were recorded."""
        return (await store.view(key)).calls or None

    def test_answers_like_the_model(self, world: World) -> None:
        """Whatever is recorded, admitted, reported and forced, each answer is the model's."""
        self.try_machine(CircuitMachine, world)

    # --- closed

    def test_never_seen(self, run: Run, circuits: CircuitStore) -> None:
        """A circuit that was never seen is closed, of generation 0, and lets calls through."""
        view = run(circuits.view("k"))
        assert view == CircuitView(CLOSED, 0, 0.0, 0, 0, 0, None, None, "")
        assert isinstance(view.state, CircuitState)
        admission = run(circuits.admit("k", rules=RULES, token="t"))
        assert (admission.verdict, admission.view.state) == (Verdict.ALLOWED, CLOSED)
        assert run(circuits.delete("k")) is False

    @pytest.mark.parametrize(
        ("outcomes", "rules", "reason"),
        [
            ("0000111111", RULES._replace(min_calls=10, failure_rate=0.6), "failure_rate"),
            ("11111", RULES, "failure_rate"),
            ("00000000001111100000", RULES, "failure_rate"),
            ("1" * 10, RULES._replace(min_calls=50), "failure_rate"),
            ("0111", RULES._replace(failure_rate=None, consecutive=3), "consecutive"),
            ("111", RULES._replace(failure_rate=1.0, consecutive=3), "consecutive"),
            ("11111" + "0" * 20, RULES, "failure_rate"),
            ("00222", RULES._replace(slow_rate=0.6, failure_rate=0.9), "slow_rate"),
            ("00sss", RULES._replace(slow_rate=0.6, failure_rate=0.9), "slow_rate"),
            ("00sss0fff", RULES._replace(min_calls=6), "failure_rate"),
            ("11sf", RULES._replace(failure_rate=None, consecutive=3), "consecutive"),
            ("11111", RULES._replace(seconds=LONG), "failure_rate"),
            ("0000sfsfsfsf", RULES._replace(seconds=LONG, min_calls=8), "failure_rate"),
        ],
    )
    def test_opens(
        self, run: Run, circuits: CircuitStore, outcomes: str, rules: CircuitRules, reason: str
    ) -> None:
        """A circuit opens at the failure rate or at so many failures in a row, and says why."""
        view = run(circuits.record("at once", rules=rules, outcomes=outcomes))
        assert (view.state, view.reason) == (OPEN, reason)
        assert 0 < view.reopens_in <= LONG
        for outcome in outcomes:
            view = run(circuits.record("one by one", rules=rules, outcomes=outcome))
        assert (view.state, view.reason) == (OPEN, reason)
        refused = run(circuits.admit("at once", rules=rules, token="t"))
        assert refused.verdict is Verdict.REFUSED
        assert 0 < refused.retry_after <= LONG

    @pytest.mark.parametrize(
        ("outcomes", "rules"),
        [
            ("1111", RULES),
            ("0" * 6 + "1" * 4, RULES),
            ("000000" + "1" * 4 + "0" * 10 + "1" * 4, RULES),
            ("110110110", RULES._replace(failure_rate=None, consecutive=3)),
            ("0022", RULES._replace(slow_rate=0.6)),
            ("110sf0", RULES._replace(failure_rate=None, consecutive=3)),
            ("1111", RULES._replace(seconds=LONG)),
        ],
    )
    def test_stays_closed(
        self, run: Run, circuits: CircuitStore, outcomes: str, rules: CircuitRules
    ) -> None:
        """Too few calls, too low a rate, old failures or a broken run of them open nothing."""
        view = run(circuits.record("at once", rules=rules, outcomes=outcomes))
        assert view.state is CLOSED
        for outcome in outcomes:
            view = run(circuits.record("one by one", rules=rules, outcomes=outcome))
        assert view.state is CLOSED
        counted = outcomes.replace("f", "")[-rules.window :]
        assert (view.calls, view.slow) == (len(counted), sum(o in "23s" for o in counted))
        assert view.failures == counted.count("1") + outcomes.count("f")

    def test_a_time_window_moves_on(self, run: Run, circuits: CircuitStore) -> None:
        """Outcomes older than the window are not judged, however they were told."""
        lasting = WIDE._replace(seconds=LONG, buckets=2, min_calls=1000)
        run(circuits.record("told late", rules=lasting, outcomes="01"))
        view = run(circuits.record("told late", rules=lasting, outcomes="111", age=LONG * 3))
        assert (view.calls, view.failures) == (2, 1)
        rules = lasting._replace(seconds=SHORT)
        run(circuits.record("k", rules=rules, outcomes="01"))
        self.advance(SHORT * 1.1)
        assert run(circuits.view("k")).calls == 0
        view = run(circuits.record("k", rules=rules, outcomes="1"))
        assert (view.calls, view.failures) == (1, 1)

    def test_each_further_time_is_longer(self, run: Run, circuits: CircuitStore) -> None:
        """Back-off, up to its longest; with a jitter that stays in its share."""
        rules = RULES._replace(
            open_for=LONG, factor=2.0, longest=3 * LONG, permits=1, consecutive=1
        )
        for expected in (LONG, 2 * LONG, 3 * LONG, 3 * LONG):
            view = run(circuits.record("k", rules=rules, outcomes="1"))
            assert expected * 0.9 < view.reopens_in <= expected
            run(self._closed_by_probes(circuits, rules))
        jittered = rules._replace(jitter=0.5)
        seen = set()
        for n in range(8):
            view = run(circuits.record(f"j{n}", rules=jittered, outcomes="1"))
            assert LONG * 0.45 < view.reopens_in <= LONG * 1.5
            seen.add(round(view.reopens_in, 3))
        assert len(seen) > 1

    async def _closed_by_probes(self, circuits: CircuitStore, rules: CircuitRules) -> None:
        """Closed, as after a round that has passed: the run of openings goes on."""
        seen = await circuits.view("k")
        view = seen._replace(state=HALF_OPEN, generation=seen.generation + 1, reopens_in=0.0)
        begun = await circuits.restore("k", rules=rules, view=view)
        await circuits.admit("k", rules=rules, token="t")
        closed = await circuits.report(
            "k", rules=rules, token="t", generation=begun.generation, outcome="0"
        )
        assert closed.state is CLOSED

    def test_the_service_says_for_how_long(self, run: Run, circuits: CircuitStore) -> None:
        """What opens it may come with a time for which the service wants to be left alone."""
        view = run(circuits.record("k", rules=RULES, outcomes="11111", retry_after=3 * LONG))
        assert 2.9 * LONG < view.reopens_in <= 3 * LONG

    def test_a_quorum_opens_it(self, run: Run, circuits: CircuitStore) -> None:
        """One node alone does not, whatever it has seen; nor two of a hundred."""
        rules = RULES._replace(quorum=2, quorum_share=0.25)
        for n in range(10):
            run(circuits.record("k", rules=rules, outcomes="0", node=f"n{n}"))
        for n in (0, 0, 1):
            view = run(
                circuits.record("k", rules=rules, outcomes="1" * 9, node=f"n{n}", breached=True)
            )
            assert view.state is CLOSED
        run(circuits.record("k", rules=rules, outcomes="0", node="n1", breached=False))
        run(circuits.record("k", rules=rules, outcomes="", node="n2", breached=True))
        view = run(circuits.record("k", rules=rules, outcomes="", node="n3", breached=True))
        assert (view.state, view.reason) == (OPEN, "quorum")

    def test_late_outcomes_are_dropped(self, run: Run, circuits: CircuitStore) -> None:
        """Outcomes of calls that were admitted before a transition do not count after it."""
        before = run(circuits.record("k", rules=WIDE, outcomes="0"))
        assert before.generation > 0
        run(circuits.force("k", OPEN))
        closed = run(circuits.force("k", CLOSED))
        assert closed.generation > before.generation
        run(circuits.record("k", rules=WIDE, outcomes="11", generation=before.generation))
        assert run(circuits.view("k")).calls == 0
        run(circuits.record("k", rules=WIDE, outcomes="1", generation=closed.generation))
        run(circuits.record("k", rules=WIDE, outcomes="1", generation=0))
        run(circuits.record("k", rules=WIDE, outcomes="1"))
        assert run(circuits.view("k")).calls == 3

    def test_generations_are_never_used_again(self, run: Run, circuits: CircuitStore) -> None:
        """A circuit that was forgotten begins with a generation that it never had."""
        seen = []
        for _ in range(5):
            seen.append(run(circuits.record("k", rules=RULES, outcomes="0")).generation)
            seen.append(run(circuits.record("k", rules=RULES, outcomes="11111")).generation)
            assert run(circuits.delete("k")) is True
            assert run(circuits.view("k")).generation == 0
        assert seen == sorted(set(seen))

    def test_no_outcome_is_lost(self, run: Run, circuits: CircuitStore) -> None:
        """Outcomes that many record at once are all counted."""
        run.together(
            *(circuits.record("k", rules=WIDE, outcomes="01" * (n % 3 + 1)) for n in range(30))
        )
        view = run(circuits.view("k"))
        assert (view.calls, view.failures) == (120, 60)

    def test_ages_of_outcomes(self, run: Run, circuits: CircuitStore) -> None:
        """The view tells how long ago the last failure and the last success were."""
        run(circuits.record("k", rules=WIDE, outcomes="1"))
        self.advance(SHORT)
        view = run(circuits.record("k", rules=WIDE, outcomes="0"))
        assert view.last_failure is not None
        assert view.last_success is not None
        assert SHORT * 0.9 <= view.last_failure < LONG
        assert 0 <= view.last_success <= view.last_failure - SHORT * 0.9

    # --- half-open

    def test_is_probed_when_its_time_has_come(self, run: Run, circuits: CircuitStore) -> None:
        """After `open_for` an asking call becomes a probe, and the circuit half-open."""
        opened = run(circuits.record("k", rules=BRIEF, outcomes="11111"))
        assert opened.state is OPEN
        self.advance(SHORT * 1.2)
        waiting = run(circuits.view("k"))
        assert (waiting.state, waiting.reopens_in) == (OPEN, 0.0)
        probe = run(circuits.admit("k", rules=BRIEF, token="t"))
        assert (probe.verdict, probe.view.state) == (Verdict.PROBE, HALF_OPEN)
        assert probe.view.generation > opened.generation

    def test_so_many_probes_and_no_more(self, run: Run, circuits: CircuitStore) -> None:
        """Of many who ask at once, as many as there are permits may probe."""
        run(circuits.force("k", HALF_OPEN))
        answers = run.together(
            *(circuits.admit("k", rules=RULES, token=f"t{n}") for n in range(20))
        )
        verdicts = [answer.verdict for answer in answers]
        assert verdicts.count(Verdict.PROBE) == RULES.permits
        assert verdicts.count(Verdict.REFUSED) == 20 - RULES.permits

    def test_so_many_probes_at_once(self, run: Run, circuits: CircuitStore) -> None:
        """Of the permits of a round no more are under way at once than the rules say."""
        rules = RULES._replace(permits=3, concurrency=2)
        generation = run(circuits.force("k", HALF_OPEN)).generation
        for token in ("a", "b"):
            assert run(circuits.admit("k", rules=rules, token=token)).verdict is Verdict.PROBE
        assert run(circuits.admit("k", rules=rules, token="c")).verdict is Verdict.REFUSED
        run(circuits.report("k", rules=rules, token="a", generation=generation, outcome="0"))
        assert run(circuits.admit("k", rules=rules, token="c")).verdict is Verdict.PROBE
        assert run(circuits.admit("k", rules=rules, token="d")).verdict is Verdict.REFUSED

    def test_the_first_failure_may_end_a_round(self, run: Run, circuits: CircuitStore) -> None:
        """Where all probes must pass."""
        rules = RULES._replace(all_must_pass=True, failure_rate=0.9)
        generation = run(circuits.force("k", HALF_OPEN)).generation
        for token in "ab":
            run(circuits.admit("k", rules=rules, token=token))
        report = circuits.report("k", rules=rules, token="a", generation=generation, outcome="1")
        view = run(report)
        assert (view.state, view.reason) == (OPEN, "probes_failed")

    def test_permit_asked_for_again(self, run: Run, circuits: CircuitStore) -> None:
        """A prober who asks again after a lost reply takes no second permit."""
        run(circuits.force("k", HALF_OPEN))
        for token in ("a", "a", "b", "b", "b", "c"):
            assert run(circuits.admit("k", rules=RULES, token=token)).verdict is Verdict.PROBE
        assert run(circuits.admit("k", rules=RULES, token="d")).verdict is Verdict.REFUSED

    def test_passed_probes_close(self, run: Run, circuits: CircuitStore) -> None:
        """The round is judged when all probes have ended: below the failure rate it closes."""
        generation = self._probing(run, circuits, "abc")
        for token, outcome in (("a", "0"), ("b", "1")):
            view = run(self._report(circuits, token, generation, outcome))
            assert view.state is HALF_OPEN
        assert (view.calls, view.failures) == (2, 1)
        assert run(circuits.admit("k", rules=RULES, token="d")).verdict is Verdict.REFUSED
        view = run(self._report(circuits, "c", generation, "0"))
        assert (view.state, view.calls) == (CLOSED, 0)
        assert view.generation > generation

    def test_failed_probes_open(self, run: Run, circuits: CircuitStore) -> None:
        """A round that reaches the failure rate opens the circuit for its whole time again."""
        generation = self._probing(run, circuits, "abc")
        for token in "ab":
            run(self._report(circuits, token, generation, "1"))
        view = run(self._report(circuits, "c", generation, "1"))
        assert view.state is OPEN
        assert LONG * 0.9 < view.reopens_in <= LONG
        assert view.generation > generation

    def test_cancelled_probe_gives_its_permit_back(self, run: Run, circuits: CircuitStore) -> None:
        """A probe without an outcome decides nothing, and somebody else may probe."""
        generation = self._probing(run, circuits, "abc")
        view = run(self._report(circuits, "a", generation, "-"))
        assert (view.state, view.calls) == (HALF_OPEN, 0)
        assert run(circuits.admit("k", rules=RULES, token="d")).verdict is Verdict.PROBE
        assert run(circuits.admit("k", rules=RULES, token="e")).verdict is Verdict.REFUSED

    def test_dead_prober_gives_its_permit_back(self, run: Run, circuits: CircuitStore) -> None:
        """A permit whose probe never reports is free after its lease; its late report is none."""
        rules = RULES._replace(permits=1, lease=SHORT)
        run(circuits.force("k", HALF_OPEN))
        dead = run(circuits.admit("k", rules=rules, token="dead"))
        assert dead.verdict is Verdict.PROBE
        self.advance(SHORT * 1.2)
        long = rules._replace(lease=LONG)
        assert run(circuits.admit("k", rules=long, token="next")).verdict is Verdict.PROBE
        late = circuits.report(
            "k", rules=long, token="dead", generation=dead.view.generation, outcome="1"
        )
        assert run(late).state is HALF_OPEN

    def test_report_sent_again(self, run: Run, circuits: CircuitStore) -> None:
        """A report that is sent twice, or from another round, counts once or not at all."""
        generation = self._probing(run, circuits, "ab")
        for _ in range(3):
            view = run(self._report(circuits, "a", generation, "1"))
            assert (view.state, view.calls, view.failures) == (HALF_OPEN, 1, 1)
        view = run(self._report(circuits, "b", generation - 1, "1"))
        assert view.calls == 1
        view = run(self._report(circuits, "stranger", generation, "1"))
        assert view.calls == 1

    def _probing(self, run: Run, circuits: CircuitStore, tokens: str) -> int:
        view = run(circuits.force("k", HALF_OPEN))
        for token in tokens:
            admission = run(circuits.admit("k", rules=RULES, token=token))
            assert admission.verdict is Verdict.PROBE
        return view.generation

    def _report(
        self, circuits: CircuitStore, token: str, generation: int, outcome: str
    ) -> Plan[CircuitView]:
        return circuits.report(
            "k", rules=RULES, token=token, generation=generation, outcome=outcome
        )
