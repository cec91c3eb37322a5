"""The answers that take no waiting, and so are the same for sync and async callers."""

from __future__ import annotations

from collections.abc import Callable
from sys import modules
from threading import current_thread
from typing import Any

from resilient.engine import chance, clock, identity
from resilient.engine.plan import ATTEMPT, ENTRY, NEW_OWNER, NOW, RANDOM, IsDead

__all__ = ["ANSWERS", "caller"]

ANSWERS: dict[type, Callable[[Any], Any]] = {
    type(NOW): lambda _: clock.now(),
    type(RANDOM): lambda _: chance.random(),
    type(NEW_OWNER): lambda _: identity.new_owner(),
    type(ATTEMPT): lambda _: (clock.now(), identity.new_owner()),
    type(ENTRY): lambda _: (clock.now(), identity.new_owner(), caller()),
    IsDead: lambda operation: identity.is_dead(operation.owner),
}


def caller() -> object:
    """The running task, or the thread."""
    # Where nobody has imported asyncio, no loop runs.
    asyncio = modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return current_thread()
    return asyncio.current_task() or current_thread()
