"""The answers that take no waiting, and so are the same for sync and async callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient.engine import chance, clock, identity
from resilient.engine.plan import NOW, RANDOM, IsDead

__all__ = ["ANSWERS"]

ANSWERS: dict[type, Callable[[Any], Any]] = {
    type(NOW): lambda _: clock.now(),
    type(RANDOM): lambda _: chance.random(),
    IsDead: lambda operation: identity.is_dead(operation.owner),
}
