"""`@distributed_lock` and `lock()` over the memory backend."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from typing import Any

import pytest

import resilient
from resilient import distributed_lock, lock
from resilient.config import disabled
from tests.support.forks import in_child
from tests.support.holders import held_by, is_free
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


def test_a_function_runs_while_holding_its_lock(mode: Mode, backend: resilient.Backend) -> None:
    """The lock is held under the key of the arguments while the body runs, and free after it."""

    async def settle(invoice_id: int) -> tuple[int, bool]:
        lease = resilient.current_lease()
        assert lease.key == f"invoice:{invoice_id}"
        assert 29 < lease.remaining() <= 30
        lease.check()
        return lease.fence, is_free(backend, "invoice:7")

    locked = mode.decorate(distributed_lock("invoice:{invoice_id}"), settle)
    fence, free_inside = mode.call(locked, 7)
    assert not free_inside
    assert is_free(backend, "invoice:7")
    again, _ = mode.call(locked, invoice_id=7)
    assert again > fence


def test_one_at_a_time(mode: Mode) -> None:
    """Many threads or tasks at once never overlap, and all get their turn."""
    inside = 0
    total = 0

    async def body() -> None:
        nonlocal inside, total
        inside += 1
        assert inside == 1
        before = total
        await mode.sleep(0.001)
        total = before + 1
        inside -= 1

    locked = mode.decorate(distributed_lock("k", wait=20), body)
    mode.together(*[locked] * 20)
    assert total == 20


def test_busy_says_who_holds_it_and_for_how_long(mode: Mode) -> None:
    """The error names the holder's process, its fence and what is left, and has its fields."""
    with mode.entered(lock("k", ttl=30)) as lease, pytest.raises(resilient.LockNotAcquired) as info:
        mode.call(mode.decorate(distributed_lock("k", wait=0.05), _nothing))
    error = info.value
    assert str(os.getpid()) in str(error)
    assert str(lease.fence) in str(error)
    assert (error.policy, error.key) == ("distributed_lock", "k")
    assert error.retry_after is not None
    assert 29 < error.retry_after <= 30


async def _nothing() -> None:
    return None


def test_wait_zero_tries_once(mode: Mode) -> None:
    """`wait=0` does not wait, and needs no listener."""
    locked = mode.decorate(distributed_lock("k", wait=0), _nothing)
    with mode.entered(lock("k")):
        start = time.monotonic()
        with pytest.raises(resilient.LockNotAcquired):
            mode.call(locked)
        assert time.monotonic() - start < 5  # not the 10 of `wait`
    mode.call(locked)


def test_a_busy_lock_may_skip_the_call(mode: Mode) -> None:
    """`on_busy="skip"` answers `skipped` and runs nothing; a busy lock inside still raises."""
    ran = []

    async def body() -> str:
        ran.append(1)
        return "ran"

    skipping = mode.decorate(distributed_lock("k", wait=0, on_busy="skip", skipped="skipped"), body)
    with mode.entered(lock("k")):
        assert mode.call(skipping) == "skipped"
        nothing = mode.decorate(distributed_lock("k", wait=0, on_busy="skip"), body)
        assert mode.call(nothing) is None
    assert ran == []
    assert mode.call(skipping) == "ran"


def test_a_skip_never_hides_the_busy_lock_of_the_body(mode: Mode) -> None:
    """A `LockNotAcquired` that the body itself raises goes through."""
    inner = mode.decorate(distributed_lock("inner", wait=0), _nothing)

    async def body() -> None:
        await mode.within(inner)

    outer = mode.decorate(distributed_lock("outer", on_busy="skip"), body)
    with mode.entered(lock("inner")), pytest.raises(resilient.LockNotAcquired, match="inner"):
        mode.call(outer)


def test_a_waiter_is_woken_by_the_release(mode: Mode) -> None:
    """A hand-off takes far less than the waiter's own slow look."""
    released = 0.0
    taken = 0.0

    async def first() -> None:
        nonlocal released
        await mode.sleep(0.2)
        released = time.monotonic()

    async def second() -> None:
        nonlocal taken
        taken = time.monotonic()

    async def later() -> None:
        await mode.sleep(0.05)
        await mode.within(mode.decorate(distributed_lock("k"), second))

    mode.together(mode.decorate(distributed_lock("k"), first), mode.function(later))
    assert 0 < taken - released < 0.5


def test_the_bodys_own_exception_passes_unchanged(mode: Mode, backend: resilient.Backend) -> None:
    """What the body raises comes out as itself, and the lock is free."""
    error = ValueError("no")

    async def body() -> None:
        raise error

    with pytest.raises(ValueError, match="no") as info:
        mode.call(mode.decorate(distributed_lock("k"), body))
    assert info.value is error
    assert info.value.__cause__ is None
    assert is_free(backend, "k")


@pytest.mark.parametrize("error", [StopIteration(3), KeyboardInterrupt(), RuntimeError("mine")])
def test_exceptions_that_coroutines_treat_specially_pass_too(
    backend: resilient.Backend, error: BaseException
) -> None:
    """A sync body may raise what no coroutine lets through."""

    @distributed_lock("k")
    def body() -> None:
        raise error

    with pytest.raises(type(error)) as info:
        body()
    assert info.value is error
    with pytest.raises(type(error)) as info, lock("k"):
        raise error
    assert info.value is error
    assert is_free(backend, "k")


def test_a_cancelled_waiter_leaves_nothing_behind(backend: resilient.Backend) -> None:
    """Cancelled at any moment of its wait, it holds nothing, and the next one is served."""

    async def main() -> None:
        for moment in range(30):
            async with lock("k"):
                waiting = asyncio.create_task(_nothing_under("k"))
                for _ in range(moment % 6):
                    await asyncio.sleep(0)
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            async with asyncio.timeout(0.5):
                await _nothing_under("k")
            assert await held_by(backend, "k") is None

    asyncio.run(main())


async def _nothing_under(key: str) -> None:
    async with lock(key, wait=20):
        pass


def test_extend_and_release_by_hand(mode: Mode, backend: resilient.Backend) -> None:
    """A lease may be extended by a longer TTL, and given back early."""
    with mode.entered(lock("k", ttl=5)) as lease:
        mode.call(lease.extend, "1m")
        assert 55 < lease.remaining() <= 60
        mode.call(lease.release)
        assert is_free(backend, "k")
        with mode.entered(lock("k", wait=0)):
            pass


def test_one_lock_object_is_entered_many_times_at_once() -> None:
    """What belongs to one entry is kept for its thread or task."""
    shared = lock("k", wait=20)
    fences: list[int] = []

    def thread() -> None:
        with shared as lease:
            fences.append(lease.fence)

    threads = [threading.Thread(target=thread) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    async def task() -> None:
        async with shared as lease:
            await asyncio.sleep(0)
            fences.append(lease.fence)

    async def tasks() -> None:
        await asyncio.gather(*(task() for _ in range(8)))

    asyncio.run(tasks())
    assert len(set(fences)) == 16
    assert fences == sorted(fences)


def test_info_and_force_release(mode: Mode, backend: resilient.Backend) -> None:
    """Who holds it, since when; and how an operator takes it away, with a larger fence after."""
    watched = lock("k", ttl=30)
    info = watched.ainfo if mode.is_async else watched.info
    force = watched.aforce_release if mode.is_async else watched.force_release
    assert mode.call(info) is None
    assert mode.call(force, reason="nobody has it") is False
    seen: list[Any] = []
    unsubscribe = resilient.subscribe(seen.append)
    with pytest.raises(resilient.LeaseLost), mode.entered(watched) as lease:
        held = mode.call(info)
        assert held.holder == f"pid {os.getpid()} on {os.uname().nodename}"
        assert (held.key, held.fence, held.owner) == ("k", lease.fence, lease.owner)
        assert 0 <= held.held_for < 5
        assert 25 < held.ttl <= 30
        assert mode.call(force, reason="stuck") is True
        with mode.entered(lock("k", wait=0)) as next_lease:
            assert next_lease.fence > lease.fence
    unsubscribe()
    assert [(e.key, e.reason) for e in seen if type(e).__name__ == "LockForceReleased"] == [
        ("k", "stuck")
    ]


def test_the_controls_of_a_locked_function(mode: Mode) -> None:
    """`of(f)` finds the lock in a stack of decorators, and behind bound methods."""

    async def body(a: int, b: str = "x") -> None: ...

    locked = mode.decorate(distributed_lock("{a}:{b}"), body)

    @functools.wraps(locked)
    def foreign(*args: Any, **kwargs: Any) -> Any:
        return locked(*args, **kwargs)

    assert distributed_lock.of(foreign).key(1) == "1:x"
    assert distributed_lock.of(locked).at(1, b="y").key == "1:y"
    with pytest.raises(resilient.ConfigurationError, match="not decorated"):
        distributed_lock.of(print)


def test_disabled_policies_pass_calls_through(mode: Mode, backend: resilient.Backend) -> None:
    """Nothing is locked, and nothing needs a backend."""

    async def body() -> bool:
        assert resilient.current_lease().key == "k"
        return is_free(backend, "k")

    locked = mode.decorate(distributed_lock("k"), body)
    with disabled():
        assert mode.call(locked) is True
        assert list(distributed_lock("k")(lambda: iter([1]))()) == [1]
        with mode.entered(lock("k")) as lease:
            mode.call(lease.extend, 60)
            lease.check()
            mode.call(lease.release)
            assert (lease.fence, lease.lost) == (0, False)
    assert mode.call(locked) is False


def test_two_event_loops_one_after_the_other(mode: Mode) -> None:
    """The same function and lock object work in any number of loops."""
    locked = mode.decorate(distributed_lock("k"), _nothing)
    for _ in range(3):
        mode.call(locked)
        mode.fresh_loop()


def test_a_blocking_form_in_an_event_loop_is_pointed_out() -> None:
    """`with lock(...)` in a coroutine blocks the loop, and says so."""

    async def main() -> None:
        with pytest.warns(resilient.BlockingCallInLoop, match="async with"), lock("k"):
            pass
        with pytest.warns(resilient.BlockingCallInLoop, match="ainfo"):
            lock("k").info()

    asyncio.run(main())


def test_a_forked_child_holds_nothing_of_its_parents(backend: resilient.Backend) -> None:
    """It learns that the lease is not its own, and its way out frees nothing."""
    with lock("k") as lease:

        def child() -> None:
            assert lease.lost
            with pytest.raises(resilient.LeaseLost):
                lease.release()

        assert in_child(child) == 0
        assert not lease.lost
        assert not is_free(backend, "k")
