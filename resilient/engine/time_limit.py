"""A limit on the time that a call takes: a task is cancelled, a thread is left to itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

from resilient.errors import TimedOut

__all__ = ["alimited", "limited"]


async def alimited(call: Coroutine[Any, Any, Any], seconds: float, name: str) -> Any:
    """Await a call, and cancel it when its time is over.

    Raises:
        TimedOut: It was.
    """
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await call
    except TimeoutError as error:
        # The body may have raised one of its own, even while it was being cancelled.
        if limit.expired() and isinstance(error.__cause__, asyncio.CancelledError):
            raise _timed_out(name, seconds) from None
        raise


def limited(call: Callable[[], Any], seconds: float, name: str) -> Any:
    """Run a call in a thread of its own, and leave it alone when its time is over.

    Raises:
        TimedOut: It was. The call goes on; nobody hears of its end.
    """
    context = copy_context()
    ended = threading.Event()
    answers: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(context.run(call))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name=f"resilient-timeout-{name}", daemon=True).start()
    if not ended.wait(min(seconds, threading.TIMEOUT_MAX)):
        raise _timed_out(name, seconds)
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # its traceback holds this frame: a cycle otherwise
    return answers[0]


def _timed_out(name: str, seconds: float) -> TimedOut:
    return TimedOut(f"{name} did not end within {seconds:g} s")
