"""What a call leaves behind is freed at once, and not when the garbage collector comes by.

An exception's traceback holds the frames that it went through, with all that their callers gave
them: a frame of ours that holds the exception in turn would keep it all.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest

import resilient
from tests.support.modes import Mode


class Failed(Exception):
    """What the bodies raise."""


class Large:
    """What they have in hand then."""


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    with resilient.using("memory://"):
        gc.collect()
        gc.disable()
        yield
        gc.enable()


Decorate = Callable[[Any], Any]

DECORATORS: dict[str, Callable[[], Decorate]] = {
    "distributed_lock": lambda: resilient.distributed_lock("k:{n}"),
    "distributed_lock, on_lost": lambda: resilient.distributed_lock("k:{n}", on_lost=print),
    "circuit_breaker": lambda: resilient.circuit_breaker("k:{n}"),
    "cached": lambda: resilient.cached("{n}", ttl=60),
    "cached, no layer": lambda: resilient.cached("{n}", ttl=60, local=None),
    "cached, stored": lambda: resilient.cached("{n}", ttl=60, error_ttl={Failed: 5}),
    "idempotent": lambda: resilient.idempotent("k:{n}", ttl=60),
    "idempotent, replayed": lambda: resilient.idempotent("k:{n}", ttl=60, replay_errors=(Failed,)),
    "retry": lambda: resilient.retry(on=Failed, attempts=2, wait_initial="1ms", wait_jitter=0),
}


async def awaited(function: Callable[[int], Any], task: bool) -> None:
    """Make a call that fails, in a task of its own or not."""
    call = function(2)
    with contextlib.suppress(Failed):
        await (asyncio.create_task(call) if task else call)
    del call


def fails_once(mode: Mode, function: Callable[[int], Any]) -> None:
    """Make calls that fail."""
    if mode.is_async:
        mode.call(awaited, function, False)
        mode.call(awaited, function, True)
        return
    with contextlib.suppress(Failed):
        function(2)


@pytest.mark.parametrize("name", DECORATORS)
def test_a_call_that_failed_is_freed_at_once(name: str, mode: Mode) -> None:
    """The frames of the function, of which the exception knew, are there no more."""
    seen: list[ref[Large]] = []

    async def body(n: int) -> None:
        large = Large()
        seen.append(ref(large))
        raise Failed

    fails_once(mode, mode.decorate(DECORATORS[name](), body))
    assert seen
    assert [each() for each in seen if each() is not None] == []


@pytest.mark.parametrize("local", ["auto", None])
def test_a_stored_failure_is_freed_at_once(mode: Mode, local: Any) -> None:
    """Nor do the frames of those who get it later hold it, and all that their callers gave them."""

    async def body(n: int) -> None:
        raise Failed

    options: dict[str, Any] = {"error_ttl": {Failed: 300}, "local": local}
    function = mode.decorate(resilient.cached("{n}", ttl=60, **options), body)
    fails_once(mode, function)
    gc.collect()
    fails_once(mode, function)
    assert resilient.cached.of(function).stats().computed == 1
    assert [each for each in gc.get_objects() if isinstance(each, Failed)] == []


def test_a_job_that_failed_is_freed_at_once(mode: Mode) -> None:
    """So are the frames of its body."""
    seen: list[ref[Large]] = []

    def fail() -> None:
        large = Large()
        seen.append(ref(large))
        raise Failed

    @resilient.checkpointed("k:{n}")
    def sjob(job: resilient.Job, n: int) -> None:
        for _ in job.iterate(range(3)):
            fail()

    @resilient.checkpointed("k:{n}")
    async def ajob(job: resilient.AsyncJob, n: int) -> None:
        async for _ in job.iterate(range(3)):
            fail()

    fails_once(mode, ajob if mode.is_async else sjob)
    assert seen
    assert [each() for each in seen if each() is not None] == []


def test_a_block_that_failed_is_freed_at_once(mode: Mode) -> None:
    """What the body of a `with` statement had in hand is there no more."""

    seen: list[ref[Large]] = []

    def fail() -> None:
        large = Large()
        seen.append(ref(large))
        raise Failed

    def block() -> None:
        with contextlib.suppress(Failed), resilient.lock("k"):
            fail()

    async def ablock() -> None:
        with contextlib.suppress(Failed):
            async with resilient.lock("k"):
                fail()

    mode.call(ablock if mode.is_async else block)
    assert seen
    assert [each() for each in seen if each() is not None] == []


def test_a_lease_is_freed_at_once(mode: Mode) -> None:
    """A lock that was given back leaves nothing, even if somebody was to be told of its loss."""
    seen: list[Any] = []

    async def body(n: int) -> None:
        seen.append(ref(resilient.current_lease()))

    for on_lost in (print, "cancel", "flag"):
        if on_lost == "cancel" and not mode.is_async:
            continue
        locked = mode.decorate(resilient.distributed_lock("k:{n}", on_lost=on_lost), body)
        mode.call(locked, 1)
    assert seen
    assert [each() for each in seen if each() is not None] == []


@pytest.mark.parametrize("how", ["at once", "after a while", "reentrant", "adopted", "several"])
def test_a_task_that_was_refused_is_freed_at_once(how: str) -> None:
    """The exception knows the frames that knew the task: nothing there may know it still."""
    refused: dict[str, Callable[[], Any]] = {
        "at once": lambda: resilient.lock("k", wait=0),
        "after a while": lambda: resilient.lock("k", wait=0.01),
        "reentrant": lambda: resilient.lock("k", wait=0, reentrant=True),
        "adopted": lambda: resilient.lock("k").adopted("no such token"),
        "several": lambda: resilient.lock_all("j", "k", wait=0),
    }

    async def take() -> None:
        async with refused[how]():
            pass

    async def main() -> object:
        async with resilient.lock("k"):
            task = asyncio.create_task(take())
            with contextlib.suppress(resilient.LockNotAcquired, resilient.LeaseLost):
                await task
            watched = ref(task)
            del task
            await asyncio.sleep(0)
            return watched()

    assert asyncio.run(main()) is None


def test_the_leases_of_several_locks_are_freed_at_once(mode: Mode) -> None:
    """They were given back, and nobody is to be told of their loss any more."""
    seen: list[Any] = []

    def several() -> None:
        with resilient.lock_all("a", "b", on_lost=print) as leases:
            seen.append(ref(leases))

    async def aseveral() -> None:
        async with resilient.lock_all("a", "b", on_lost=print) as leases:
            seen.append(ref(leases))

    mode.call(aseveral if mode.is_async else several)
    assert [each() for each in seen] == [None]
