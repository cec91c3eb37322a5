"""`@distributed_lock` and `lock()` over the memory backend."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import distributed_lock, lock, lock_all, read_lock, semaphore
from resilient.config import disabled
from resilient.engine.clock import ManualClock, installed
from tests.support.forks import in_child
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


async def held_by(backend: resilient.Backend, key: str) -> str | None:
    """The owner of a lock, looked up by hand."""
    holder = await backend.aio.locks.holder(key)
    return None if holder is None else str(holder.owner)


def is_free(backend: resilient.Backend, key: str) -> bool:
    """Whether nobody holds a lock."""
    return backend.sync.locks.holder(key) is None


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


def test_a_lease_that_expires_is_lost_and_said_to_be(mode: Mode) -> None:
    """A holder that slept past its TTL is told at the end, even though its body returned."""
    clock = ManualClock()

    async def body() -> bool:
        clock.advance(31)
        return resilient.current_lease().lost

    with installed(clock):
        locked = mode.decorate(distributed_lock("k", ttl=30), body)
        with pytest.raises(resilient.LeaseLost, match="'k'") as info:
            mode.call(locked)
    assert info.value.key == "k"
    assert info.value.fence > 0


def test_a_loss_never_replaces_the_bodys_exception() -> None:
    """The body's own error goes on, with a note of the loss."""
    clock = ManualClock()
    with installed(clock), pytest.raises(ValueError, match="mine") as info, lock("k", ttl=5):
        clock.advance(6)
        raise ValueError("mine")
    assert any("lost" in note for note in info.value.__notes__)


@pytest.mark.timeout(20)
def test_many_locks_that_one_trouble_took_end_in_one_chain() -> None:
    """Locks within each other, all lost by the same error: the body's own is raised, with each."""
    clock, trouble = ManualClock(), resilient.BackendError("away")
    with (
        installed(clock),
        pytest.raises(ValueError, match="mine") as info,
        contextlib.ExitStack() as stack,
    ):
        for number in range(5):
            stack.enter_context(lock(f"k{number}", ttl=5)).trouble = trouble
        clock.advance(6)
        raise ValueError("mine")
    assert [note.split("'")[1] for note in info.value.__notes__] == ["k4", "k3", "k2", "k1", "k0"]
    chain: list[BaseException | None] = [info.value]
    while chain[-1] is not None:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    assert [type(each) for each in chain[1:3]] == [resilient.LeaseLost, resilient.BackendError]


def test_check_raises_once_the_lease_is_lost() -> None:
    """`check` guards a write; `remaining` is 0 from then on."""
    clock = ManualClock()
    with installed(clock), pytest.raises(resilient.LeaseLost), lock("k", ttl=5) as lease:
        lease.check()
        clock.advance(6)
        assert lease.remaining() == 0
        lease.check()


def test_a_lease_is_renewed_while_the_body_runs(mode: Mode, backend: resilient.Backend) -> None:
    """A body that takes several TTLs keeps its lock."""

    async def body() -> bool:
        await mode.sleep(0.9)
        return resilient.current_lease().lost

    locked = mode.decorate(distributed_lock("k", ttl=0.3), body)
    assert mode.call(locked) is False
    assert is_free(backend, "k")


def test_a_blocked_event_loop_does_not_lose_its_lease() -> None:
    """The heartbeat lives on a thread of its own."""

    @distributed_lock("k", ttl=0.3)
    async def blocking() -> bool:
        time.sleep(0.8)  # noqa: ASYNC251 - this is the point
        return resilient.current_lease().lost

    assert asyncio.run(blocking()) is False


def test_an_async_body_is_cancelled_when_its_lease_is_lost(backend: resilient.Backend) -> None:
    """It does not go on for a moment longer than it takes to notice."""
    seen: list[BaseException] = []

    @distributed_lock("k", ttl=0.3)
    async def body() -> None:
        await backend.aio.locks.force_release("k")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as error:
            seen.append(error)
            raise

    start = time.monotonic()
    with pytest.raises(resilient.LeaseLost):
        asyncio.run(body())
    assert time.monotonic() - start < 5
    assert seen


def test_an_async_block_is_cancelled_when_its_lease_is_lost(backend: resilient.Backend) -> None:
    """`async with` like the decorator; the task itself goes on uncancelled."""

    async def main() -> str:
        with pytest.raises(resilient.LeaseLost):
            async with lock("k", ttl=0.3):
                await backend.aio.locks.force_release("k")
                await asyncio.sleep(30)
        await asyncio.sleep(0)
        return "alive"

    assert asyncio.run(main()) == "alive"


def test_somebody_elses_cancellation_stays_one(backend: resilient.Backend) -> None:
    """A cancelled body ends cancelled, and the lock is free."""

    @distributed_lock("k")
    async def body() -> None:
        await asyncio.sleep(30)

    async def main() -> None:
        task = asyncio.create_task(body())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await held_by(backend, "k") is None

    asyncio.run(main())


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


def test_methods_and_what_else_is_callable(backend: resilient.Backend) -> None:
    """Methods, classmethods, staticmethods, partials and callable objects are all locked."""
    held: list[str] = []

    def note() -> str:
        held.append(resilient.current_lease().key)
        return held[-1]

    class Account:
        number = 7

        @distributed_lock("account:{self.number}")
        def settle(self) -> str:
            """Settle it."""
            return note()

        @classmethod
        @distributed_lock("class:{cls.__name__}")
        def below(cls) -> str:
            return note()

        @distributed_lock("class:{cls.__name__}:above")
        @classmethod
        def above(cls) -> str:
            return note()

        @distributed_lock("static:{x}")
        @staticmethod
        def static(x: int) -> str:
            return note()

    class Door:
        def __call__(self, x: int) -> str:
            return note()

    account = Account()
    assert account.settle() == "account:7"
    assert Account.settle(account) == "account:7"
    assert Account.settle.__doc__ == "Settle it."
    assert Account.below() == account.below() == "class:Account"
    assert Account.above() == "class:Account:above"
    assert account.static(3) == "static:3"
    assert distributed_lock.of(account.settle).key() == "account:7"
    assert distributed_lock("p:{x}")(partial(lambda x, y: note(), y=2))(1) == "p:1"
    assert distributed_lock("o:{x}")(Door())(4) == "o:4"


def test_generators_hold_their_lock_from_first_to_last_step(backend: resilient.Backend) -> None:
    """Not before, not after; and the lease is current only while the body runs."""

    @distributed_lock("k")
    def numbers() -> Generator[int, str, str]:
        yield resilient.current_lease().fence
        received = yield 2
        return received

    assert list(_until_free(numbers(), backend)) == [False, False]
    generator = numbers()
    assert is_free(backend, "k")
    next(generator)
    with pytest.raises(resilient.ConfigurationError, match="no lock"):
        resilient.current_lease()
    next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send("sent")
    assert stop.value.value == "sent"
    assert is_free(backend, "k")


def _until_free(generator: Iterable[int], backend: resilient.Backend) -> Iterator[bool]:
    for _ in generator:
        yield is_free(backend, "k")
    assert is_free(backend, "k")


def test_a_generator_that_is_closed_or_dropped_frees_its_lock(backend: resilient.Backend) -> None:
    """Closing it, raising in it, or forgetting it: the lock is free."""

    @distributed_lock("k")
    def numbers() -> Generator[int, str, str]:
        yield 1
        yield 2
        return "end"

    generator = numbers()
    next(generator)
    generator.close()
    assert is_free(backend, "k")
    generator = numbers()
    next(generator)
    with pytest.raises(ValueError, match="thrown"):
        generator.throw(ValueError("thrown"))
    assert is_free(backend, "k")
    generator = numbers()
    next(generator)
    del generator
    gc.collect()
    assert is_free(backend, "k")


def test_async_generators_hold_their_lock_too(backend: resilient.Backend) -> None:
    """From the first step to the last, with `asend`, `athrow` and `aclose`."""

    @distributed_lock("k")
    async def numbers() -> AsyncIterator[Any]:
        try:
            received = yield resilient.current_lease().key
            await asyncio.sleep(0)
            yield received
        except ValueError as error:
            yield f"caught {error}"

    async def main() -> None:
        generator: Any = numbers()
        assert await anext(generator) == "k"
        assert await held_by(backend, "k") is not None
        assert await generator.asend("sent") == "sent"
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert await held_by(backend, "k") is None
        generator = numbers()
        await anext(generator)
        assert await generator.athrow(ValueError("thrown")) == "caught thrown"
        await generator.aclose()
        assert await held_by(backend, "k") is None

    asyncio.run(main())


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


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ttl": -1}, "ttl"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"ttl": None}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": "1h30"}, "ttl"),
        ({"wait": -0.5}, "wait"),
        ({"wait": "soon"}, "wait"),
        ({"on_busy": "wait"}, "on_busy"),
        ({"on_backend_error": "ignore"}, "on_backend_error"),
        ({"backend": "nosuch://x"}, "nosuch"),
        ({"backend": object()}, "backend"),
        ({"backend": "redis://localhost:0x"}, "redis"),
        ({"key": 5}, "key"),
        ({"tll": 5}, "tll"),
    ],
)
def test_a_wrong_option_is_named_when_decorated(options: dict[str, Any], named: str) -> None:
    """Each is a `ConfigurationError` that says which, before anything is called."""
    decorate: Any = distributed_lock
    with pytest.raises(resilient.ConfigurationError, match=named):
        decorate(None if "key" in options else "k", **options)(lambda: None)


@pytest.mark.parametrize("make", [lock, partial(semaphore, limit=2), read_lock, lock_all])
def test_an_option_that_there_is_not_is_refused_when_made(make: Any) -> None:
    """A slip of the pen is no option that is ignored."""
    with pytest.raises(resilient.ConfigurationError, match="timeout"):
        make("k", timeout=5)


@pytest.mark.parametrize("template", ["{nosuch}", "", "{}", "{a!r}", "{a:>5}", "{a"])
def test_a_wrong_template_is_refused_when_decorated(template: str) -> None:
    """Unknown names, empty templates, positional fields, conversions and formats."""

    def function(a: int) -> None: ...

    with pytest.raises(resilient.ConfigurationError):
        distributed_lock(template)(function)


def test_omitted_parentheses_are_pointed_out() -> None:
    """`@distributed_lock` without a call is an error at once."""
    decorate: Any = distributed_lock
    with pytest.raises(resilient.ConfigurationError, match="distributed_lock"):
        decorate(lambda: None)


def test_no_template_and_no_key_is_an_error() -> None:
    """A lock must have a name."""
    with pytest.raises(resilient.ConfigurationError):
        distributed_lock()(lambda: None)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_field_is_refused(value: Any) -> None:
    """A key that would not identify anything is no key."""

    def settle(number: Any) -> None: ...

    locked = distributed_lock("invoice:{number}")(settle)
    with pytest.raises(resilient.KeyMissing, match="number"):
        locked(value)


def test_the_key_of_a_block_is_checked() -> None:
    """It is literal text, and not empty."""
    wrong: Any = 5
    with pytest.raises(resilient.ConfigurationError, match="5"):
        lock(wrong)
    with pytest.raises(resilient.KeyMissing):
        lock("")


def test_unconfigured_says_what_to_do() -> None:
    """Nothing is configured: the error has the line to add."""
    import subprocess
    import sys

    code = (
        "import resilient\n"
        "@resilient.distributed_lock('k')\n"
        "def f(): ...\n"
        "try:\n f()\n"
        "except resilient.ConfigurationError as e:\n print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "resilient.configure(" in out.stdout
