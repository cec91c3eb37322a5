"""Idempotent calls against their model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from resilient.protocols.values import Encoded
from resilient.testing.conformance._machines.base import LEASES, READY, Machine, World
from resilient.testing.conformance.models.answers import ANYTHING
from resilient.testing.conformance.models.idempotency import (
    Completed,
    IdempotencyModel,
    InProgress,
)

__all__ = ["IdempotencyMachine"]

KEYS = st.sampled_from(["a", "a", "b"])
OWNERS = st.sampled_from(["ann", "bob"])
TTL = 86400.0
RESULTS = st.sampled_from([b"", b"done", b"\x00\xff"]).map(Encoded)
FINGERPRINTS = st.sampled_from(["x", "x", "x", "y", ""])


class IdempotencyMachine(Machine):
    """Several owners, few calls."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.model = IdempotencyModel()

    @rule(
        key=KEYS,
        owner=OWNERS,
        lease=LEASES,
        fingerprint=FINGERPRINTS,
        times=st.integers(1, 2),
        late=st.booleans(),
        takeover=st.sampled_from([True, True, False]),
    )
    def claim(
        self,
        key: str,
        owner: str,
        lease: float,
        fingerprint: str,
        times: int,
        late: bool,
        takeover: bool,
    ) -> None:
        if late and self.world.advance is not None:
            self._advance(250.0)  # whoever has the call is dead by now
        if self.model.fingerprint(key) in (None, ""):
            fingerprint = "x"  # what an empty one becomes later is left open
        if self.model.expired(key) == owner:
            return  # whether that is the same claim or the next is left open
        for _ in range(times):
            expected = self.model.claim(
                key,
                owner=owner,
                lease=lease,
                ttl=TTL,
                fingerprint=fingerprint,
                takeover=takeover,
            )
            actual = self.ask(
                self.store.claim(
                    self.name(key),
                    owner=owner,
                    lease=lease,
                    ttl=TTL,
                    fingerprint=fingerprint,
                    takeover=takeover,
                )
            )
            self.agree(key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, lease=LEASES, ready=READY)
    def renew(self, key: str, owner: str, lease: float, ready: bool) -> None:
        self._begin(key, owner, ready)
        expected = self.model.renew(key, owner=owner, lease=lease)
        actual = self.ask(self.store.renew(self.name(key), owner=owner, lease=lease))
        self.agree(key, expected, actual)
        if expected is ANYTHING:
            self.delete(key)

    @rule(
        key=KEYS,
        owner=OWNERS,
        result=RESULTS,
        outcome=st.sampled_from(["value", "error", "unstored"]),
        times=st.integers(1, 2),
        ready=READY,
    )
    def complete(
        self, key: str, owner: str, result: Encoded, outcome: str, times: int, ready: bool
    ) -> None:
        self._begin(key, owner, ready)
        for _ in range(times):
            expected = self.model.complete(
                key, owner=owner, result=result, ttl=TTL, outcome=outcome
            )
            actual = self.ask(
                self.store.complete(
                    self.name(key), owner=owner, result=result, ttl=TTL, outcome=outcome
                )
            )
            self.agree(key, expected, actual)

    @rule(key=KEYS, owner=OWNERS, ready=READY)
    def abandon(self, key: str, owner: str, ready: bool) -> None:
        self._begin(key, owner, ready)
        expected = self.model.abandon(key, owner=owner)
        self.agree(key, expected, self.ask(self.store.abandon(self.name(key), owner=owner)))
        if expected is ANYTHING:
            self.delete(key)

    @rule(key=KEYS, owner=OWNERS, ready=READY)
    def expire(self, key: str, owner: str, ready: bool) -> None:
        self._begin(key, owner, ready)
        expected = self.model.expire(key, owner=owner)
        self.agree(key, expected, self.ask(self.store.expire(self.name(key), owner=owner)))

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        expected = self.model.get(key)
        self.agree(key, expected, self.ask(self.store.get(self.name(key))))

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        expected = self.model.delete(key)
        self.agree(key, expected, self.ask(self.store.delete(self.name(key))))

    def _begin(self, key: str, owner: str, ready: bool) -> None:
        if ready and not isinstance(self.model.get(key), InProgress | Completed):
            self.claim(key, owner, 200.0, "x", 1, False, True)
