"""How calls reach the server: blocking, or from the running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from resilient.backends.postgres.blocking import Blocking
from resilient.backends.postgres.commands import Call, Several
from resilient.backends.postgres.failures import ConnectionLost, Refused, raised
from resilient.backends.postgres.looped import Looped
from resilient.backends.postgres.settings import Settings
from resilient.engine.crew import Crew, aside
from resilient.engine.forks import forget_in_child

__all__ = ["PostgresTransport"]

CREW = 8
"""Threads that connect for event loops."""

_inherited: list[object] = []
"""What a forked child has of its parent's loops: nothing of it may be closed there."""


class PostgresTransport:
    """Calls functions on one server; thread-safe, and safe to use after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._blocking = Blocking(settings)
        self._loops: dict[asyncio.AbstractEventLoop, Looped] = {}
        self._crew = Crew("resilient-postgres", CREW)
        forget_in_child(self._forget)

    def send(self, call: Call) -> Any:
        """Make a call and block for its answer."""
        try:
            return self._blocking.call(call)
        except (Refused, ConnectionLost, TimeoutError, OSError) as error:
            made = raised(self._settings.name, error)
            raise made from made.__cause__

    def send_many(self, calls: Sequence[Call]) -> list[Any]:
        """Make several calls in one trip; the answer or the exception for each."""
        name = self._settings.name
        try:
            answers = self._blocking.call(Several(calls))
        except (Refused, ConnectionLost, TimeoutError, OSError) as error:
            return [raised(name, error) for _ in calls]
        return [raised(name, each) if type(each) is Refused else each for each in answers]

    def asend(self, call: Call) -> asyncio.Future[Any]:
        """Make a call from the running loop."""
        loop = asyncio.get_running_loop()
        looped = self._loops.get(loop)
        if looped is None:
            self._loops = {each: its for each, its in self._loops.items() if not each.is_closed()}
            looped = self._loops[loop] = Looped(self._settings, loop, self._crew)
        return looped.ask(call)

    def close(self) -> None:
        """Close the idle connections of blocking callers. The transport may be used again."""
        self._blocking.close()
        self._crew.stop()

    async def aclose(self) -> None:
        """Close those and the running loop's own connections."""
        self._blocking.close()
        looped = self._loops.pop(asyncio.get_running_loop(), None)
        if looped is not None:
            await looped.close()
        await aside(self._crew.stop)

    def _forget(self) -> None:
        _inherited.append(self._loops)
        self._loops = {}
        self._crew.forget()
