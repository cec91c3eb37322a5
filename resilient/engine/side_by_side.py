"""Calls of the user's own, side by side: in threads, or as tasks of the running loop.

Both read the items as there is room for them, and give each outcome as soon as it is there, with
the number of its item. Who stops asking has what is under way end first: in threads it cannot be
ended, and a task is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from itertools import islice
from typing import Any, TypeVar

__all__ = ["as_tasks", "in_threads"]

T = TypeVar("T")
NOTHING: Any = object()
Outcome = tuple[int, Any, BaseException | None]
"""The number of an item, its result, and what was raised instead."""


def in_threads(
    call: Callable[[int, T], Any], items: Iterable[T], workers: int
) -> Generator[Outcome, None, None]:
    """Call `call(number, item)` for each item in so many threads: number, result, error."""
    source: Iterator[tuple[int, T]] = enumerate(items)
    running: dict[Future[Any], int] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="resilient-map") as pool:
        while True:
            for number, item in islice(source, workers - len(running)):
                running[pool.submit(copy_context().run, call, number, item)] = number
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                error = done.exception()
                yield running.pop(done), None if error else done.result(), error


async def as_tasks(
    call: Callable[[int, T], Coroutine[Any, Any, Any]],
    items: Iterable[T] | AsyncIterable[T],
    workers: int,
) -> AsyncGenerator[Outcome, None]:
    """Await `call(number, item)` for each item in so many tasks: number, result, error."""
    source = aiter(items) if isinstance(items, AsyncIterable) else None
    others = iter(()) if isinstance(items, AsyncIterable) else iter(items)
    running: dict[asyncio.Task[Any], int] = {}
    number, is_over = 0, False
    try:
        while True:
            while not is_over and len(running) < workers:
                item = await anext(source, NOTHING) if source else next(others, NOTHING)
                if item is NOTHING:
                    is_over = True
                    break
                running[asyncio.create_task(call(number, item))] = number
                number += 1
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                place, error = running.pop(each), _error_of(each)
                yield place, None if error else each.result(), error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()
