"""`@cached` over the memory backend: what is served, for how long, and what is computed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import MISSING, BackendError, CodecError, LocalCache, cached
from resilient.config import disabled
from resilient.engine import clock
from resilient.engine.backend import Backend
from resilient.engine.clock import ManualClock
from resilient.policies.cached.asking import LEASE
from tests.support.forks import in_child
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture
def manual() -> Iterator[ManualClock]:
    """A clock that moves when told to."""
    manual = ManualClock()
    with clock.installed(manual):
        yield manual


# --- for how long
@pytest.mark.parametrize("local", ["auto", None, LocalCache(ttl="1h")])
def test_is_never_served_after_its_ttl(mode: Mode, manual: ManualClock, local: Any) -> None:
    """A value is served until its TTL is over, and not in that moment."""
    ran = []

    async def f() -> int:
        ran.append(1)
        return len(ran)

    f = mode.decorate(cached(ttl="10m", local=local), f)
    assert mode.call(f) == 1
    for _ in range(10):
        manual.advance(59.9)
        assert mode.call(f) == 1
    manual.advance(1)
    assert mode.call(f) == 2


def test_a_fetched_value_is_not_kept_longer(mode: Mode, manual: ManualClock) -> None:
    """Who fetches a value late has it for the rest of its time only, local layer or not."""
    ran = []

    async def f() -> int:
        ran.append(1)
        return len(ran)

    options: dict[str, Any] = {"ttl": 60, "namespace": "n", "local": LocalCache(ttl="1h")}
    here = mode.decorate(cached(**options), f)
    elsewhere = mode.decorate(cached(**options), f)
    assert mode.call(here) == 1
    manual.advance(59)
    assert mode.call(elsewhere) == 1
    manual.advance(1)
    assert mode.call(elsewhere) == 2


def test_local_ttl_asks_the_backend_again(
    mode: Mode, manual: ManualClock, backend: Backend
) -> None:
    """After the local TTL the backend is asked, which has the value still."""

    async def f() -> int:
        return 1

    f = mode.decorate(cached(ttl=3600, local=LocalCache(ttl=30)), f)
    for _ in range(3):
        mode.call(f)
    manual.advance(30)
    mode.call(f)
    stats = cached.of(f).stats()
    assert (stats.computed, stats.hits, stats.local_hits, stats.misses) == (1, 3, 2, 1)
    assert stats.max_staleness == 2, "what others invalidate is heard, or the silence noticed"


# --- the layer in this process


def test_local_values_are_shared_or_copied(mode: Mode) -> None:
    """By default all hits give one object; `copy=True` and no layer give each their own."""

    async def f() -> list[int]:
        await mode.sleep(0.05)
        return [1]

    shared = mode.decorate(cached(ttl=60), f)
    assert mode.call(shared) is mode.call(shared)
    for local in (LocalCache(copy=True), None):
        own = mode.decorate(cached(ttl=60, local=local, namespace=f"{local}"), f)
        results = [*mode.together(own, own, own), *[mode.call(own) for _ in range(3)]]
        if local is not None:
            assert len({id(result) for result in results}) == len(results)
        for result in results[3:]:
            result.append(2)
        assert mode.call(own) == [1]
        found = mode.call(cached.of(own).peek)
        assert found == [1]


def test_many_keys_stay_bounded(mode: Mode) -> None:
    """The layer in this process holds no more than it may, and all values are right."""

    async def f(number: int) -> int:
        return -number

    f = mode.decorate(cached(ttl=60, local=LocalCache(100)), f)

    async def all_of_them() -> bool:
        return all([await mode.within(f, number) == -number for number in range(2_000)])

    assert mode.call(mode.function(all_of_them))
    assert cached.of(f).stats().local_size == 100


def test_using_is_a_fresh_cache(mode: Mode) -> None:
    """Inside `using` nothing of outside is seen, and outside nothing of inside, by context too."""
    ran = []

    async def f() -> int:
        ran.append(1)
        return len(ran)

    f = mode.decorate(cached(ttl=60), f)
    assert [mode.call(f), mode.call(f)] == [1, 1]
    with resilient.using("memory://"):
        assert [mode.call(f), mode.call(f)] == [2, 2]
        with disabled():
            assert [mode.call(f), mode.call(f)] == [3, 4]
        assert mode.call(f) == 2
    assert mode.call(f) == 1
    with resilient.using("memory://", scope="context"):
        if not mode.is_async:  # a runner has a context of its own
            assert [mode.call(f), mode.call(f)] == [5, 5]
    assert mode.call(f) == 1


def test_local_hits_ask_nobody(mode: Mode, backend: Backend) -> None:
    """A hit in this process does not reach the backend."""

    async def f(x: int) -> int:
        return x

    f = mode.decorate(cached(ttl=60), f)
    mode.call(f, 1)
    store, backend.cache = backend.cache, None
    assert mode.call(f, 1) == 1
    backend.cache = store


# --- single flight, exceptions


def test_one_execution(mode: Mode) -> None:
    """Fifty callers of a cold key cause one execution."""
    ran = []

    async def f() -> int:
        ran.append(1)
        await mode.sleep(0.1)
        return 7

    f = mode.decorate(cached(ttl=60), f)
    assert mode.together(*[f] * 50) == [7] * 50
    assert len(ran) == 1
    stats = cached.of(f).stats()
    assert (stats.hits, stats.misses, stats.computed) == (49, 1, 1)


def test_exceptions_are_not_stored(mode: Mode) -> None:
    """Who waited gets the exception; who comes later computes again, at once."""
    ran = []

    async def f() -> int:
        ran.append(1)
        await mode.sleep(0.05)
        if len(ran) == 1:
            raise LookupError("nobody")
        return 7

    f = mode.decorate(cached(ttl=60), f)
    errors = mode.together(*[f] * 5, return_exceptions=True)
    assert [type(error) for error in errors] == [LookupError] * 5
    began = time.monotonic()
    assert mode.call(f) == 7
    assert time.monotonic() - began < LEASE * 0.8, "the lease of the failed computation is gone"
    assert cached.of(f).stats().errors == 1


def test_backend_errors_of_the_function_are_its_own(mode: Mode) -> None:
    """A `BackendError` that the function raises is no trouble of the cache's."""

    async def f() -> int:
        raise BackendError("of another backend")

    f = mode.decorate(cached(ttl=60), f)
    with pytest.raises(BackendError, match="another"):
        mode.call(f)
    stats = cached.of(f).stats()
    assert (stats.computed, stats.errors, stats.backend_errors) == (1, 1, 0)


@pytest.mark.parametrize("local", ["auto", None])
def test_values_that_cannot_be_stored(mode: Mode, local: Any) -> None:
    """They are an error that names their type, on the memory backend too, and hold nothing up."""

    async def f() -> object:
        return threading.Lock()

    f = mode.decorate(cached(ttl=60, local=local), f)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(CodecError, match="lock"):
            mode.call(f)
        assert time.monotonic() - began < LEASE * 0.8


def test_foreign_records_are_misses(mode: Mode, backend: Backend) -> None:
    """A record that does not read as a value is computed anew and replaced."""

    async def f() -> int:
        return 7

    f = mode.decorate(cached(ttl=60, local=None), f)
    assert backend.cache is not None
    from resilient.engine.drivers.sync import drive
    from resilient.protocols.values import Encoded

    drive(backend.cache.set(cached.of(f).key(), Encoded(b"\xffgarbage"), ttl=60))
    assert mode.call(cached.of(f).peek) is MISSING
    assert [mode.call(f), mode.call(f)] == [7, 7]
    assert cached.of(f).stats().computed == 1


# --- recursion, loops, forks


def test_recursion(mode: Mode) -> None:
    """A cached function calls itself with other arguments and with its own."""
    ran = []

    async def fibonacci(n: int) -> int:
        ran.append(n)
        if n < 2:
            return n
        a, b = await mode.within(f, n - 1), await mode.within(f, n - 2)
        return int(a + b)

    f = mode.decorate(cached(ttl=60), fibonacci)
    assert mode.call(f, 20) == 6765
    assert sorted(ran) == list(range(21))

    async def depth(left: int) -> int:
        return 0 if left == 0 else await mode.within(g, left - 1) + 1

    g = mode.decorate(cached("the same", ttl=60), depth)
    assert [mode.call(g, 5), mode.call(g, 5)] == [5, 5]


def test_event_loops_one_after_the_other(mode: Mode) -> None:
    """A value computed in one loop is a hit in the next; a miss there works too."""

    async def f(x: int) -> int:
        await mode.sleep(0)
        return x

    f = mode.decorate(cached(ttl=60), f)
    for number in range(4):
        assert [mode.call(f, x) for x in (1, number)] == [1, number]
        mode.fresh_loop()
    assert cached.of(f).stats().computed == 4


def test_event_loops_at_once() -> None:
    """Tasks of four loops in four threads wait for one execution."""
    ran = []

    @cached(ttl=60)
    async def f() -> int:
        ran.append(1)
        await asyncio.sleep(0.2)
        return 7

    async def many() -> list[int]:
        return await asyncio.gather(*[f() for _ in range(10)])

    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.extend(asyncio.run(many()))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [7] * 40
    assert len(ran) == 1


def test_no_task_is_left(mode: Mode) -> None:
    """After a miss, a failure and a cancellation no task and no lease is left behind."""

    async def f(how: str) -> str:
        if how == "fail":
            raise LookupError
        await asyncio.sleep(30 if how == "hang" else 0)
        return how

    f = cached(ttl=60)(f)

    async def main() -> int:
        await f("return")
        with pytest.raises(LookupError):
            await f("fail")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await f("hang")
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await f("hang")
        assert time.monotonic() - began < LEASE * 0.8
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
    assert cached.of(f).stats().computed == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_while_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child forked inside a computation is nobody's follower, and stores nothing of its own."""
    # In its copy of the memory nobody gives back what its parent computes: it is outlasted.
    monkeypatch.setattr("resilient.policies.cached.asking.LEASE", 0.3)
    assert in_child(_fork_while_computing) == 0


def _fork_while_computing() -> None:
    """In a child itself, beyond which its own child does not get."""
    pipe = os.pipe()

    @cached("k", ttl=60)
    def f(number: int) -> int:
        if number:
            child = os.fork()
            if child == 0:
                return f(0) + 1000  # its own key, inside its parent's computation
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return 1

    parent = os.getpid()
    value = f(1)
    if os.getpid() != parent:
        try:
            os.write(pipe[1], f"{value} {f(0)}".encode())
        finally:
            os._exit(7)
    assert value == 7
    assert os.read(pipe[0], 100) == b"1001 1"
    assert f(1) == 7


def test_many_calls_at_once(mode: Mode) -> None:
    """Calls, invalidations and clears of many threads or tasks never mix values up."""

    async def f(x: int) -> int:
        return x * 10

    f = mode.decorate(cached("{x}", ttl=60, tags=("t:{x}",), local=LocalCache(5)), f)
    controls = cached.of(f)

    async def some(seed: int) -> None:
        for step in range(60):
            x = (seed * 7 + step) % 9
            assert await mode.within(f, x) == x * 10
            if step % 10 == 0:
                await mode.within(controls.invalidate, x)
            if step % 25 == 0:
                await mode.within(controls.clear)

    mode.together(*[partial(mode.function(some), seed) for seed in range(8)])
