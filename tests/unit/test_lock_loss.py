"""A lock that is lost: how its holder is told, and that it is renewed so that it is not."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

import resilient
from resilient import distributed_lock, lock
from resilient.engine.clock import ManualClock, installed
from tests.support.holders import held_by, is_free
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("backend")


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
        await mode.sleep(2.2)
        return resilient.current_lease().lost

    locked = mode.decorate(distributed_lock("k", ttl=1), body)
    assert mode.call(locked) is False
    assert is_free(backend, "k")


def test_a_blocked_event_loop_does_not_lose_its_lease() -> None:
    """The heartbeat lives on a thread of its own."""

    @distributed_lock("k", ttl=1)
    async def blocking() -> bool:
        time.sleep(2.2)  # noqa: ASYNC251 - this is the point
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
