"""A lost connection at any step of taking a lock is ridden out: the step is made again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from resilient import distributed_lock, lock, lock_all
from resilient.engine.backend import Backend
from resilient.engine.identity import new_owner
from tests.support.flaky import Flaky, flaky_memory
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(name="flaky", autouse=True)
def _flaky() -> Iterator[Flaky]:
    with flaky_memory("locks") as (store, _):
        yield store


def fences(lease: Any) -> int:
    """How many locks are held."""
    assert not lease.lost
    return len(lease.fences)


def test_several_locks(mode: Mode, flaky: Flaky) -> None:
    """All of them are held, and each of them is given back."""
    flaky.lost = {"acquire_all"}

    async def body() -> int:
        if not mode.is_async:
            with lock_all("a", "b", wait=0) as lease:
                return fences(lease)
        async with lock_all("a", "b", wait=0) as lease:
            return fences(lease)

    assert mode.call(mode.function(body)) == 2
    assert flaky.asked == ["acquire_all", "acquire_all", "release", "release"]


def test_a_hold_that_was_handed_on(mode: Mode, flaky: Flaky) -> None:
    """It is taken over, and not given away."""
    with lock("k") as lease:
        token = lease.transfer()
    flaky.asked.clear()
    flaky.lost = {"transfer"}

    async def body() -> bool:
        if not mode.is_async:
            with lock("k").adopted(token) as lease:
                return lease.lost
        async with lock("k").adopted(token) as lease:
            return lease.lost

    assert mode.call(mode.function(body)) is False
    assert flaky.asked == ["transfer", "transfer", "release"]


@pytest.mark.parametrize("wait", [0, 5])
def test_a_dead_holder(mode: Mode, flaky: Flaky, wait: float) -> None:
    """It is evicted, and the lock is taken after it."""
    host, boot, namespace, pid, _, rest = new_owner().split("|")
    gone = "|".join((host, boot, namespace, pid, "1", rest))  # an earlier process of that number
    Backend("by hand", locks=flaky.store).sync.locks.acquire("k", ttl=600, owner=gone)
    flaky.lost = {"release"}

    async def body() -> str:
        return "done"

    assert mode.call(mode.decorate(distributed_lock("k", wait=wait), body)) == "done"
    assert flaky.asked == ["acquire", "release", "release", "acquire", "release"]
