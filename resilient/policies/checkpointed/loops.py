"""The items of one loop of a job, given to the body one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from resilient.engine.drivers.sync import drive
from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.places import here

if TYPE_CHECKING:
    from resilient.policies.checkpointed.places import Place
    from resilient.policies.checkpointed.run import Run

__all__ = ["AsyncItems", "Items"]

T = TypeVar("T")
NOTHING: Any = object()


class ItemsInHand(Generic[T]):
    """Which item the body has in hand, and what becomes of that."""

    def __init__(self, run: Run, loop: Place) -> None:
        self._run = run
        self._loop = loop
        self._has_item = False

    def _is_save_due(self) -> bool:
        """The body asks for the next item: the one in hand is done."""
        if not self._has_item:
            return False
        self._has_item = False
        return self._run.item_done(self._loop)

    def _given(self, item: T) -> T:
        """The body gets this item; whatever it begins now, it begins inside of it."""
        self._has_item = True
        if here.get() is not self._loop:
            here.set(self._loop)
        return item

    def _ended(self) -> None:
        self._run.loop_done(self._loop)

    def _shorter(self, count: int) -> ConfigurationError:
        return ConfigurationError(
            f"the job {self._run.task!r}: {self._loop.done} items of the loop "
            f"{self._loop.name!r} are done, and now it has {count}: iterate() needs the same "
            "items in the same order each time"
        )

    def __del__(self) -> None:
        # The body has left the loop, by `break` or an exception: what it begins now is beside it.
        self._loop.is_open = False


class Items(ItemsInHand[T], Iterator[T]):
    """What `Job.iterate` gives."""

    def __init__(self, run: Run, loop: Place, items: Iterable[T]) -> None:
        super().__init__(run, loop)
        self._items = iter(items)
        self._is_skipped = loop.done == 0

    def __next__(self) -> T:
        if self._is_save_due():
            drive(self._run.save_due())
        if not self._loop.is_open:
            raise StopIteration
        if not self._is_skipped:
            self._skip()
        try:
            item = next(self._items)
        except StopIteration:
            self._ended()
            raise
        return self._given(item)

    def _skip(self) -> None:
        self._is_skipped = True
        count = sum(1 for _ in islice(self._items, self._loop.done))
        if count < self._loop.done:
            raise self._shorter(count)


class AsyncItems(ItemsInHand[T], AsyncIterator[T]):
    """What `AsyncJob.iterate` gives."""

    def __init__(self, run: Run, loop: Place, items: Iterable[T] | AsyncIterable[T]) -> None:
        super().__init__(run, loop)
        self._items: Iterator[T] | AsyncIterator[T] = (
            aiter(items) if isinstance(items, AsyncIterable) else iter(items)
        )
        self._is_skipped = loop.done == 0

    async def __anext__(self) -> T:
        if self._is_save_due():
            from resilient.engine.drivers.aio import adrive

            await adrive(self._run.save_due())
        if not self._loop.is_open:
            raise StopAsyncIteration
        if not self._is_skipped:
            await self._skip()
        item = await self._next()
        if item is NOTHING:
            self._ended()
            raise StopAsyncIteration
        return self._given(item)

    async def _next(self) -> T:
        if isinstance(self._items, AsyncIterator):
            return await anext(self._items, NOTHING)
        return next(self._items, NOTHING)

    async def _skip(self) -> None:
        self._is_skipped = True
        for count in range(self._loop.done):
            if await self._next() is NOTHING:
                raise self._shorter(count)
