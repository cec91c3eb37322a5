"""Driving a store's plans from one test text, for sync and for async callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from resilient.engine.backend import Backend, Mode
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Listen, Plan, Wait
from resilient.engine.signals import GiftedWaiter, Waiter

__all__ = ["Run"]

T = TypeVar("T")
TOGETHER = 30.0
"""Seconds for calls that are made at once."""


class Run:
    """How one test calls a store: in the calling thread, or in an event loop of its own.

    Args:
        mode: `"sync"` or `"async"`.

    Example:
        `grant = run(locks.acquire("k", ttl=30))`
    """

    def __init__(self, mode: Mode) -> None:
        self.mode: Mode = mode
        self._runner = asyncio.Runner()

    def __repr__(self) -> str:
        return self.mode

    @property
    def is_async(self) -> bool:
        """Whether plans run in an event loop."""
        return self.mode == "async"

    def __call__(self, plan: Plan[T]) -> T:
        """Run a plan to its end and answer its result."""
        if self.is_async:
            return self._runner.run(adrive(plan))
        return drive(plan)

    def together(self, *plans: Plan[T]) -> list[T]:
        """Run all plans at once, each in a thread or task of its own; their results in order."""
        if self.is_async:
            return self._runner.run(_gathered(plans))
        start = threading.Barrier(len(plans))

        def one(plan: Plan[T]) -> T:
            start.wait(TOGETHER)
            return drive(plan)

        with ThreadPoolExecutor(len(plans)) as pool:
            return list(pool.map(one, plans, timeout=TOGETHER))

    def fresh_loop(self) -> None:
        """End the event loop, as `asyncio.run` does, and go on in another one."""
        self._runner.close()
        self._runner = asyncio.Runner()

    def listen(self, backend: Backend) -> tuple[GiftedWaiter, str]:
        """A new waiter of this mode, and the address under which a store registers it."""

        async def listening() -> GiftedWaiter:
            return await Listen(backend.hub)

        waiter = self(listening())
        return waiter, backend.hub.address(waiter)

    def wait(self, waiter: Waiter, seconds: float) -> bool:
        """Whether the waiter is woken within so many seconds."""

        async def waiting() -> bool:
            return await Wait(waiter, seconds)

        return self(waiting())

    @contextmanager
    def closing(self, backend: Backend) -> Iterator[Backend]:
        """Close the backend, and what it has in the event loop, at exit."""
        try:
            yield backend
        finally:
            if self.is_async:
                self._runner.run(backend.aclose())
            backend.close()

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()


async def _gathered(plans: tuple[Plan[Any], ...]) -> list[Any]:
    async with asyncio.timeout(TOGETHER):
        return await asyncio.gather(*map(adrive, plans))
