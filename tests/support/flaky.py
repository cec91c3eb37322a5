"""A store that fails when a test wants it to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import resilient
from resilient.backends.memory import MemoryBackend
from resilient.engine.backend import Backend, Capability
from resilient.engine.budget import remaining
from resilient.errors import BackendError


class Flaky:
    """A store in front of another one, which fails when it is told to.

    Attributes:
        broken: The operations that are refused.
        error: With what they are.
        lost: Those whose next reply is lost.
        asked: What was asked for, in order.
        budgets: Seconds that were left to the last one of each.
    """

    def __init__(self, store: Any) -> None:
        self.store = store
        self.broken: set[str] = set()
        self.error: BaseException = BackendError("the server is away")
        self.lost: set[str] = set()
        self.asked: list[str] = []
        self.budgets: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            self.budgets[name] = math.inf if (left := remaining()) is None else left
            if name in self.broken:
                raise self.error
            answer = await method(*args, **kwargs)
            if name in self.lost:
                self.lost.discard(name)
                raise BackendError("the reply was lost")
            return answer

        return ask


@contextmanager
def flaky_memory(capability: Capability) -> Iterator[tuple[Any, Backend]]:
    """A flaky store of this capability in front of a fresh memory's, and its backend in use."""
    memory = MemoryBackend()
    store: Any = Flaky(getattr(memory, capability))
    backend = Backend("flaky", **{capability: store}, source=memory.hub._source)
    with resilient.using(backend):
        yield store, backend
    memory.close()
    backend.close()
