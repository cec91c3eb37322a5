"""Ratios that hold on a busy machine: the fastest of many short batches, taken in turns.

What is counted is processor time: of the thread that calls, and of a server's process where one has
its part in it. Noise only ever makes a batch slower. So what is measured goes on until the ratio
holds, or until it has had so many chances that it does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

Call = Callable[[int], Any]
BATCHES = 15
CHANCES = 20


class Costs:
    """The seconds of one call of several functions; those of coroutine functions are awaited.

    Args:
        functions: Functions of a number, by name.
        calls: How many calls make a batch.
        server: The process of a server whose seconds count as well.
        now: The clock, where it is not the processor time of the thread that calls.
    """

    def __init__(
        self,
        functions: dict[str, Call],
        calls: int = 50,
        *,
        server: int | None = None,
        now: Callable[[], float] = time.thread_time,
    ) -> None:
        self._functions = functions
        self._calls = calls
        self._now = now if server is None else partial(seconds_of_both, server)
        self._best = dict.fromkeys(functions, float("inf"))

    def __getitem__(self, name: str) -> float:
        return self._best[name]

    def settle(self, ratio: Callable[[Costs], float], limit: float) -> float:
        """Measure until the ratio is within the limit, and answer the ratio anyway."""
        for _ in range(CHANCES):
            asyncio.run(self._measure())
            if ratio(self) <= limit:
                break
        return ratio(self)

    async def _measure(self) -> None:
        gc.collect()
        gc.disable()
        try:
            for _ in range(BATCHES):
                for name, function in self._functions.items():
                    took = await self._batch(function) / self._calls
                    self._best[name] = min(self._best[name], took)
        finally:
            gc.enable()

    async def _batch(self, function: Call) -> float:
        numbers = repeat(7, self._calls)
        if inspect.iscoroutinefunction(function):
            began = self._now()
            for n in numbers:
                await function(n)
        else:
            began = self._now()
            for n in numbers:
                function(n)
        return self._now() - began


@contextlib.contextmanager
def on_one_core(*processes: int) -> Iterator[None]:
    """Keep this thread, and these processes for good, on one core.

    Who asks and who answers cost half as much there as on two: and where the system has put them is
    no matter of what is measured.
    """
    before = os.sched_getaffinity(0)
    core = {max(before)}
    for process in processes:
        os.sched_setaffinity(process, core)
    os.sched_setaffinity(0, core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def seconds_of_both(server: int) -> float:
    """Processor time of this thread and of a server's main thread."""
    nanoseconds = int(Path(f"/proc/{server}/schedstat").read_text().split()[0])
    return time.thread_time() + nanoseconds / 1e9
