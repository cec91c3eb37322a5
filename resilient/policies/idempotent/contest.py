"""One caller's attempt to claim one call."""

from __future__ import annotations

from typing import TypeAlias

from resilient.engine.identity import describe
from resilient.engine.plan import Plan
from resilient.errors import CallInProgress
from resilient.policies.idempotent.settings import POLICY, Settings
from resilient.protocols.idempotency import (
    Claimed,
    Completed,
    IdempotencyStore,
    InProgress,
    Mismatch,
    Unknown,
)

__all__ = ["Answer", "ClaimContest"]

Answer: TypeAlias = Claimed | InProgress | Completed | Mismatch | Unknown


class ClaimContest:
    """One caller's attempt to claim one call (`resilient.engine.joining.SharedContest`)."""

    __slots__ = ("_settings", "fingerprint", "key", "owner", "store", "ttl")

    def __init__(
        self,
        settings: Settings,
        store: IdempotencyStore,
        key: str,
        owner: str,
        fingerprint: str,
        longest: float,
    ) -> None:
        self._settings = settings
        self.store = store
        self.key = key
        self.owner = owner
        self.fingerprint = fingerprint
        self.ttl = longest if settings.ttl is None else settings.ttl

    @property
    def place(self) -> tuple[str, str, bool]:
        """Duplicates of one payload wait together, if they would do the same with it."""
        return self.key, self.fingerprint, self._settings.takes_over

    def ask(self, waiter: str | None) -> Plan[Answer]:
        """Try once."""
        settings = self._settings
        return self.store.claim(
            self.key,
            owner=self.owner,
            lease=settings.lease,
            ttl=self.ttl,
            fingerprint=self.fingerprint,
            waiter=waiter,
            takeover=settings.takes_over,
        )

    def is_busy(self, answer: Answer) -> bool:
        """Whether the call is being made by somebody else."""
        return type(answer) is InProgress

    def is_shared(self, answer: Answer) -> bool:
        """Whether that is the answer for every duplicate."""
        return isinstance(answer, Completed | Unknown)

    def evict(self, owner: str) -> Plan[object]:
        """End the claim of an owner that died, perhaps after the call took effect."""
        return self.store.expire(self.key, owner=owner)

    def withdraw(self, waiter: str | None) -> Plan[object]:
        """Give up what may have been claimed; what is registered as waiting expires."""
        return self.store.abandon(self.key, owner=self.owner)

    def refusal(self, answer: Answer, waited: float) -> CallInProgress:
        """The error that says who makes the call."""
        assert isinstance(answer, InProgress)
        return CallInProgress(
            f"{self._settings.name} is running under the idempotency key {self.key!r} in "
            f"{describe(answer.owner)} (attempt {answer.attempt}, {answer.ttl:.1f} s left unless "
            f"renewed); waited {waited:.1f} s",
            policy=POLICY,
            key=self.key,
            retry_after=answer.ttl,
        )
