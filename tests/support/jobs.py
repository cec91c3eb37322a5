"""Jobs in one test text for `def` and `async def`, and a way to kill them without a process.

A body's job is left without an annotation: it is a `Job` in sync mode and an `AsyncJob` in async
mode. `each(job.iterate(...))` is what its loops go through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from resilient.backends.memory import MemoryBackend
from resilient.engine.backend import Backend

__all__ = ["Killable", "Killed", "each"]


class Killed(BaseException):
    """The process is gone: nothing that it does from now on arrives anywhere."""


class each:  # noqa: N801 - it reads as a word of the `for` statement
    """The items of a loop, for `async for` in both modes; dropped as soon as the loop is left."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __aiter__(self) -> each:
        return self

    async def __anext__(self) -> Any:
        if not isinstance(self._items, Iterator):
            return await anext(self._items)
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None


class Killable:
    """A memory backend whose client can be killed in the middle of anything.

    What a killed client asks raises `Killed` and does nothing, so that neither the job's clean-up
    nor anything else of it leaves a trace.
    """

    def __init__(self) -> None:
        self.memory = MemoryBackend()
        self.backend = Backend("killable", checkpoints=_Store(self))
        self.is_dead = False
        self._moments: int | None = None

    def moment(self) -> None:
        """Something is about to happen: the client may be killed just before it."""
        if self.is_dead:
            raise Killed
        if self._moments is not None:
            self._moments -= 1
            if self._moments < 0:
                self.is_dead = True
                raise Killed

    @contextmanager
    def killed_after(self, moments: int | None) -> Iterator[None]:
        """Kill it after so many moments (`None`: never); a new client is there afterwards."""
        self._moments = moments
        try:
            yield
        finally:
            self._moments = None
            self.is_dead = False


class _Store:
    """The checkpoints of the memory backend, as long as the client lives."""

    def __init__(self, client: Killable) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client.memory.checkpoints, name)

        async def asked(*args: Any, **kwargs: Any) -> Any:
            self._client.moment()  # killed before the request is sent,
            answer = await method(*args, **kwargs)
            self._client.moment()  # or before its answer is there
            return answer

        return asked
