"""One save at a time: the tasks of one job's body may all want one."""

from __future__ import annotations

from resilient.engine.plan import Listen, Wait
from resilient.engine.signals import Hub

__all__ = ["Turn"]

_hub = Hub()


class Turn:
    """What only one thread or task has at a time. Its plan does not block an event loop."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free = [True]

    async def take(self) -> None:
        """Have it, or wait for it."""
        while not self._taken():
            waiter = await Listen(_hub)
            # Given back before anybody could know of this waiter, it is there now.
            if not self._free:
                await Wait(waiter, _hub.recheck)

    def give(self) -> None:
        """Let the next one have it."""
        self._free.append(True)
        if _hub.has_waiters:
            _hub.wake_all()

    def _taken(self) -> bool:
        # One step for the interpreter, so that two threads cannot both get it.
        try:
            return self._free.pop()
        except IndexError:
            return False
