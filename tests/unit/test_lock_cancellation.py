"""Locks of tasks that are cancelled in the middle of giving them back: nothing stays held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resilient
from resilient import lock, lock_all


@pytest.fixture(name="store")
def _store() -> Iterator[Any]:
    with resilient.using("memory://") as backend:
        yield backend.require("locks")


class Fails:
    """An operation of a store that finds its connection lost a few times."""

    def __init__(self, works: Callable[..., Any], times: int, *, takes: float = 0.0) -> None:
        self._works = works
        self._times = times
        self._takes = takes
        self.begun = asyncio.Event()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do it, or fail."""
        self._times -= 1
        if self._times < 0:
            return await self._works(*args, **kwargs)
        self.begun.set()
        if self._takes:
            await asyncio.sleep(self._takes)
        raise resilient.BackendError("connection reset", transient=True)


async def is_free(key: str) -> bool:
    """Whether nobody holds a lock, and nobody is said to wait for it."""
    return await lock(key).ainfo() is None


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task, which ends so."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def empty_block(key: str) -> None:
    """Hold a lock for a moment."""
    async with lock(key, ttl=30, wait=0):
        pass


@pytest.mark.parametrize("takes", [0.0, 0.02], ids=["between attempts", "inside one"])
def test_a_release_is_asked_again_though_its_caller_is_cancelled(
    store: Any, monkeypatch: pytest.MonkeyPatch, takes: float
) -> None:
    """The connection was lost, and the task is cancelled before the server heard of the release."""

    async def main() -> None:
        release = Fails(store.release, 3, takes=takes)
        monkeypatch.setattr(store, "release", release)
        task = asyncio.create_task(empty_block("k"))
        await release.begun.wait()
        await cancelled(task)
        assert await is_free("k")

    asyncio.run(main())


def test_a_waiter_is_withdrawn_though_it_is_cancelled(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has waited for long enough, and nobody may be held up by it."""

    async def waits() -> None:
        async with lock("k", wait=0.01):
            raise AssertionError("it is held by somebody else")

    async def main() -> None:
        async with lock("k", ttl=30):
            withdraw = Fails(store.withdraw, 3)
            monkeypatch.setattr(store, "withdraw", withdraw)
            task = asyncio.create_task(waits())
            await withdraw.begun.wait()
            await cancelled(task)
            held = await lock("k").ainfo()
            assert held is not None
            assert held.waiters == 0

    asyncio.run(main())


def test_a_second_cancellation_does_not_stop_the_release_of_several_locks() -> None:
    """All are free when the task has ended, and the heartbeat renews none of them."""

    async def body(begun: asyncio.Event) -> None:
        async with lock_all("a", "b", ttl=30):
            begun.set()
            await asyncio.sleep(60)

    async def main() -> None:
        with resilient.using("memory://") as backend:
            for turns in range(4):
                begun = asyncio.Event()
                task = asyncio.create_task(body(begun))
                await begun.wait()
                task.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
                await cancelled(task)
                assert await is_free("a")
                assert await is_free("b")
                assert not backend.heartbeat.leases

    asyncio.run(main())


def test_a_cancellation_of_the_release_wins_over_the_bodys_error(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As everywhere in asyncio: whoever cancelled is not left without it."""

    async def fails() -> None:
        async with lock("k", ttl=30):
            raise ValueError("mine")

    async def main() -> None:
        release = Fails(store.release, 3)
        monkeypatch.setattr(store, "release", release)
        task = asyncio.create_task(fails())
        await release.begun.wait()
        await cancelled(task)
        assert await is_free("k")

    asyncio.run(main())


def test_a_hold_that_was_taken_over_by_a_cancelled_task_is_given_back(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else has its token any more."""
    transfer, done = store.transfer, asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        await transfer(*args, **kwargs)
        asyncio.get_running_loop().call_soon(done.set)
        await asyncio.sleep(60)

    async def adopts(token: str) -> None:
        async with lock("k").adopted(token):
            raise AssertionError("it was cancelled")

    async def main() -> None:
        async with lock("k", ttl=30) as lease:
            token = await lease.transfer()
        monkeypatch.setattr(store, "transfer", slow)
        task = asyncio.create_task(adopts(token))
        await done.wait()
        await cancelled(task)
        assert await is_free("k")

    asyncio.run(main())
