"""How long a caller lets its backend take: less than what the transport would wait by itself.

A budget belongs to the code that runs inside of `within`, in that thread or task. Transports ask
for what is left of it when they send; a command that is not answered in time is a `BackendError`.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TypeVar

from resilient.engine.plan import Plan
from resilient.errors import BackendError

__all__ = ["NotAsked", "remaining", "within"]

T = TypeVar("T")

_deadline: ContextVar[float | None] = ContextVar("resilient.budget", default=None)
"""When the backend has had its time, in real seconds: it is a matter of sockets, not of tests."""


class NotAsked(BackendError):
    """It was not asked: the budget has gone into what else was asked at once. No sign of trouble,
    for all that was asked was answered, or has an error of its own.
    """


async def within(seconds: float, plan: Plan[T]) -> T:
    """Run a plan whose backend has so many seconds for all that is asked of it.

    Raises:
        BackendError: It did not answer in time.
    """
    outer = _deadline.get()
    deadline = time.monotonic() + seconds
    try:  # from here on: a thread that is interrupted goes on with the budget that it had
        _deadline.set(deadline if outer is None else min(deadline, outer))
        return await plan
    finally:
        _deadline.set(outer)


def remaining() -> float | None:
    """Seconds that are left to the backend here and now; `None`: the transport's own time."""
    deadline = _deadline.get()
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
