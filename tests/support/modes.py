"""One test text for `def` and `async def`.

    def test_counts(mode: Mode) -> None:
        async def body(n: int) -> int:          # always written as a coroutine function
            await mode.sleep(0.01)              # the only thing that it may wait for
            return n + 1

        counted = mode.decorate(cached("n:{n}", ttl=60), body)
        assert mode.call(counted, 1) == 2
        assert mode.together(*[partial(counted, 2)] * 10) == [3] * 10

In sync mode the body becomes a `def` that is run in the calling thread, `together` uses threads and
`entered` a `with` statement; in async mode it stays an `async def`, and the same things are done by
`asyncio.gather` and `async with`. All calls of one test run in one event loop, as in an
application; `fresh_loop()` goes on with a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Self

__all__ = ["Mode", "ModeName"]

ModeName = Literal["sync", "async"]


class Mode:
    """How a test calls functions: directly, or awaited in an event loop of its own."""

    def __init__(self, name: ModeName) -> None:
        self.name: ModeName = name
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._runner.close()

    def __repr__(self) -> str:
        return self.name

    @property
    def is_async(self) -> bool:
        """Whether functions are `async def` in this mode."""
        return self.name == "async"

    # --- making functions

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """The body as this mode's kind of function, of the same name, signature and annotations.

        Args:
            body: an `async def` that awaits nothing but `mode.sleep`, or a plain `def`.
        """
        if inspect.iscoroutinefunction(body) == self.is_async:
            return body
        if self.is_async:

            @functools.wraps(body)
            async def as_coroutine(*args: Any, **kwargs: Any) -> Any:
                return body(*args, **kwargs)

            return as_coroutine

        @functools.wraps(body)
        def as_def(*args: Any, **kwargs: Any) -> Any:
            return _finish(body(*args, **kwargs))

        # Decorators look through wrapt- and functools-made wrappers when they ask whether a
        # function is a coroutine function; this one is none, whatever it wraps.
        as_def.__signature__ = inspect.signature(body)  # type: ignore[attr-defined]  # inspect reads it
        del as_def.__wrapped__
        return as_def

    def decorate(
        self, decorator: Callable[[Any], Any], body: Callable[..., Any]
    ) -> Callable[..., Any]:
        """`decorator` around `function(body)`."""
        decorated: Callable[..., Any] = decorator(self.function(body))
        return decorated

    # --- calling them, from the test

    def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it and give its result; what an `async def` or a control of one gives is awaited.

        In sync mode an awaitable result is an error: something is a coroutine that should not be.
        """
        if self.is_async:
            return self._runner.run(_awaited(fn, args, kwargs))
        result = fn(*args, **kwargs)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(f"{fn!r} gave an awaitable in sync mode")
        return result

    def together(
        self, *calls: Callable[[], Any], return_exceptions: bool = False, timeout: float = 30
    ) -> list[Any]:
        """Make all calls at once, each in its own thread or task; their results in that order.

        Args:
            calls: functions of no arguments: `partial(f, 1)`.
            return_exceptions: give errors as results, instead of raising the first.
            timeout: seconds for all of them.
        """
        if self.is_async:

            async def gathered() -> list[Any]:
                async with asyncio.timeout(timeout):
                    return await asyncio.gather(
                        *(_awaited(call, (), {}) for call in calls),
                        return_exceptions=return_exceptions,
                    )

            return self._runner.run(gathered())

        start = threading.Barrier(len(calls))

        def one(call: Callable[[], Any]) -> Any:
            start.wait(timeout)
            try:
                return self.call(call)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(one, calls, timeout=timeout))

    @contextlib.contextmanager
    def entered(self, manager: Any) -> Iterator[Any]:
        """`with manager` or `async with manager`, around plain test code.

        In async mode the loop stands still inside the block, except during `call`.
        """
        if not self.is_async:
            with manager as value:
                yield value
            return
        value = self.call(manager.__aenter__)
        try:
            yield value
        except BaseException as error:
            if not self.call(manager.__aexit__, type(error), error, error.__traceback__):
                raise
        else:
            self.call(manager.__aexit__, None, None, None)

    def fresh_loop(self) -> None:
        """End this test's event loop, as `asyncio.run` does, and go on in a new one."""
        self._runner.close()
        self._runner = asyncio.Runner()

    # --- inside a body

    def sleep(self, seconds: float) -> Awaitable[None]:
        """To be awaited in a body: blocks the thread in sync mode, the task in async mode."""
        return asyncio.sleep(seconds) if self.is_async else _blocking_sleep(seconds)

    async def within(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """To be awaited in a body: calls another function of this mode, and gives its result."""
        result = fn(*args, **kwargs)
        return await result if self.is_async and inspect.isawaitable(result) else result


async def _blocking_sleep(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - the caller is a `def` by then


async def _awaited(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    result = fn(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends to its end, in this thread."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise TypeError("a body may await nothing but mode.sleep and mode.within")
