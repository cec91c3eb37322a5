"""One store of circuits behind several backends, as several processes share a server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from resilient import (
    Backend,
    BackendError,
    CircuitBreaker,
)
from resilient.engine.circuits import registry
from resilient.engine.clock import ManualClock
from resilient.engine.drivers.aio import Reply
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Ask
from resilient.protocols.circuits import CircuitStore
from resilient.resolving import resolve
from tests.support.modes import Mode

__all__ = ["Shared", "Watched", "enter", "fail", "known", "tick"]


class Watched:
    """A store behind a transport, as on a server: it notes what it is asked, and by which thread.

    It can be away, and it can be slow.
    """

    def __init__(self, store: CircuitStore) -> None:
        self._store = store
        self.is_away = False
        self.answers = threading.Event()
        self.answers.set()
        self.asked: list[tuple[str, str]] = []
        self.outcomes: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not hasattr(CircuitStore, name):
            raise AttributeError(name)

        async def method(*args: Any, **kwargs: Any) -> Any:
            return await Ask(self, (name, args, kwargs))

        return method

    def send(self, command: Any) -> Any:
        """Answer a blocking caller."""
        name, args, kwargs = command
        self.asked.append((name, threading.current_thread().name))
        self.answers.wait(5)
        if self.is_away:
            raise BackendError("the server is away")
        if "outcomes" in kwargs:
            self.outcomes.append(kwargs["outcomes"])
        return drive(getattr(self._store, name)(*args, **kwargs))

    def asend(self, command: Any) -> Reply:
        """Answer a caller in an event loop."""
        return Reply.of(asyncio.to_thread(self.send, command))

    def inline(self) -> list[str]:
        """What callers have waited for."""
        return [name for name, thread in self.asked if not thread.startswith("resilient-worker")]


numbers = count()


class Shared:
    """One memory store, and several backends on it: as several processes share a server."""

    def __init__(self) -> None:
        self.memory = resolve("memory://")
        self.store = Watched(self.memory.require("circuits"))
        self._backends: list[Backend] = []
        self.memory.hub.listen("circuits", self._deliver)

    def _deliver(self, message: str | None) -> None:
        for backend in self._backends:
            backend.hub.deliver("circuits", message)

    def process(self, **options: Any) -> Backend:
        """A backend of its own on the same store."""
        backend = Backend(f"process {next(numbers)}", circuits=self.store, **options)
        self._backends.append(backend)
        return backend

    def close(self) -> None:
        """End their threads."""
        for backend in self._backends:
            backend.close()


def enter(mode: Mode, breaker: CircuitBreaker, error: Exception | None = None) -> None:
    """One guarded block that ends well, or by the error."""
    if error is None:
        with mode.entered(breaker.guard()):
            return
    with pytest.raises(type(error)), mode.entered(breaker.guard()):
        raise error


def fail(mode: Mode, breaker: CircuitBreaker, times: int = 1) -> None:
    """So many guarded blocks that fail."""
    for _ in range(times):
        enter(mode, breaker, ConnectionError())


def tick(clock: ManualClock) -> bool:
    """Move the clock on and leave the background a moment; never true."""
    clock.advance(0.1)
    time.sleep(0.005)
    return False


def known(backend: Backend) -> registry.KnownCircuits:
    """The circuits of a backend that this process knows."""
    circuits: registry.KnownCircuits = vars(backend)[registry.ATTRIBUTE]
    return circuits
