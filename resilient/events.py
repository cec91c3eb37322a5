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
from typing import ClassVar, dataclass_transform

__all__ = [
    "BackendTrouble",
    "CallTakenOver",
    "CircuitChanged",
    "CircuitRulesDiffer",
    "CircuitWouldOpen",
    "Event",
    "FellBack",
    "JobResumed",
    "LeaseWasLost",
    "LockForceReleased",
    "RetryScheduled",
    "StaleServed",
    "emit",
    "subscribe",
]

log = logging.getLogger("resilient")


@dataclass_transform(frozen_default=True)
class Event:
    """The base of everything that is reported: a frozen record of the annotated fields.

    Type checkers take its subclasses for dataclasses. `dataclasses` itself would take a good part
    of the time of `import resilient`.
    """

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: object, **kwargs: object) -> None:
        names = self._fields
        given = dict(zip(names, args, strict=False)) | kwargs
        if len(args) + len(kwargs) != len(names) or given.keys() != set(names):
            raise TypeError(f"{type(self).__name__}({', '.join(names)}): got {args} {kwargs}")
        vars(self).update(given)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an event is what it was: {name!r} cannot be set")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class CircuitChanged(Event):
    """A circuit has come into another state; once a process that uses the circuit."""

    key: str
    before: str
    after: str
    generation: int
    reason: str


class CircuitWouldOpen(Event):
    """A circuit that is kept from opening by hand (`metrics_only`) would have, and why."""

    key: str
    reason: str


class CircuitRulesDiffer(Event):
    """Processes use one circuit under different rules: versions of a breaker differ."""

    key: str
    own: str
    other: str


class LeaseWasLost(Event):
    """A holder in this process has lost its lease while it was at work."""

    kind: str
    key: str
    fence: int
    reason: str


class LockForceReleased(Event):
    """Somebody in this process has taken a lock from its holder."""

    key: str
    holder: str
    reason: str


class CallTakenOver(Event):
    """An idempotent call runs again because its owner died, perhaps after taking effect."""

    key: str
    attempt: int


class JobResumed(Event):
    """A job goes on where an earlier run stopped."""

    task: str
    attempt: int
    sequence: int


class RetryScheduled(Event):
    """A call failed and will be tried again after a pause."""

    function: str
    attempt: int
    pause: float
    error: BaseException


class FellBack(Event):
    """A call failed, and its fallback answers."""

    function: str
    error: BaseException


class BackendTrouble(Event):
    """A policy did without its backend, as it was configured to."""

    policy: str
    key: str
    error: BaseException


class StaleServed(Event):
    """A cached function failed, and its last value is served for a while longer."""

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
