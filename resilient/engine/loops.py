"""Which event loop runs here, for those who shall not import asyncio."""

from __future__ import annotations

from sys import modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["running_loop", "running_task"]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, if one runs."""
    # Where nobody has imported asyncio, none does; nor while another thread is importing it.
    running: Any = getattr(modules.get("asyncio"), "_get_running_loop", None)
    return None if running is None else running()


def running_task() -> asyncio.Task[Any] | None:
    """The task of this thread, if one runs."""
    # As above, without one more call: every lock asks this, several times.
    running: Any = getattr(modules.get("asyncio"), "_get_running_loop", None)
    loop = None if running is None else running()
    return None if loop is None else modules["asyncio"].current_task(loop)
