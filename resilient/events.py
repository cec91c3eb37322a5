"""What happened, as data: frozen records handed to whoever subscribed.

Example:
    >>> import resilient
    >>> seen = []
    >>> unsubscribe = resilient.subscribe(seen.append)
    >>> unsubscribe()
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "BackendTrouble",
    "CallTakenOver",
    "CircuitChanged",
    "CircuitRulesDiffer",
    "CircuitWouldOpen",
    "Event",
    "JobResumed",
    "LeaseWasLost",
    "LockForceReleased",
    "RetryScheduled",
    "emit",
    "subscribe",
]

log = logging.getLogger("resilient")


@dataclass(frozen=True, slots=True)
class Event:
    """The base of everything that is reported."""


@dataclass(frozen=True, slots=True)
class CircuitChanged(Event):
    """A circuit has come into another state; once a process that uses the circuit."""

    key: str
    before: str
    after: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class CircuitWouldOpen(Event):
    """A circuit that is kept from opening by hand (`metrics_only`) would have, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class CircuitRulesDiffer(Event):
    """Processes use one circuit under different rules: versions of a breaker differ."""

    key: str
    own: str
    other: str


@dataclass(frozen=True, slots=True)
class LeaseWasLost(Event):
    """A holder in this process has lost its lease while it was at work."""

    kind: str
    key: str
    fence: int
    reason: str


@dataclass(frozen=True, slots=True)
class LockForceReleased(Event):
    """Somebody in this process has taken a lock from its holder."""

    key: str
    holder: str
    reason: str


@dataclass(frozen=True, slots=True)
class CallTakenOver(Event):
    """An idempotent call runs again because its owner died, perhaps after taking effect."""

    key: str
    attempt: int


@dataclass(frozen=True, slots=True)
class JobResumed(Event):
    """A job goes on where an earlier run stopped."""

    task: str
    attempt: int
    sequence: int


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """A call failed and will be tried again after a pause."""

    function: str
    attempt: int
    pause: float
    error: BaseException


@dataclass(frozen=True, slots=True)
class BackendTrouble(Event):
    """A policy did without its backend, as it was configured to."""

    policy: str
    key: str
    error: BaseException


Subscriber = Callable[[Event], None]

_subscribers: tuple[Subscriber, ...] = ()


def subscribe(subscriber: Subscriber) -> Callable[[], None]:
    """Have a function called with every event from now on; returns what ends that.

    It is called in the thread where the event happens and should return at once. What it raises
    is logged, never passed on to the function that the event is about.
    """
    global _subscribers
    _subscribers = (*_subscribers, subscriber)

    def unsubscribe() -> None:
        global _subscribers
        _subscribers = tuple(each for each in _subscribers if each is not subscriber)

    return unsubscribe


def emit(event: Event) -> None:
    """Hand an event to every subscriber."""
    for subscriber in _subscribers:
        try:
            subscriber(event)
        except Exception:
            log.exception("a subscriber failed on %r", event)
