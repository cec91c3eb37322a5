"""A body whose lock is lost is cancelled, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

import resilient
from resilient import distributed_lock, lock


@pytest.fixture(autouse=True, name="backend")
def _backend() -> Iterator[resilient.Backend]:
    with resilient.using("memory://") as backend:
        yield backend


def lose_all(backend: resilient.Backend) -> None:
    """Every lease is lost, as if its server had said so."""
    for lease in list(backend.heartbeat.leases):
        lease.lose("it was taken over")


def test_the_consumer_of_a_generator_is_not_cancelled(backend: resilient.Backend) -> None:
    """The lock was lost between two items, and the body reaches the next without waiting."""

    @distributed_lock("k", ttl=30)
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def main() -> list[int]:
        steps = numbers()
        found = [await anext(steps)]
        lose_all(backend)
        found.append(await anext(steps))
        await asyncio.sleep(0.01)  # the consumer's own
        await steps.aclose()  # type: ignore[attr-defined]  # an iterator, as it is annotated
        return found

    assert asyncio.run(main()) == [0, 1]


def test_a_generator_that_waits_is_cancelled(backend: resilient.Backend) -> None:
    """Its next step ends at the first point at which it waits."""
    reached = []

    @distributed_lock("k", ttl=30)
    async def numbers() -> AsyncIterator[int]:
        yield 0
        await asyncio.sleep(30)
        reached.append(1)
        yield 1

    async def main() -> None:
        steps = numbers()
        await anext(steps)
        lose_all(backend)
        with pytest.raises(resilient.LeaseLost):
            await anext(steps)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert not reached


def test_a_block_that_is_lost_as_it_begins_cancels_nothing_after_it(
    backend: resilient.Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never waits, so that there is nothing to cancel; its end reports the loss."""
    from resilient.engine.lease import Lease

    keep = Lease.keep

    def keep_and_lose(lease: Lease) -> None:
        keep(lease)
        lease.lose("it was taken over")

    monkeypatch.setattr(Lease, "keep", keep_and_lose)

    async def main() -> None:
        with pytest.raises(resilient.LeaseLost):
            async with lock("k", ttl=30):
                pass
        await asyncio.sleep(0.01)
        assert await lock("k").ainfo() is None

    asyncio.run(main())
