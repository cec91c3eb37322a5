"""The items of one loop of a job, given to the body one after the other, or in chunks."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from resilient.engine import clock
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Sleep
from resilient.errors import ConfigurationError, SourceChanged
from resilient.policies.checkpointed.places import here
from resilient.policies.checkpointed.sources import Reading, chained

if TYPE_CHECKING:
    from resilient.policies.checkpointed.ledger import Ledger
    from resilient.policies.checkpointed.places import Place
    from resilient.policies.checkpointed.run import Run

__all__ = ["AsyncItems", "Items"]

T = TypeVar("T")
NOTHING: Any = object()
SKIPPING = 0.005
"""Seconds for which an event loop is kept busy by reading items that are done."""


class ItemsInHand(Generic[T]):
    """What the body has in hand, an item or a chunk, and what becomes of that."""

    def __init__(self, run: Run, loop: Place, reading: Reading, ledger: Ledger | None) -> None:
        self.ledger = ledger
        self._run = run
        self._loop = loop
        self._reading = reading
        self._in_hand = 0
        self._cursor: Any = None
        self._digest = b""
        self._is_read = False

    def _is_due(self) -> bool:
        """The body asks for more: what it has in hand is done; whether there is something to do."""
        count, self._in_hand = self._in_hand, 0
        if not count:
            return False
        if self.ledger is not None:
            return self.ledger.item_done()
        return self._run.item_done(self._loop, count, self._cursor, self._digest)

    async def _tend(self) -> None:
        if self.ledger is None or await self.ledger.settle():
            await self._run.tend()

    def _given(self, taken: Any) -> Any:
        """The body gets this; whatever it begins now, it begins inside of it."""
        size, key, verify = self._reading
        items = [taken] if size is None else taken
        self._in_hand = len(items)
        if key is not None:
            self._cursor = key(items[-1])
        if verify:
            for item in items:
                self._digest = chained(self._digest, item)
        if self.ledger is not None:
            self.ledger.in_hand = self._in_hand, self._cursor, self._digest
        if here.get() is not self._loop:
            here.set(self._loop)
        return taken

    @property
    def _skips(self) -> bool:
        """Whether there are items to be read again."""
        return self._loop.done > 0 and (self._reading.key is None or self._loop.cursor is None)

    def _skipped(self, item: Any) -> None:
        if self._reading.verify:
            self._digest = chained(self._digest, item)

    def _resumed(self, count: int) -> None:
        """So many items were skipped.

        Raises:
            ConfigurationError: They are fewer than are done.
            SourceChanged: They are not those that are done.
        """
        loop = self._loop
        what = f"the job {self._run.task!r}: {loop.done} items of the loop {loop.name!r} are done"
        if count < loop.done:
            raise ConfigurationError(
                f"{what}, and now it has {count}: iterate() needs the same items in the same "
                "order each time"
            )
        if self._reading.verify and loop.digest not in (b"", self._digest):
            raise SourceChanged(
                f"{what}, and its first {loop.done} are others now", key=self._run.task
            )

    def __del__(self) -> None:
        # The body has left the loop, by `break` or an exception: what it begins now is beside it.
        self._loop.is_open = False
        if self.ledger is not None and self.ledger.is_open:
            self._run.left += (self.ledger,)


class Items(ItemsInHand[T], Iterator[T]):
    """What `Job.iterate` and `Job.chunks` give."""

    def __init__(
        self,
        run: Run,
        loop: Place,
        items: Iterable[Any] | Callable[[Any], Iterable[Any]],
        reading: Reading,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(run, loop, reading, ledger)
        self._source: Any = items
        self._items: Iterator[Any] = iter(())

    def __next__(self) -> T:
        ledger = self.ledger
        if self._run.left:
            drive(self._run.settle_left())
        if self._is_due():
            drive(self._tend())
        if ledger is not None and not ledger.is_claimed:
            drive(ledger.claim())
        if not self._loop.is_open:
            raise StopIteration
        if not self._is_read:
            self._begin()
        taken = self._taken()
        if taken is NOTHING:
            if ledger is None:
                self._run.loop_done(self._loop)
            else:
                drive(ledger.end())
            raise StopIteration
        if ledger is not None and not ledger.is_open:
            drive(ledger.begin())
        given: T = self._given(taken)  # an item, or a list of them
        return given

    def _taken(self) -> Any:
        if self._reading.size is None:
            return next(self._items, NOTHING)
        return list(islice(self._items, self._reading.size)) or NOTHING

    def _begin(self) -> None:
        self._is_read = True
        self._cursor = self._loop.cursor
        self._items = iter(self._source(self._cursor) if self._reading.key else self._source)
        if self._skips:
            count = 0
            for item in islice(self._items, self._loop.done):
                self._skipped(item)
                count += 1
            self._resumed(count)


class AsyncItems(ItemsInHand[T], AsyncIterator[T]):
    """What `AsyncJob.iterate` and `AsyncJob.chunks` give."""

    def __init__(
        self, run: Run, loop: Place, items: Any, reading: Reading, ledger: Ledger | None = None
    ) -> None:
        super().__init__(run, loop, reading, ledger)
        self._source = items
        self._items: Iterator[Any] | AsyncIterator[Any] = iter(())

    async def __anext__(self) -> T:
        from resilient.engine.drivers.aio import adrive

        ledger = self.ledger
        if self._run.left:
            await adrive(self._run.settle_left())
        if self._is_due():
            await adrive(self._tend())
        if ledger is not None and not ledger.is_claimed:
            await adrive(ledger.claim())
        if not self._loop.is_open:
            raise StopAsyncIteration
        if not self._is_read:
            await self._begin()
        taken = await self._taken()
        if taken is NOTHING:
            if ledger is None:
                self._run.loop_done(self._loop)
            else:
                await adrive(ledger.end())
            raise StopAsyncIteration
        if ledger is not None and not ledger.is_open:
            await adrive(ledger.begin())
        given: T = self._given(taken)  # an item, or a list of them
        return given

    async def _taken(self) -> Any:
        size = self._reading.size
        if size is None:
            return await self._next()
        chunk: list[Any] = []
        while len(chunk) < size and (item := await self._next()) is not NOTHING:
            chunk.append(item)
        return chunk or NOTHING

    async def _next(self) -> Any:
        if isinstance(self._items, AsyncIterator):
            return await anext(self._items, NOTHING)
        return next(self._items, NOTHING)

    async def _begin(self) -> None:
        self._is_read = True
        self._cursor = self._loop.cursor
        source = self._source(self._cursor) if self._reading.key else self._source
        if inspect.isawaitable(source):
            source = await source
        self._items = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
        if self._skips:
            await self._skip()

    async def _skip(self) -> None:
        """Read the items that are done, and let other tasks run in between."""
        from resilient.engine.drivers.aio import adrive

        count, until = 0, clock.now() + SKIPPING
        while count < self._loop.done and (item := await self._next()) is not NOTHING:
            self._skipped(item)
            count += 1
            if clock.now() >= until:
                await adrive(_pause())
                until = clock.now() + SKIPPING
        self._resumed(count)


async def _pause() -> None:
    await Sleep(0)
