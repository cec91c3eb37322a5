"""What a circuit has to say: events, kept until no lock is held."""

from __future__ import annotations

from collections import deque

from resilient import events
from resilient.protocols.circuits import CircuitRules, CircuitView, fingerprint

__all__ = ["News"]


class News:
    """The events of one circuit."""

    __slots__ = ("_breach", "_events", "_other")

    def __init__(self) -> None:
        self._events: deque[events.Event] | None = None
        self._breach = ""
        self._other: str | None = None

    def add(self, event: events.Event) -> None:
        """Something has happened; under the circuit's lock."""
        if self._events is None:
            self._events = deque()
        self._events.append(event)

    def compare(self, key: str, rules: CircuitRules, view: CircuitView) -> None:
        """Look at an answer to outcomes: whether others record by other rules, once this process
        has; and whether it would have opened. Under the circuit's lock.
        """
        own = fingerprint(rules)
        if self._other not in (None, view.fingerprint) and view.fingerprint not in ("", own):
            self.add(events.CircuitRulesDiffer(key, own, view.fingerprint))
        self._other = view.fingerprint or own
        if view.breach and not self._breach:
            self.add(events.CircuitWouldOpen(key, view.breach))
        self._breach = view.breach

    def tell(self) -> None:
        """Emit what has happened. Without the lock: subscribers may do what they like."""
        while self._events:
            try:
                event = self._events.popleft()
            except IndexError:  # another thread was faster
                return
            events.emit(event)
