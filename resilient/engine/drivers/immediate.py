"""The answers that take no waiting, and so are the same for sync and async callers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from resilient.engine import clock, identity
from resilient.engine.plan import ATTEMPT, NEW_OWNER, NOW, RANDOM, IsDead

__all__ = ["ANSWERS"]


ANSWERS: dict[type, Callable[[Any], Any]] = {
    type(NOW): lambda _: clock.now(),
    type(RANDOM): lambda _: random.random(),
    type(NEW_OWNER): lambda _: identity.new_owner(),
    type(ATTEMPT): lambda _: (clock.now(), identity.new_owner()),
    IsDead: lambda operation: identity.is_dead(operation.owner),
}
