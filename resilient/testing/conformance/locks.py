"""What every backend's locks must do."""

from __future__ import annotations

import threading
import time

import pytest

from resilient.engine.backend import Backend
from resilient.engine.plan import Listen, Plan, Sleep, Wait
from resilient.engine.signals import GiftedWaiter
from resilient.protocols.locks import (
    HANDED_OVER,
    LOCK,
    READ,
    WRITE,
    Grant,
    Held,
    LockMode,
    LockStore,
    semaphore_of,
)
from resilient.testing.conformance._machines.base import World
from resilient.testing.conformance._machines.locks import LockMachine
from resilient.testing.conformance.base import LONG, SHORT, Conformance
from resilient.testing.conformance.runs import Run

__all__ = ["LockConformance"]

YEAR_2020 = 1_577_836_800_000_000
"""In µs since the epoch: a fence that starts from a server's clock is larger."""


class LockConformance(Conformance):
    """One holder at a time, fences that only grow, waiters that are woken."""

    capability = "locks"

    def mark(self, store: LockStore, key: str, number: int) -> Plan[Grant | Held]:
        """Hold the lock under a numbered owner."""
        return store.acquire(key, ttl=LONG, owner=f"owner-{number}")

    async def marked(self, store: LockStore, key: str) -> int | None:
        """The number of the holder."""
        held = await store.holder(key)
        return None if held is None else int(held.owner.removeprefix("owner-"))

    @pytest.fixture(name="locks")
    def _locks(self, store: LockStore) -> LockStore:
        return store

    # --- holding

    def test_answers_like_the_model(self, world: World) -> None:
        """Whatever several owners do in whatever order, each answer is the reference model's."""
        self.try_machine(LockMachine, world)

    def test_grant_and_refusal(self, run: Run, locks: LockStore) -> None:
        """A free lock is granted; a held one is refused, and the answer says who holds it."""
        grant = run(locks.acquire("k", ttl=LONG, owner="ann"))
        assert isinstance(grant, Grant)
        assert (grant.owner, 0 < grant.ttl <= LONG) == ("ann", True)
        refused = run(locks.acquire("k", ttl=LONG, owner="bob"))
        assert isinstance(refused, Held)
        assert (refused.owner, refused.fence) == ("ann", grant.fence)
        assert 0 < refused.ttl <= LONG
        assert 0 <= refused.age < LONG
        assert run(locks.is_held("k", owner="ann"))
        assert not run(locks.is_held("k", owner="bob"))

    def test_owner_is_generated(self, run: Run, locks: LockStore) -> None:
        """Without an owner the store makes one up, another one each time."""
        first = run(locks.acquire("one", ttl=LONG))
        second = run(locks.acquire("two", ttl=LONG))
        assert isinstance(first, Grant)
        assert isinstance(second, Grant)
        assert first.owner != second.owner
        assert run(locks.release("one", owner=first.owner))
        assert isinstance(run(locks.acquire("two", ttl=LONG)), Held)

    def test_only_the_owner_releases(self, run: Run, locks: LockStore) -> None:
        """A release or renewal under another token changes nothing."""
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        assert run(locks.release("k", owner="bob")) is False
        assert run(locks.renew("k", owner="bob", ttl=LONG)) is False
        assert run(locks.is_held("k", owner="ann"))

    def test_force_release(self, run: Run, locks: LockStore) -> None:
        """An operator frees a lock; its holder finds out, and the next fence is larger."""
        grant = run(locks.acquire("k", ttl=LONG, owner="ann"))
        assert isinstance(grant, Grant)
        assert run(locks.force_release("k")) is True
        assert run(locks.force_release("k")) is False
        assert run(locks.renew("k", owner="ann", ttl=LONG)) is False
        assert run(locks.release("k", owner="ann")) is False
        after = run(locks.acquire("k", ttl=LONG, owner="bob"))
        assert isinstance(after, Grant)
        assert after.fence > grant.fence

    # --- lost replies

    def test_acquire_asked_again(self, run: Run, locks: LockStore) -> None:
        """An owner who asks again after a lost reply has the same grant, not a refusal."""
        first = run(locks.acquire("k", ttl=LONG, owner="ann"))
        again = run(locks.acquire("k", ttl=LONG, owner="ann"))
        assert isinstance(first, Grant)
        assert isinstance(again, Grant)
        assert again.fence == first.fence

    def test_release_asked_again(self, run: Run, locks: LockStore) -> None:
        """A release that is sent again is confirmed again, and frees nobody else's lock."""
        fence = self._fence(run, locks, "ann")
        assert run(locks.release("k", owner="ann", fence=fence)) is True
        assert run(locks.release("k", owner="ann", fence=fence)) is True
        self._fence(run, locks, "bob")
        assert run(locks.release("k", owner="ann", fence=fence)) is True
        assert run(locks.is_held("k", owner="bob"))
        for number in range(20):  # however many come and go
            run(locks.release("k", owner=f"owner-{number - 1}" if number else "bob"))
            self._fence(run, locks, f"owner-{number}")
        assert run(locks.release("k", owner="ann", fence=fence)) is True

    def test_a_lost_hold_is_told_from_a_released_one(self, run: Run, locks: LockStore) -> None:
        """Whose hold was lost is told so, whatever became of the lock since; the others are not."""
        fences: dict[str, int] = {}
        for owner in ("forced", "given back", "handed on", "taker", "given back, too"):
            fences[owner] = self._fence(run, locks, owner)
            if owner == "forced":
                assert run(locks.force_release("k"))
            elif owner == "handed on":
                taken = run(locks.transfer("k", owner=owner, to="taker", ttl=LONG))
                assert taken is not None
                assert taken.fence > fences[owner]
            else:
                assert run(locks.release("k", owner=owner)) is True
        kept = {
            owner: run(locks.release("k", owner=owner, fence=fences[owner])) for owner in fences
        }
        assert kept == {
            "forced": False,
            "given back": True,
            "handed on": False,
            "taker": True,
            "given back, too": True,
        }

    @staticmethod
    def _fence(run: Run, locks: LockStore, owner: str) -> int:
        grant = run(locks.acquire("k", ttl=LONG, owner=owner))
        assert isinstance(grant, Grant)
        return grant.fence

    # --- time

    def test_expiry(self, run: Run, locks: LockStore) -> None:
        """A lock that is not renewed frees itself, and its late owner is told."""
        first = run(locks.acquire("k", ttl=SHORT, owner="ann"))
        self.advance(SHORT * 1.2)
        assert run(locks.holder("k")) is None
        assert run(locks.is_held("k", owner="ann")) is False
        assert run(locks.renew("k", owner="ann", ttl=LONG)) is False
        assert run(locks.release("k", owner="ann")) is False
        second = run(locks.acquire("k", ttl=LONG, owner="bob"))
        assert isinstance(first, Grant)
        assert isinstance(second, Grant)
        assert second.fence > first.fence
        assert run(locks.release("k", owner="ann", fence=first.fence)) is False
        assert run(locks.is_held("k", owner="bob"))
        assert run(locks.release("k", owner="bob", fence=second.fence)) is True
        assert run(locks.release("k", owner="ann", fence=first.fence)) is False

    def test_renewal(self, run: Run, locks: LockStore) -> None:
        """A renewed lock, or one acquired again by its owner, outlives its first TTL."""
        for key in ("renewed", "acquired again"):
            run(locks.acquire(key, ttl=SHORT, owner="ann"))
        # The first TTLs may have run out by now, on a slow machine: then there is nothing to test.
        renewed = run(locks.renew("renewed", owner="ann", ttl=LONG))
        run(locks.acquire("acquired again", ttl=LONG, owner="ann"))
        self.advance(SHORT * 1.2)
        assert run(locks.is_held("renewed", owner="ann")) is renewed
        assert run(locks.is_held("acquired again", owner="ann"))

    def test_renewal_may_shorten(self, run: Run, locks: LockStore) -> None:
        """A renewal starts the TTL anew: also a shorter one."""
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        assert run(locks.renew("k", owner="ann", ttl=SHORT))
        self.advance(SHORT * 1.2)
        assert run(locks.holder("k")) is None

    # --- fences

    def test_fences_grow(self, run: Run, locks: LockStore) -> None:
        """Each grant has a larger fence than the one before, beginning at the server's time."""
        fences = []
        for turn in range(20):
            grant = run(locks.acquire("k", ttl=LONG, owner=f"owner-{turn}"))
            assert isinstance(grant, Grant)
            assert type(grant.fence) is int
            fences.append(grant.fence)
            assert run(locks.release("k", owner=f"owner-{turn}"))
        assert fences == sorted(set(fences))
        assert fences[0] > YEAR_2020, "a server that lost its data would give old fences again"

    # --- many at once

    def test_one_of_many_wins(self, run: Run, locks: LockStore) -> None:
        """Of many who ask for a free lock at once, exactly one has it."""
        for turn in range(5):
            key = f"k{turn}"
            owners = [f"owner-{number}" for number in range(16)]
            answers = run.together(*(locks.acquire(key, ttl=LONG, owner=o) for o in owners))
            grants = [answer for answer in answers if isinstance(answer, Grant)]
            assert len(grants) == 1
            assert {a.owner for a in answers} == {grants[0].owner}
            assert len({a.fence for a in answers}) == 1

    def test_exclusion(self, run: Run, locks: LockStore) -> None:
        """Threads or tasks that take turns never overlap, and their fences grow."""
        inside = 0
        fences: list[int] = []

        async def turns(owner: str) -> None:
            nonlocal inside
            for turn in range(5):
                me = f"{owner}-{turn}"
                while not isinstance(grant := await locks.acquire("k", ttl=LONG, owner=me), Grant):
                    await Sleep(0.001)
                inside += 1
                fences.append(grant.fence)
                assert inside == 1, "two holders at once"
                assert await locks.is_held("k", owner=me)
                inside -= 1
                await locks.release("k", owner=me)

        run.together(*(turns(f"owner-{number}") for number in range(4)))
        assert len(fences) == 20
        assert fences == sorted(set(fences))

    # --- waiting

    def test_release_hands_over(self, run: Run, live: Backend) -> None:
        """A release gives the lock to the longest waiting, and tells it so; then to the next."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        waiters = [self.waits(run, live, owner) for owner in ("bob", "cid")]
        run(locks.release("k", owner="ann"))
        (first, bobs), (second, _) = waiters
        assert run.wait(first, 1.0), "the longest waiting was not woken within a second"
        held = run(locks.holder("k"))
        assert held is not None
        assert (held.owner, first.gift) == ("bob", str(held.fence)), "the lock is not handed over"
        assert held.ttl <= HANDED_OVER, "what is handed over may belong to somebody who is gone"
        assert not run.wait(second, 0.1), "more than one was woken"
        grant = run(locks.acquire("k", ttl=LONG, owner="bob", waiter=bobs))
        assert isinstance(grant, Grant), "the woken one is not granted the lock"
        assert grant.fence == held.fence
        run(locks.release("k", owner="bob"))
        assert run.wait(second, 1.0), "the next one was not woken within a second"
        assert run(locks.is_held("k", owner="cid"))

    def test_fair_newcomers_queue_up(self, run: Run, live: Backend) -> None:
        """What is free because its holder died belongs to who has waited longest."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=SHORT, owner="ann"))
        waiter, _ = self.waits(run, live, "bob")
        time.sleep(SHORT * 1.2)
        refused = run(locks.acquire("k", ttl=LONG, owner="eve"))
        assert isinstance(refused, Held), "a newcomer was faster"
        assert refused.owner == "bob"
        assert run.wait(waiter, 1.0)
        assert waiter.gift == str(refused.fence)

    def test_unfair_releases_leave_nobody_waiting(self, run: Run, live: Backend) -> None:
        """Without fairness a release hands over, or wakes and leaves it to whoever asks first."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        waiter, _ = self.waits(run, live, "bob")
        run(locks.release("k", owner="ann", fair=False))
        assert run.wait(waiter, 1.0)
        newcomer = run(locks.acquire("k", ttl=LONG, owner="eve", fair=False))
        if waiter.gift:
            assert isinstance(newcomer, Held)
            assert (newcomer.owner, str(newcomer.fence)) == ("bob", waiter.gift)
        else:
            assert isinstance(newcomer, Grant)

    def test_readers_do_not_overtake_a_writer(self, run: Run, live: Backend) -> None:
        """A reader that comes after a waiting writer waits too; then all readers go together."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=LONG, owner="ann", mode=READ))
        writer, _ = self.waits(run, live, "bob", WRITE)
        readers = [self.waits(run, live, owner, READ)[0] for owner in ("cid", "dan")]
        assert not run(locks.is_held("k", owner="cid", mode=READ)), "a writer can be starved"
        run(locks.release("k", owner="ann", mode=READ))
        assert run.wait(writer, 1.0)
        assert run(locks.is_held("k", owner="bob", mode=WRITE))
        run(locks.release("k", owner="bob", mode=WRITE))
        assert all(run.wait(reader, 1.0) for reader in readers)
        held = run(locks.holder("k", mode=READ))
        assert held is not None
        assert (held.holders, held.waiters) == (2, 0)

    def test_a_permit_is_handed_over(self, run: Run, live: Backend) -> None:
        """Of a semaphore, whoever waits gets the permit that is given back, and no other."""
        locks: LockStore = live.require("locks")
        two = semaphore_of(2)
        for owner in ("ann", "bob"):
            run(locks.acquire("k", ttl=LONG, owner=owner, mode=two))
        waiter, _ = self.waits(run, live, "cid", two)
        run(locks.release("k", owner="bob", mode=two))
        assert run.wait(waiter, 1.0)
        assert run(locks.is_held("k", owner="cid", mode=two))
        assert isinstance(run(locks.acquire("k", ttl=LONG, owner="eve", mode=two)), Held)

    def waits(
        self, run: Run, live: Backend, owner: str, mode: LockMode = LOCK
    ) -> tuple[GiftedWaiter, str]:
        """A new waiter for the lock, and its address."""
        waiter, address = run.listen(live)
        locks: LockStore = live.require("locks")
        busy = run(locks.acquire("k", ttl=LONG, owner=owner, waiter=address, mode=mode))
        assert isinstance(busy, Held)
        return waiter, address

    def test_force_release_wakes(self, run: Run, live: Backend) -> None:
        """A lock that is freed by force is free for those who wait."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        waiter, address = run.listen(live)
        run(locks.acquire("k", ttl=LONG, owner="bob", waiter=address))
        run(locks.force_release("k"))
        assert run.wait(waiter, 1.0)

    def test_withdrawn_waiter_is_passed_over(self, run: Run, live: Backend) -> None:
        """Who has stopped waiting is not woken in the place of those who still wait."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        gone, gone_address = run.listen(live)
        run(locks.acquire("k", ttl=LONG, owner="bob", waiter=gone_address))
        waiter, address = run.listen(live)
        run(locks.acquire("k", ttl=LONG, owner="cid", waiter=address))
        run(locks.withdraw("k", owner="bob", waiter=gone_address))
        run(locks.release("k", owner="ann"))
        assert run.wait(waiter, 1.0)
        assert not run.wait(gone, 0.0)

    def test_wake_up_is_passed_on(self, run: Run, live: Backend) -> None:
        """Who is woken and gives up at that moment passes the wake-up on to the next."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        woken, woken_address = run.listen(live)
        run(locks.acquire("k", ttl=LONG, owner="bob", waiter=woken_address))
        waiter, address = run.listen(live)
        run(locks.acquire("k", ttl=LONG, owner="cid", waiter=address))
        run(locks.release("k", owner="ann"))
        assert run.wait(woken, 1.0)
        run(locks.withdraw("k", owner="bob", waiter=woken_address))
        assert run.wait(waiter, 1.0), "the wake-up was lost"

    def test_withdraw_releases(self, run: Run, locks: LockStore) -> None:
        """Who gives up while its grant is on the way holds nothing afterwards."""
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        for _ in range(2):
            run(locks.withdraw("k", owner="ann", waiter="nobody:1"))
        assert run(locks.holder("k")) is None
        run(locks.acquire("k", ttl=LONG, owner="bob"))
        run(locks.withdraw("k", owner="ann", waiter="nobody:1"))
        assert run(locks.is_held("k", owner="bob"))

    def test_woken_across_threads(self, run: Run, live: Backend) -> None:
        """Somebody who really waits, in a thread or task, gets the lock soon after its release."""
        locks: LockStore = live.require("locks")
        run(locks.acquire("k", ttl=LONG, owner="ann"))
        woken_after: list[float] = []
        released_at: list[float] = []
        waiting = threading.Event()

        async def waits() -> None:
            waiter = await Listen(live.hub)
            address = live.hub.address(waiter)
            await locks.acquire("k", ttl=LONG, owner="bob", waiter=address)
            waiting.set()
            assert await Wait(waiter, 10.0), "never woken"
            woken_after.append(time.monotonic() - released_at[0])
            assert isinstance(await locks.acquire("k", ttl=LONG, owner="bob"), Grant)

        async def releases() -> None:
            while not waiting.is_set():
                await Sleep(0.01)
            await Sleep(0.05)
            released_at.append(time.monotonic())
            await locks.release("k", owner="ann")

        run.together(waits(), releases())
        assert woken_after[0] < 1.0
