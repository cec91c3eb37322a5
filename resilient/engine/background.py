"""Background work: the chores of one backend on one daemon thread.

The thread starts with the first chore that has something to do and ends when there has been
nothing to do for a while. A blocked event loop does not stop it: so it serves async callers too.
Only a backend that needs an event loop gets a task instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from resilient.engine import clock
from resilient.engine.drivers.sync import Flag, drive
from resilient.engine.forks import forget_in_child
from resilient.engine.plan import Plan

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["Chore", "Worker"]

LINGER = 5.0
"""Seconds without anything to do after which the thread ends."""

log = logging.getLogger("resilient")


class Chore(Protocol):
    """Something to be done in the background, again and again."""

    def due(self) -> float | None:
        """When to run next, on the local clock; `None`: nothing to do."""
        ...

    def run(self) -> Plan[None]:
        """The plan to run when it is due."""
        ...

    def finish(self) -> Plan[None]:
        """The plan to run when the backend is being closed: what would be lost otherwise."""
        ...


class Worker:
    """The thread, or the task, that does the chores of one backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._chores: list[Chore] = []
        self.wakes_at = math.inf
        """When it looks next, on the local clock: something due earlier needs a `nudge`."""
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._event = Flag()  # no lock of its own is left behind where a caller is interrupted
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake_task: Callable[[], None] | None = None
        self._observed: clock.Clock | None = None
        self.wakes_at = math.inf

    def add(self, chore: Chore) -> None:
        """Do this chore from now on."""
        with self._lock:
            self._chores.append(chore)

    def nudge(self) -> None:
        """Look again now: something is due earlier than `wakes_at`."""
        if "sync" not in self._backend.modes:
            self._nudge_task()
            return
        with self._lock:
            self._event.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name=f"resilient-worker-{self._backend.name}", daemon=True
                )
                self._thread.start()

    def go_on(self) -> None:
        """Have another thread do what one that was stopped has left, unless the process ends."""
        if "sync" in self._backend.modes:
            with contextlib.suppress(RuntimeError):
                self.nudge()

    def stop(self) -> None:
        """End the thread after what it does now; a later `nudge` starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._event.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=LINGER)
        if self._task is not None and not self._task.done():
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _next(self) -> float | None:
        moments = [moment for chore in self._chores if (moment := chore.due()) is not None]
        return min(moments, default=None)

    def _work(self) -> None:
        while True:
            self._event.clear()
            self.wakes_at = math.inf  # whatever comes while it looks around is worth a nudge
            # After that, so that a `stop` which set the event before is not overlooked.
            if threading.current_thread() is not self._thread:
                self._do([chore.finish() for chore in self._chores])
                return
            moment = self._next()
            if moment is None:
                if self._lingers():
                    continue
                self._relax()
                return
            if moment > clock.now():
                self.wakes_at = moment
                self._sleep_until(moment)
            self._do([chore.run() for chore in self._due()])

    def _do(self, plans: list[Plan[None]]) -> None:
        for plan in plans:
            try:
                drive(plan)
            except BaseException:  # even `sys.exit()` in a user's function: others need this thread
                log.exception("background work on %s failed", self._backend.name)

    def _lingers(self) -> bool:
        """Wait for something to do; false, and this thread is nobody's any more, if none came."""
        self._event.wait(LINGER)
        with self._lock:
            if self._event.is_set() or self._next() is not None:
                return True
            if self._thread is threading.current_thread():
                self._thread = None
            return False

    def _relax(self) -> None:
        try:
            self._backend.relax()
        except Exception:
            log.exception("%s could not give back what it does not need", self._backend.name)

    def _sleep_until(self, moment: float) -> None:
        if isinstance(clock.current, clock.ManualClock):
            # Its time moves by itself: look again after every move of it.
            if self._observed is not clock.current:
                self._observed = clock.current
                clock.current.observe(self._event.set)
            self._event.wait(1.0)
        else:
            self._event.wait(min(moment - clock.now(), threading.TIMEOUT_MAX))

    def _due(self) -> list[Chore]:
        now = clock.now()
        return [c for c in self._chores if (moment := c.due()) is not None and moment <= now]

    def _nudge_task(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the next call in the loop will give it
            return
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            event = asyncio.Event()
            self._wake_task = event.set
            self._task = loop.create_task(self._work_in_loop(event))
        if self._wake_task is not None:
            self._wake_task()

    async def _work_in_loop(self, event: asyncio.Event) -> None:
        from resilient.engine.drivers.aio import adrive

        try:
            while (moment := self._next()) is not None:
                self.wakes_at = moment
                event.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, moment - clock.now())):
                        await event.wait()
                for chore in self._due():
                    await self._attempt(adrive(chore.run()))
        except asyncio.CancelledError:  # by `stop`, or because the loop is ending
            for chore in self._chores:
                await self._attempt(adrive(chore.finish()))
            raise
        finally:
            self.wakes_at = math.inf

    async def _attempt(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:
            log.exception("background work on %s failed", self._backend.name)
