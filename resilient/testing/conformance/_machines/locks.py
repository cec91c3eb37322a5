"""Locks against their model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from resilient.protocols.locks import LOCK, READ, WRITE, LockMode, semaphore_of
from resilient.testing.conformance._machines.base import LEASES, READY, Machine, World
from resilient.testing.conformance.models.locks import LockModel, Mode

__all__ = ["LockMachine"]

KEYS = st.sampled_from(["a", "a", "b"])
NAMES = ["ann", "bob", "cid"]
OWNERS = st.sampled_from(NAMES)
MODES = st.sampled_from([LOCK, LOCK, READ, WRITE, semaphore_of(2)])
TIMES = st.integers(1, 2)
"""How often the same is asked: a client whose reply was lost asks again."""


class LockMachine(Machine):
    """Several owners, few locks, in each of the modes."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model = LockModel()

    @rule(key=KEYS, owner=OWNERS, ttl=LEASES, times=TIMES, mode=MODES)
    def acquire(self, key: str, owner: str, ttl: float, times: int, mode: LockMode) -> None:
        for _ in range(times):
            self._acquire(key, owner, ttl, mode)

    @rule(key=KEYS, ttl=LEASES, mode=MODES, first=st.sampled_from(range(3)))
    def acquire_in_turn(self, key: str, ttl: float, mode: LockMode, first: int) -> None:
        """One after the other, so that there are more than may hold it."""
        for owner in NAMES[first:] + NAMES[:first]:
            self._acquire(key, owner, ttl, mode)

    def _acquire(self, key: str, owner: str, ttl: float, mode: LockMode) -> None:
        expected = self.model.acquire(key, ttl=ttl, owner=owner, mode=Mode(*mode), note=owner)
        actual = self.ask(
            self.store.acquire(self.name(key), ttl=ttl, owner=owner, mode=mode, note=owner)
        )
        self.agree(mode.family + key, expected, actual)

    @rule(owner=OWNERS, ttl=LEASES, times=TIMES)
    def acquire_all(self, owner: str, ttl: float, times: int) -> None:
        for _ in range(times):
            answer = self.ask(
                self.store.acquire_all([self.name("a"), self.name("b")], ttl=ttl, owner=owner)
            )
            if answer is None:  # the server cannot
                return
            assert self.model.acquire_all(["a", "b"], ttl=ttl, owner=owner) == (
                type(answer) is list
            )
            self._step_time_of_locks(owner, answer)

    def _step_time_of_locks(self, owner: str, answer: object) -> None:
        if isinstance(answer, list):
            for key, grant in zip(["a", "b"], answer, strict=True):
                mine = self.model._lock(key, Mode(*LOCK)).holders[owner]
                self.numbers(LOCK.family + key).check(mine.fence, grant.fence)

    @rule(key=KEYS, owner=OWNERS, ttl=LEASES, ready=READY, mode=MODES)
    def renew(self, key: str, owner: str, ttl: float, ready: bool, mode: LockMode) -> None:
        self._hold(key, owner, ready, mode)
        expected = self.model.renew(key, owner=owner, ttl=ttl, mode=Mode(*mode))
        actual = self.ask(self.store.renew(self.name(key), owner=owner, ttl=ttl, mode=mode))
        self.agree(mode.family + key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, times=TIMES, ready=READY, mode=MODES, fair=st.booleans())
    def release(
        self, key: str, owner: str, times: int, ready: bool, mode: LockMode, fair: bool
    ) -> None:
        self._hold(key, owner, ready, mode)
        known = self.model.latest(key, owner=owner, mode=Mode(*mode))
        fence = self.numbers(mode.family + key)[known]
        for _ in range(times):
            expected = self.model.release(key, owner=owner, mode=Mode(*mode))
            actual = self.ask(
                self.store.release(self.name(key), owner=owner, fence=fence, mode=mode, fair=fair)
            )
            self.agree(mode.family + key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, to=OWNERS, ttl=LEASES, times=TIMES, ready=READY)
    def transfer(self, key: str, owner: str, to: str, ttl: float, times: int, ready: bool) -> None:
        self._hold(key, owner, ready, LOCK)
        for _ in range(times):
            expected = self.model.transfer(key, owner=owner, to=to, ttl=ttl)
            actual = self.ask(self.store.transfer(self.name(key), owner=owner, to=to, ttl=ttl))
            self.agree(LOCK.family + key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, times=TIMES, ready=READY, mode=MODES)
    def withdraw(self, key: str, owner: str, times: int, ready: bool, mode: LockMode) -> None:
        self._hold(key, owner, ready, mode)
        for _ in range(times):
            self.model.withdraw(key, owner=owner, mode=Mode(*mode))
            waiter = f"nobody:{owner}"
            self.ask(self.store.withdraw(self.name(key), owner=owner, waiter=waiter, mode=mode))

    @rule(key=KEYS, mode=MODES)
    def force_release(self, key: str, mode: LockMode) -> None:
        expected = self.model.force_release(key, mode=Mode(*mode))
        actual = self.ask(self.store.force_release(self.name(key), mode=mode))
        self.agree(mode.family + key, expected, actual)

    @rule(key=KEYS, mode=MODES)
    def holder(self, key: str, mode: LockMode) -> None:
        expected = self.model.holder(key, mode=Mode(*mode))
        actual = self.ask(self.store.holder(self.name(key), mode=mode))
        self.agree(mode.family + key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, mode=MODES)
    def is_held(self, key: str, owner: str, mode: LockMode) -> None:
        expected = self.model.is_held(key, owner=owner, mode=Mode(*mode))
        actual = self.ask(self.store.is_held(self.name(key), owner=owner, mode=mode))
        self.agree(mode.family + key, expected, actual)

    def _hold(self, key: str, owner: str, ready: bool, mode: LockMode) -> None:
        if ready and self.model.holder(key, mode=Mode(*mode)) is None:
            self.acquire(key, owner, 200.0, 1, mode)
