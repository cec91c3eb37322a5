"""What a lock can be told, by a clock that moves when told to: over the memory backend."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import distributed_lock, lock, lock_all
from resilient.engine.clock import ManualClock
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")


def is_free(backend: resilient.Backend, key: str) -> bool:
    """Whether nobody holds a lock."""
    return backend.sync.locks.holder(key) is None


async def until(mode: Mode, condition: Callable[[], object]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await mode.sleep(0.002)


async def apart(mode: Mode, fn: Callable[[], Any]) -> Any:
    """Call it in another thread or task."""
    if mode.is_async:
        return await asyncio.create_task(fn())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn).result()


async def its_lease() -> Any:
    """The lease under which it is called."""
    return resilient.current_lease()


# --- reentrancy


def test_a_reentrant_lock_is_entered_again_under_the_same_lease(
    mode: Mode, backend: resilient.Backend
) -> None:
    """It is free when the outermost call ends, and no sooner."""
    again = mode.decorate(distributed_lock("k", reentrant=True, wait=0), its_lease)

    async def body() -> tuple[bool, bool]:
        same = await mode.within(again) is resilient.current_lease()
        return same, is_free(backend, "k")

    outer = mode.decorate(distributed_lock("k", reentrant=True), body)
    assert mode.call(outer) == (True, False)
    assert is_free(backend, "k")


def test_a_reentrant_lock_is_another_callers_all_the_same(mode: Mode) -> None:
    """A task or thread that the holder starts, and that inherits its context, is not the holder."""
    again = mode.decorate(distributed_lock("k", reentrant=True, wait=0), its_lease)

    async def body() -> None:
        with pytest.raises(resilient.LockNotAcquired):
            await apart(mode, again)

    mode.call(mode.decorate(distributed_lock("k", reentrant=True), body))


def test_only_a_reentrant_lock_is_entered_again(mode: Mode) -> None:
    """Others wait for themselves, and are told who holds it."""
    again = mode.decorate(distributed_lock("k", wait=0), its_lease)

    async def body() -> None:
        with pytest.raises(resilient.LockNotAcquired, match=str(os.getpid())):
            await mode.within(again)

    mode.call(mode.decorate(distributed_lock("k"), body))


def test_a_lost_lock_is_not_entered_again(mode: Mode, clock: ManualClock) -> None:
    """Under a lease that has ended, nothing more begins."""
    ran: list[object] = []

    async def inner() -> None:
        ran.append(1)

    again = mode.decorate(distributed_lock("k", reentrant=True), inner)

    async def body() -> None:
        clock.advance(31)
        await mode.within(again)

    with pytest.raises(resilient.LeaseLost):
        mode.call(mode.decorate(distributed_lock("k", ttl=30, reentrant=True), body))
    assert ran == []


# --- the shortest and the longest hold


def test_min_hold_keeps_a_lock_that_was_released_early(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """Nobody gets it before that time is over, counted from the grant; then everybody may."""
    with mode.entered(lock("k", min_hold=5)):
        clock.advance(2)
    clock.advance(2.9)
    with pytest.raises(resilient.LockNotAcquired), mode.entered(lock("k", wait=0)):
        pass
    clock.advance(0.2)
    with mode.entered(lock("k", wait=0, min_hold=5)):
        clock.advance(6)
    assert is_free(backend, "k")


def test_max_hold_ends_a_lease_that_is_renewed(mode: Mode, clock: ManualClock) -> None:
    """However often it was renewed; and the next one has it from that moment on."""
    next_one = mode.decorate(distributed_lock("k", wait=0), its_lease)

    async def body() -> None:
        lease = resilient.current_lease()
        clock.advance(15)
        await until(mode, lambda: lease.remaining() > 20)  # renewed
        clock.advance(25)
        await until(mode, lambda: lease.remaining() > 15)
        assert lease.remaining() <= 20
        clock.advance(19)
        assert lease.remaining() > 0
        clock.advance(1.1)
        assert lease.remaining() == 0
        assert (await mode.within(next_one)).fence > lease.fence

    options = {"ttl": 30, "max_hold": 60, "on_lost": "flag"}
    with pytest.raises(resilient.LeaseLost, match="max_hold=60"):
        mode.call(mode.decorate(distributed_lock("k", **options), body))  # type: ignore[call-overload]  # by name


def test_a_ttl_is_never_longer_than_max_hold(mode: Mode, clock: ManualClock) -> None:
    """The lock of a holder that stands still is free after `max_hold`, whatever its TTL."""
    with (
        pytest.raises(resilient.LeaseLost),
        mode.entered(lock("k", ttl=1000, max_hold=60, on_lost=lambda lease: None)),
    ):
        clock.advance(60.1)
        with mode.entered(lock("k", wait=0)):
            pass


# --- what a loss does


def test_a_function_is_called_with_the_lease_that_was_lost(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """Once, while the body goes on; the call ends with `LeaseLost` even so."""
    seen: list[Any] = []

    async def body() -> None:
        assert backend.sync.locks.force_release("k")
        clock.advance(11)  # a renewal is due
        await until(mode, lambda: seen)
        clock.advance(11)
        assert seen == [resilient.current_lease()]
        assert seen[0].lost

    with pytest.raises(resilient.LeaseLost, match="taken over"):
        mode.call(mode.decorate(distributed_lock("k", ttl=30, on_lost=seen.append), body))
    assert len(seen) == 1


def test_a_function_that_fails_keeps_no_other_loss_from_being_told(
    mode: Mode, clock: ManualClock, backend: resilient.Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the other lock's function is called, and both end with `LeaseLost`."""
    seen: list[Any] = []

    def failing(lease: Any) -> None:
        raise RuntimeError("no")

    with pytest.raises(resilient.LeaseLost, match="'a'"), mode.entered(lock("a", on_lost=failing)):
        with (
            pytest.raises(resilient.LeaseLost, match="'b'"),
            mode.entered(lock("b", on_lost=seen.append)),
        ):
            assert backend.sync.locks.force_release("a")
            assert backend.sync.locks.force_release("b")
            clock.advance(11)  # in which order they are told is the heartbeat's affair
            wait_for(lambda: seen and "when a lease is lost failed" in caplog.text)
        assert len(seen) == 1


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what another thread does, outside any event loop."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_one_lost_lock_of_several_is_the_loss_of_all(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """`lock_all` calls its function with what it holds."""
    seen: list[Any] = []
    with (
        pytest.raises(resilient.LeaseLost, match="'b'"),
        mode.entered(lock_all("a", "b", on_lost=seen.append)) as leases,
    ):
        assert backend.sync.locks.force_release("b")
        clock.advance(11)
        wait_for(lambda: seen)
        assert seen == [leases]
        assert leases.lost
        with pytest.raises(resilient.LeaseLost, match="'b'"):
            leases.check()
    assert is_free(backend, "a")


# --- handing on


def test_a_lock_is_handed_on_without_being_free(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """Whoever has the token takes it over under a larger fence; nobody else does meanwhile."""
    with mode.entered(lock("k", ttl=30)) as lease:
        token = mode.call(lease.transfer, "1m")
        assert token == lease.owner
    clock.advance(50)
    with pytest.raises(resilient.LockNotAcquired), mode.entered(lock("k", wait=0)):
        pass
    with pytest.raises(resilient.LeaseLost), mode.entered(lock("k").adopted("another token")):
        pass
    with mode.entered(lock("k", ttl=30).adopted(token)) as adopted:
        assert adopted.fence > lease.fence
        assert 29 < adopted.remaining() <= 30
    assert is_free(backend, "k")


def test_what_is_handed_on_waits_no_longer_than_told(mode: Mode, clock: ManualClock) -> None:
    """After that it is free, and the token is worth nothing."""
    with mode.entered(lock("k", ttl=30)) as lease:
        token = mode.call(lease.transfer, 5)
    clock.advance(5.1)
    with mode.entered(lock("k", wait=0)):
        pass
    with pytest.raises(resilient.LeaseLost, match="handed on"):
        mode.call(partial(_entered_once, mode, lock("k").adopted(token)))


def _entered_once(mode: Mode, manager: Any) -> Any:
    return manager.__aenter__() if mode.is_async else manager.__enter__()


@pytest.mark.parametrize("how", ["release", "transfer"])
def test_who_has_given_a_lock_away_is_told_so(mode: Mode, how: str) -> None:
    """Before a write that would be stale: somebody else may hold it from then on."""

    async def body() -> None:
        lease = resilient.current_lease()
        assert lease.remaining() > 0
        lease.check()
        await mode.within(getattr(lease, how))
        assert lease.remaining() == 0
        with pytest.raises(resilient.LeaseLost, match="given it back, or handed it on"):
            lease.check()

    mode.call(mode.decorate(distributed_lock("k"), body))


def test_only_a_lock_can_be_handed_on(mode: Mode) -> None:
    """A permit or a reader's hold is one of several."""
    with mode.entered(resilient.semaphore("k", limit=2)) as lease:
        with pytest.raises(resilient.ConfigurationError, match="semaphore"):
            mode.call(lease.transfer)
        with pytest.raises(resilient.ConfigurationError, match="handed on"):
            resilient.semaphore("k", limit=2).adopted(lease.owner)


# --- several at once


def test_several_locks_are_had_when_the_last_of_them_is_free(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """One of them is waited for, and then all are held, under fences of their own."""
    backend.sync.locks.acquire("b", ttl=6, owner="somebody")
    start = clock.now()
    with mode.entered(lock_all("c", "a", "b", wait=10)) as leases:
        assert 6 <= clock.now() - start < 8
        assert sorted(leases.fences) == ["a", "b", "c"]
        assert not any(is_free(backend, key) for key in "abc")
    assert all(is_free(backend, key) for key in "abc")


def test_the_wait_is_for_all_of_several_locks_together(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """What the first takes of it, the second does not have; and none is held in the end."""
    backend.sync.locks.acquire("a", ttl=6, owner="somebody")
    backend.sync.locks.acquire("b", ttl=1000, owner="somebody else")
    start = clock.now()
    with (
        pytest.raises(resilient.LockNotAcquired, match="'b'"),
        mode.entered(lock_all("a", "b", "c", wait=10)),
    ):
        pass
    assert 10 <= clock.now() - start < 12
    assert (is_free(backend, "a"), is_free(backend, "c")) == (True, True)


def test_several_locks_are_tried_once_without_waiting(
    mode: Mode, clock: ManualClock, backend: resilient.Backend
) -> None:
    """`wait=0`: all or none, at once."""
    backend.sync.locks.acquire("b", ttl=30, owner="somebody")
    start = clock.now()
    with pytest.raises(resilient.LockNotAcquired), mode.entered(lock_all("a", "b", wait=0)):
        pass
    assert clock.now() == start
    assert is_free(backend, "a")


# --- who holds it


def test_info_names_the_thread_or_task_and_who_waits(mode: Mode, clock: ManualClock) -> None:
    """Its host and process, since when, under which fence, for how long; and how many wait."""
    watched = lock("k", ttl=30)

    async def body() -> None:
        lease = resilient.current_lease()
        clock.advance(3)
        info = watched.info() if not mode.is_async else await watched.ainfo()
        assert info is not None
        name = threading.current_thread().name
        assert info.caller.startswith("task " if mode.is_async else f"thread {name}")
        assert (info.host, info.pid) == (socket.gethostname(), os.getpid())
        assert (info.owner, info.fence) == (lease.owner, lease.fence)
        assert (info.held_for, info.ttl) == (3, 27)
        assert (info.holders, info.waiters) == (1, 0)

    mode.call(mode.decorate(distributed_lock("k", ttl=30), body))


def test_info_counts_holders_and_waiters(mode: Mode, backend: resilient.Backend) -> None:
    """Of several holders it describes one, and says how many there are."""
    permit = partial(resilient.semaphore, "k", limit=2)
    with mode.entered(permit()), mode.entered(permit()):
        held = backend.sync.locks.acquire(
            "k",
            ttl=30,
            owner="third",
            waiter="nowhere",
            mode=resilient.protocols.locks.semaphore_of(2),
        )
        info = permit().info() if not mode.is_async else mode.call(permit().ainfo)
        assert info is not None
        assert (held.holders, info.holders, info.waiters) == (2, 2, 1)


def test_taking_a_lock_away_needs_a_reason_and_is_reported(mode: Mode) -> None:
    """The event names the key, the holder and the reason; the holder is told at its end."""
    seen: list[resilient.events.Event] = []
    unsubscribe = resilient.subscribe(seen.append)
    stuck = lock("k")
    force = stuck.aforce_release if mode.is_async else stuck.force_release
    with pytest.raises(TypeError, match="reason"):
        force()  # type: ignore[call-arg]  # the point  # pyright: ignore[reportCallIssue]
    with pytest.raises(resilient.LeaseLost), mode.entered(stuck):
        assert mode.call(force, reason="the host is on fire") is True
    unsubscribe()
    (event,) = [each for each in seen if isinstance(each, resilient.events.LockForceReleased)]
    assert (event.key, event.reason) == ("k", "the host is on fire")
    assert str(os.getpid()) in event.holder


def test_all_permits_are_taken_away_at_once(mode: Mode, backend: resilient.Backend) -> None:
    """Whoever held one is told; the next fence is larger than theirs."""
    permit = partial(resilient.semaphore, "k", limit=2, on_lost="flag")
    force = permit().aforce_release if mode.is_async else permit().force_release
    with pytest.raises(resilient.LeaseLost), mode.entered(permit()) as first:
        with pytest.raises(resilient.LeaseLost), mode.entered(permit()) as second:
            assert mode.call(force, reason="all of them") is True
        with mode.entered(permit()) as later:
            assert later.fence > second.fence > first.fence
