"""Locks against their model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from resilient.testing.conformance._machines.base import LEASES, READY, Machine, World
from resilient.testing.conformance.models.locks import LockModel

__all__ = ["LockMachine"]

KEYS = st.sampled_from(["a", "a", "b"])
OWNERS = st.sampled_from(["ann", "bob"])
TIMES = st.integers(1, 2)
"""How often the same is asked: a client whose reply was lost asks again."""


class LockMachine(Machine):
    """Several owners, few locks."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model = LockModel()

    @rule(key=KEYS, owner=OWNERS, ttl=LEASES, times=TIMES)
    def acquire(self, key: str, owner: str, ttl: float, times: int) -> None:
        for _ in range(times):
            expected = self.model.acquire(key, ttl=ttl, owner=owner)
            actual = self.ask(self.store.acquire(self.name(key), ttl=ttl, owner=owner))
            self.agree(key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, ttl=LEASES, ready=READY)
    def renew(self, key: str, owner: str, ttl: float, ready: bool) -> None:
        self._hold(key, owner, ready)
        expected = self.model.renew(key, owner=owner, ttl=ttl)
        actual = self.ask(self.store.renew(self.name(key), owner=owner, ttl=ttl))
        self.agree(key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, times=TIMES, ready=READY)
    def release(self, key: str, owner: str, times: int, ready: bool) -> None:
        self._hold(key, owner, ready)
        for _ in range(times):
            expected = self.model.release(key, owner=owner)
            actual = self.ask(self.store.release(self.name(key), owner=owner))
            self.agree(key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, times=TIMES, ready=READY)
    def withdraw(self, key: str, owner: str, times: int, ready: bool) -> None:
        self._hold(key, owner, ready)
        for _ in range(times):
            self.model.withdraw(key, owner=owner)
            waiter = f"nobody:{owner}"
            self.ask(self.store.withdraw(self.name(key), owner=owner, waiter=waiter))

    @rule(key=KEYS)
    def force_release(self, key: str) -> None:
        expected = self.model.force_release(key)
        self.agree(key, expected, self.ask(self.store.force_release(self.name(key))))

    @rule(key=KEYS)
    def holder(self, key: str) -> None:
        expected = self.model.holder(key)
        self.agree(key, expected, self.ask(self.store.holder(self.name(key))))

    @rule(key=KEYS, owner=OWNERS)
    def is_held(self, key: str, owner: str) -> None:
        expected = self.model.is_held(key, owner=owner)
        self.agree(key, expected, self.ask(self.store.is_held(self.name(key), owner=owner)))

    def _hold(self, key: str, owner: str, ready: bool) -> None:
        if ready and self.model.holder(key) is None:
            self.acquire(key, owner, 200.0, 1)
