"""The helper that runs one test text over `def` and `async def`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

from tests.support.modes import Mode


def test_function_has_the_kind_of_the_mode(mode: Mode) -> None:
    """The same body is a def in sync mode and an async def in async mode, with its signature."""

    async def body(n: int, *, by: int = 1) -> int:
        """Documented."""
        await mode.sleep(0)
        return n + by

    made = mode.function(body)
    assert inspect.iscoroutinefunction(made) == mode.is_async
    assert inspect.signature(made) == inspect.signature(body)
    assert (made.__name__, made.__doc__) == ("body", "Documented.")
    assert mode.call(made, 1, by=2) == 3


def test_plain_body_works_in_both_modes(mode: Mode) -> None:
    """A def body is accepted as well."""
    made = mode.function(lambda n: n * 2)
    assert inspect.iscoroutinefunction(made) == mode.is_async
    assert mode.call(made, 4) == 8


def test_calls_run_together(mode: Mode) -> None:
    """Calls made together overlap, and their results come in order."""

    async def body(n: int) -> int:
        await mode.sleep(0.5)
        return n

    made = mode.function(body)
    began = time.monotonic()
    assert mode.together(*(partial(made, n) for n in range(8))) == list(range(8))
    assert time.monotonic() - began < 3  # of the 4 that they would take in turn


def test_errors_come_through(mode: Mode) -> None:
    """An error of the body is the caller's, or a result where that was asked for."""

    async def body(n: int) -> int:
        return 1 // n

    made = mode.function(body)
    with pytest.raises(ZeroDivisionError):
        mode.call(made, 0)
    failed, fine = mode.together(partial(made, 0), partial(made, 1), return_exceptions=True)
    assert isinstance(failed, ZeroDivisionError)
    assert fine == 1


def test_sync_mode_refuses_a_coroutine() -> None:
    """A function that should have been a def, and is none, does not pass unnoticed."""

    async def body() -> None:
        return None

    with Mode("sync") as mode, pytest.raises(TypeError, match="awaitable in sync mode"):
        mode.call(body)


def test_body_may_not_await_other_things() -> None:
    """In sync mode a body that awaits anything else is told so."""

    async def body() -> None:
        await asyncio.sleep(0)

    with Mode("sync") as mode, pytest.raises(TypeError, match=r"mode\.sleep"):
        mode.call(mode.function(body))


def test_entered_uses_the_right_form(mode: Mode) -> None:
    """`with` in sync mode and `async with` in async mode; errors reach the manager."""
    seen: list[str] = []

    class Both:
        @contextlib.contextmanager
        def _sync(self) -> Iterator[str]:
            try:
                yield "sync"
            except KeyError:
                seen.append("sync")

        @contextlib.asynccontextmanager
        async def _async(self) -> AsyncIterator[str]:
            try:
                yield "async"
            except KeyError:
                seen.append("async")

        def __init__(self) -> None:
            self.by_with, self.by_async_with = self._sync(), self._async()
            self.__aenter__ = self.by_async_with.__aenter__
            self.__aexit__ = self.by_async_with.__aexit__

        def __enter__(self) -> str:
            return self.by_with.__enter__()

        def __exit__(self, *exc: object) -> bool | None:
            return self.by_with.__exit__(*exc)  # type: ignore[arg-type]  # three of them

    with mode.entered(Both()) as value:
        _ = {"a": 1}["missing"]
    assert value == mode.name
    assert seen == [mode.name]


def test_one_loop_until_a_fresh_one() -> None:
    """All calls of a test share one event loop, until another is asked for."""

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with Mode("async") as mode:
        first = mode.call(loop)
        assert mode.call(loop) is first
        mode.fresh_loop()
        assert mode.call(loop) is not first
