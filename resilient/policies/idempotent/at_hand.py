"""Outcomes that this process replays without asking the backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.engine.local_store import LocalStore

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.policies.idempotent.settings import Settings
    from resilient.protocols.idempotency import Completed

__all__ = ["AtHand", "Outcomes", "outcomes_at_hand"]

LOCAL_SECONDS = 30.0
"""For how long an outcome at hand is replayed without asking: who forgets a key in another process
is heard of after that at the latest."""


class Outcomes(LocalStore):
    """The outcomes of one function on one backend.

    Attributes:
        forgettings: How often one was forgotten. What was asked for before is not kept after it.
    """

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize)
        self.forgettings = 0

    def forget(self, key: str) -> None:
        """Replay a call no more; nor what anybody is being told of it at this moment."""
        with self._lock:
            self.forgettings += 1
            self.drop(key)


def outcomes_at_hand(settings: Settings, backend: Backend, maxsize: int) -> Outcomes:
    """The outcomes that this process keeps of one function, at most so many."""
    found = backend.nearby.store(settings, lambda: Outcomes(maxsize))
    assert isinstance(found, Outcomes)
    return found


class AtHand:
    """One call's place among the outcomes at hand, from before it asks the backend."""

    __slots__ = ("_fingerprint", "_forgettings", "_key", "_values")

    def __init__(self, values: Outcomes, key: str, fingerprint: str) -> None:
        self._values = values
        self._key = key
        self._fingerprint = fingerprint
        self._forgettings = values.forgettings

    def find(self) -> tuple[str, Completed] | None:
        """The outcome to be replayed, and the fingerprint of its call."""
        entry = self._values.find(self._key)
        if entry is None:
            return None
        entry.hits += 1
        found: tuple[str, Completed] = entry.value  # as `keep` has stored it
        return found

    def keep(self, began: float, outcome: Completed) -> None:
        """Replay this from here, for as long as that is certain to be right."""
        self._values.put(
            self._key,
            (self._fingerprint, outcome),
            began + min(outcome.ttl, LOCAL_SECONDS),
            unless=lambda: self._values.forgettings != self._forgettings,
        )
