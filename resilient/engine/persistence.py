"""Asking again after a transient error: every operation may be asked twice by the same owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from resilient.engine.plan import NOW, RANDOM, Sleep
from resilient.errors import BackendError

__all__ = ["BUDGET", "asked_again", "asked_until"]

T = TypeVar("T")

BUDGET = 2.0
"""Seconds for which an operation that must not fail lightly is asked again.

It rides out lost connections and a restart of the server; who asks is kept waiting by a longer
outage no longer than that.
"""
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5


async def asked_until(moment: float, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask, and again after transient errors until a moment of the local clock."""
    try:
        return await ask()
    except BackendError as error:
        return await asked_again(error, ask, until=moment)


async def asked_again(error: BackendError, ask: Callable[[], Awaitable[T]], *, until: float) -> T:
    """Ask again after `error`, with growing jittered pauses, until a moment of the local clock.

    Only a lost connection or reply is worth it: an error that is not transient is raised at once.
    The first attempt is the caller's own, so that success costs nothing here.
    """
    pause = FIRST_PAUSE
    try:
        while error.transient and (now := await NOW) < until:
            await Sleep(min(pause * (0.5 + await RANDOM), until - now))
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                return await ask()
            except BackendError as again:
                error = again
        raise error
    finally:
        del error  # its traceback holds this frame: a cycle, if the frame holds it
