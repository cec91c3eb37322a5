"""What every backend's idempotency records must do."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.engine.backend import Backend
from resilient.engine.plan import Plan
from resilient.protocols.idempotency import (
    Claimed,
    Completed,
    IdempotencyStore,
    InProgress,
    Mismatch,
    Unknown,
)
from resilient.protocols.values import Encoded
from resilient.testing.conformance._machines.base import World
from resilient.testing.conformance._machines.idempotency import IdempotencyMachine
from resilient.testing.conformance.base import LONG, SHORT, Conformance
from resilient.testing.conformance.runs import Run

__all__ = ["IdempotencyConformance"]

DAY = 86400.0
DONE = Encoded(b"done")
EVERY_BYTE = Encoded(bytes(range(256)))
MEGABYTE = Encoded(EVERY_BYTE * 4096)


class IdempotencyConformance(Conformance):
    """One claim at a time, an outcome that stays, owners that are told when they are late."""

    capability = "idempotency"

    def mark(self, store: IdempotencyStore, key: str, number: int) -> Plan[Any]:
        """Claim under a numbered owner."""
        return store.claim(key, owner=f"owner-{number}", lease=LONG, ttl=DAY)

    async def marked(self, store: IdempotencyStore, key: str) -> int | None:
        """The number of the owner."""
        record = await store.get(key)
        if not isinstance(record, InProgress):
            return None
        return int(record.owner.removeprefix("owner-"))

    @pytest.fixture(name="calls")
    def _calls(self, store: IdempotencyStore) -> IdempotencyStore:
        return store

    def test_answers_like_the_model(self, world: World) -> None:
        """Whatever is claimed, completed and given up, each answer is the reference model's."""
        self.try_machine(IdempotencyMachine, world)

    # --- one call

    def test_claim_and_complete(self, run: Run, calls: IdempotencyStore) -> None:
        """The first caller makes the call, others see it in progress, then its result."""
        claim = self._claimed(run, calls, "ann")
        assert (claim.attempt, claim.takeover) == (1, False)
        busy = run(calls.claim("k", owner="bob", lease=LONG, ttl=DAY))
        assert isinstance(busy, InProgress)
        assert (busy.owner, busy.attempt, 0 < busy.ttl <= LONG) == ("ann", 1, True)
        assert isinstance(run(calls.get("k")), InProgress)
        assert run(calls.complete("k", owner="ann", result=DONE, ttl=DAY)) is True
        for answer in (
            run(calls.claim("k", owner="bob", lease=LONG, ttl=DAY)),
            run(calls.claim("k", owner="ann", lease=LONG, ttl=DAY)),
            run(calls.get("k")),
        ):
            assert isinstance(answer, Completed)
            assert (answer.outcome, answer.result, answer.attempt) == ("value", DONE, 1)
            assert LONG < answer.ttl <= DAY

    @pytest.mark.parametrize("outcome", ["value", "error", "unstored"])
    @pytest.mark.parametrize(
        "result", [Encoded(b""), EVERY_BYTE, MEGABYTE], ids=["empty", "every byte", "1 MB"]
    )
    def test_results_come_back(
        self, run: Run, calls: IdempotencyStore, result: Encoded, outcome: str
    ) -> None:
        """Every kind of outcome comes back byte by byte."""
        self._claimed(run, calls, "ann")
        assert run(calls.complete("k", owner="ann", result=result, ttl=DAY, outcome=outcome))
        answer = run(calls.get("k"))
        assert isinstance(answer, Completed)
        assert (answer.outcome, answer.result) == (outcome, result)
        assert isinstance(answer.result, bytes)

    def test_one_of_many_wins(self, run: Run, calls: IdempotencyStore) -> None:
        """Of many duplicates at once, exactly one makes the call."""
        for turn in range(5):
            answers = run.together(
                *(calls.claim(f"k{turn}", owner=f"o{n}", lease=LONG, ttl=DAY) for n in range(16))
            )
            winners = [number for number, a in enumerate(answers) if isinstance(a, Claimed)]
            assert len(winners) == 1
            others = [answer for answer in answers if isinstance(answer, InProgress)]
            assert len(others) == 15
            assert {other.owner for other in others} == {f"o{winners[0]}"}

    # --- lost replies

    def test_claim_asked_again(self, run: Run, calls: IdempotencyStore) -> None:
        """Who asks again after a lost reply has the same claim, not a call in progress."""
        first = self._claimed(run, calls, "ann")
        assert run(calls.claim("k", owner="ann", lease=LONG, ttl=DAY)) == first

    def test_takeover_asked_again(self, run: Run, calls: IdempotencyStore) -> None:
        """Who took a call over learns so from the second reply as well."""
        run(calls.claim("k", owner="dead", lease=SHORT, ttl=DAY))
        self.advance(SHORT * 1.2)
        first = self._claimed(run, calls, "next")
        assert first.takeover is True
        assert run(calls.claim("k", owner="next", lease=LONG, ttl=DAY)) == first

    def test_complete_sent_again(self, run: Run, calls: IdempotencyStore) -> None:
        """A completion that is sent again is confirmed again, and changes nothing."""
        self._claimed(run, calls, "ann")
        for _ in range(2):
            assert run(calls.complete("k", owner="ann", result=DONE, ttl=DAY)) is True
        assert run(calls.complete("k", owner="bob", result=DONE, ttl=DAY)) is False

    # --- takeover

    def test_takeover(self, run: Run, calls: IdempotencyStore) -> None:
        """A dead owner's call is taken over; its late finish changes nothing."""
        first = run(calls.claim("k", owner="dead", lease=SHORT, ttl=DAY))
        self.advance(SHORT * 1.2)
        assert run(calls.get("k")) == Unknown(1)
        second = self._claimed(run, calls, "next")
        assert isinstance(first, Claimed)
        assert (second.attempt, second.takeover) == (2, True)
        assert second.fence > first.fence
        assert run(calls.renew("k", owner="dead", lease=LONG)) is False
        assert run(calls.complete("k", owner="dead", result=DONE, ttl=DAY)) is False
        assert run(calls.abandon("k", owner="dead")) is False
        assert isinstance(run(calls.get("k")), InProgress)
        assert run(calls.complete("k", owner="next", result=DONE, ttl=DAY)) is True
        assert run(calls.complete("k", owner="dead", result=Encoded(b"late"), ttl=DAY)) is False
        answer = run(calls.get("k"))
        assert isinstance(answer, Completed)
        assert (answer.result, answer.attempt) == (DONE, 2)

    def test_no_takeover(self, run: Run, calls: IdempotencyStore) -> None:
        """Who will not take over is told that the outcome is unknown, until it is forgotten."""

        def asked() -> Any:
            return run(calls.claim("k", owner="next", lease=LONG, ttl=DAY, takeover=False))

        run(calls.claim("k", owner="dead", lease=LONG, ttl=DAY))
        assert isinstance(asked(), InProgress)
        run(calls.renew("k", owner="dead", lease=SHORT))
        self.advance(SHORT * 1.2)
        assert [asked(), asked(), run(calls.get("k"))] == [Unknown(1)] * 3
        assert run(calls.delete("k")) is True
        assert isinstance(asked(), Claimed)
        assert run(calls.abandon("k", owner="next")) is True
        again = asked()
        assert isinstance(again, Claimed), "what was given up has not taken effect"
        assert again.takeover is False

    def test_unknown_until_its_owner_comes_late(self, run: Run, calls: IdempotencyStore) -> None:
        """The owner that was thought dead may still finish what nobody has taken over."""
        run(calls.claim("k", owner="slow", lease=SHORT, ttl=DAY))
        self.advance(SHORT * 1.2)
        run(calls.claim("k", owner="next", lease=LONG, ttl=DAY, takeover=False))
        assert run(calls.complete("k", owner="slow", result=DONE, ttl=DAY)) is True
        assert isinstance(run(calls.get("k")), Completed)

    def test_expire(self, run: Run, calls: IdempotencyStore) -> None:
        """The lease of a dead owner can be ended: what comes next is a takeover."""
        first = self._claimed(run, calls, "dead")
        assert run(calls.expire("k", owner="other")) is False
        assert [run(calls.expire("k", owner="dead")) for _ in range(2)] == [True, True]
        assert run(calls.get("k")) == Unknown(1)
        second = self._claimed(run, calls, "next")
        assert (second.attempt, second.takeover) == (2, True)
        assert second.fence > first.fence
        assert run(calls.expire("k", owner="dead")) is False
        assert isinstance(run(calls.get("k")), InProgress)
        assert run(calls.complete("k", owner="next", result=DONE, ttl=DAY)) is True
        assert run(calls.expire("k", owner="next")) is False

    def test_late_but_not_taken_over(self, run: Run, calls: IdempotencyStore) -> None:
        """A finish after the lease, before anybody else has claimed the call, counts."""
        run(calls.claim("k", owner="slow", lease=SHORT, ttl=DAY))
        self.advance(SHORT * 1.2)
        assert run(calls.complete("k", owner="slow", result=DONE, ttl=DAY)) is True
        assert isinstance(run(calls.get("k")), Completed)

    def test_renewal(self, run: Run, calls: IdempotencyStore) -> None:
        """A renewed claim is not taken over."""
        run(calls.claim("k", owner="ann", lease=SHORT, ttl=DAY))
        assert run(calls.renew("k", owner="bob", lease=LONG)) is False
        run(calls.claim("k", owner="ann", lease=LONG, ttl=DAY))
        self.advance(SHORT * 1.2)
        assert isinstance(run(calls.claim("k", owner="bob", lease=LONG, ttl=DAY)), InProgress)
        assert run(calls.renew("k", owner="ann", lease=LONG)) is True

    def test_abandoned(self, run: Run, calls: IdempotencyStore) -> None:
        """A call that its owner gave up is claimed at once, as the next attempt."""
        first = self._claimed(run, calls, "ann")
        assert run(calls.abandon("k", owner="bob")) is False
        assert run(calls.abandon("k", owner="ann")) is True
        assert run(calls.get("k")) is None
        second = self._claimed(run, calls, "bob")
        assert (second.attempt, second.takeover) == (2, False)
        assert second.fence > first.fence
        assert run(calls.complete("k", owner="ann", result=DONE, ttl=DAY)) is False

    # --- fingerprints

    def test_mismatch_at_any_stage(self, run: Run, calls: IdempotencyStore) -> None:
        """Another payload under one key is a mismatch: claimed, run out, given up or completed."""

        def tries(fingerprint: str) -> Any:
            return run(calls.claim("k", owner="bob", lease=LONG, ttl=DAY, fingerprint=fingerprint))

        run(calls.claim("k", owner="ann", lease=SHORT, ttl=DAY, fingerprint="mine"))
        assert tries("other") == Mismatch("mine")
        self.advance(SHORT * 1.2)
        assert tries("other") == Mismatch("mine")
        assert isinstance(tries("mine"), Claimed)
        run(calls.abandon("k", owner="bob"))
        assert tries("other") == Mismatch("mine")
        assert isinstance(tries(""), Claimed)
        assert tries("other") == Mismatch("mine"), "an empty fingerprint matches, and changes none"
        run(calls.complete("k", owner="bob", result=DONE, ttl=DAY))
        assert tries("other") == Mismatch("mine")
        assert isinstance(tries("mine"), Completed)
        assert isinstance(tries(""), Completed)

    def test_empty_fingerprint_matches_all(self, run: Run, calls: IdempotencyStore) -> None:
        """A call claimed without a fingerprint is everybody's."""
        self._claimed(run, calls, "ann")
        busy = run(calls.claim("k", owner="bob", lease=LONG, ttl=DAY, fingerprint="mine"))
        assert isinstance(busy, InProgress)

    # --- the end

    def test_delete(self, run: Run, calls: IdempotencyStore) -> None:
        """A forgotten call is made again, with a larger fence; its earlier owner is stale."""
        first = self._claimed(run, calls, "ann")
        assert run(calls.delete("k")) is True
        assert run(calls.delete("k")) is False
        assert run(calls.get("k")) is None
        assert run(calls.complete("k", owner="ann", result=DONE, ttl=DAY)) is False
        assert run(calls.renew("k", owner="ann", lease=LONG)) is False
        second = self._claimed(run, calls, "bob")
        assert (second.attempt, second.takeover) == (1, False)
        assert second.fence > first.fence

    def test_records_expire(self, run: Run, calls: IdempotencyStore) -> None:
        """A result is kept for its TTL, and the call may be made again then."""
        self._claimed(run, calls, "ann")
        run(calls.complete("k", owner="ann", result=DONE, ttl=SHORT))
        self.advance(SHORT * 1.2)
        assert run(calls.get("k")) is None
        assert run(calls.delete("k")) is False
        assert self._claimed(run, calls, "bob").attempt == 1

    def test_record_outlives_its_lease(self, run: Run, calls: IdempotencyStore) -> None:
        """A claim whose TTL is shorter than its lease is not forgotten while it lives."""
        run(calls.claim("k", owner="ann", lease=LONG, ttl=SHORT / 2))
        self.advance(SHORT)
        assert isinstance(run(calls.claim("k", owner="bob", lease=LONG, ttl=DAY)), InProgress)
        assert run(calls.complete("k", owner="ann", result=DONE, ttl=DAY)) is True

    @pytest.mark.parametrize("how", ["complete", "abandon", "expire", "delete"])
    def test_duplicates_are_woken(self, run: Run, live: Backend, how: str) -> None:
        """All who wait for a call are woken when it ends, in whatever way."""
        calls: IdempotencyStore = live.require("idempotency")
        self._claimed(run, calls, "ann")
        waiters = []
        for number in range(3):
            waiter, address = run.listen(live)
            run(calls.claim("k", owner=f"o{number}", lease=LONG, ttl=DAY, waiter=address))
            waiters.append(waiter)
        if how == "complete":
            run(calls.complete("k", owner="ann", result=DONE, ttl=DAY))
        elif how == "abandon":
            run(calls.abandon("k", owner="ann"))
        elif how == "expire":
            run(calls.expire("k", owner="ann"))
        else:
            run(calls.delete("k"))
        assert [run.wait(waiter, 1.0) for waiter in waiters] == [True] * 3

    def _claimed(self, run: Run, calls: IdempotencyStore, owner: str) -> Claimed:
        answer = run(calls.claim("k", owner=owner, lease=LONG, ttl=DAY))
        assert isinstance(answer, Claimed)
        return answer
