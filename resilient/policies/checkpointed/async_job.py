"""What the body of a job in an `async def` has in hand: the same names, awaited."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from resilient.policies.checkpointed.in_hand import AS_ANNOTATED, JobInHand, S, codec_of_results
from resilient.policies.checkpointed.loops import AsyncItems
from resilient.policies.checkpointed.sources import Reading
from resilient.policies.checkpointed.steps import once

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.transactions import AsyncTransaction

__all__ = ["AsyncJob"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class AsyncJob(JobInHand[S]):
    """A resumable job in the hands of its runner: the first parameter of one that is `async`."""

    __slots__ = ()

    _mode = "async"

    @overload
    def iterate(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
        conn: Any = None,
    ) -> AsyncItems[T]: ...

    @overload
    def iterate(
        self,
        items: Callable[[Any], Iterable[T] | AsyncIterable[T] | Awaitable[Iterable[T]]],
        *,
        key: Callable[[T], Any],
        total: int | None = None,
        name: str | None = None,
        conn: Any = None,
    ) -> AsyncItems[T]: ...

    def iterate(
        self,
        items: Any,
        *,
        key: Callable[[Any], Any] | None = None,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
        conn: Any = None,
    ) -> AsyncItems[Any]:
        """The items that are not done yet, for `async for`: see `Job.iterate`.

        Tasks of one body may each have a loop. The state is then saved with an item of another
        loop half done, unless no item awaits between its changes of the state.
        """
        reading = Reading(None, key, verify)
        return AsyncItems(*self._begun("iterate()", items, reading, name, total, conn))

    @overload
    def chunks(
        self,
        items: Iterable[T] | AsyncIterable[T],
        size: int,
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
        conn: Any = None,
    ) -> AsyncItems[list[T]]: ...

    @overload
    def chunks(
        self,
        items: Callable[[Any], Iterable[T] | AsyncIterable[T] | Awaitable[Iterable[T]]],
        size: int,
        *,
        key: Callable[[T], Any],
        total: int | None = None,
        name: str | None = None,
        conn: Any = None,
    ) -> AsyncItems[list[T]]: ...

    def chunks(
        self,
        items: Any,
        size: int,
        *,
        key: Callable[[Any], Any] | None = None,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
        conn: Any = None,
    ) -> AsyncItems[list[Any]]:
        """The items that are not done yet, in lists of `size`: see `Job.chunks`."""
        reading = Reading(size, key, verify)
        return AsyncItems(*self._begun("chunks()", items, reading, name, total, conn))

    @overload
    async def map(
        self,
        function: Callable[[T], Coroutine[Any, Any, R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        workers: int | None = None,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["raise"] = "raise",
        returns: Any = AS_ANNOTATED,
        conn: Any = None,
    ) -> list[R]: ...

    @overload
    async def map(
        self,
        function: Callable[[T], Coroutine[Any, Any, R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        workers: int | None = None,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["collect"],
        returns: Any = AS_ANNOTATED,
    ) -> list[R | Exception]: ...

    async def map(
        self,
        function: Callable[[Any], Coroutine[Any, Any, Any]],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        workers: int | None = None,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["raise", "collect"] = "raise",
        returns: Any = AS_ANNOTATED,
        conn: Any = None,
    ) -> list[Any]:
        """Await the function for every item, in tasks: see `Job.map`.

        With `on_error="raise"`, and when the body is cancelled, the calls under way are cancelled.
        """
        from resilient.engine.drivers.aio import adrive
        from resilient.engine.side_by_side import as_tasks
        from resilient.policies.checkpointed.mapping import WORKERS, Mapping, refuse_with_connection

        if conn is not None:
            refuse_with_connection(workers, retries, on_error)
            return await self._map_inside(
                function, items, codec_of_results(function, returns), name, total, conn
            )
        await adrive(self._run.settle_left())
        workers = WORKERS if workers is None else workers
        mapping = Mapping(
            self._run, items, codec_of_results(function, returns), name=name, total=total,
            workers=workers, retries=retries, on_error=on_error,
        )  # fmt: skip

        async def one(number: int, item: Any) -> Any:
            return await adrive(mapping.one(number), lambda _: function(item))

        try:
            async with aclosing(as_tasks(one, items, workers)) as outcomes:
                async for number, result, error in outcomes:
                    if mapping.is_due(number, result, error):
                        await adrive(self._run.tend())
            return mapping.ended()
        finally:
            mapping.left()

    async def _map_inside(
        self,
        function: Callable[[Any], Coroutine[Any, Any, Any]],
        items: Iterable[Any] | AsyncIterable[Any],
        codec: Codec,
        name: str | None,
        total: int | None,
        conn: Any,
    ) -> list[Any]:
        """Await the function for one item after the other, in the transactions of a connection."""
        from resilient.engine.drivers.aio import adrive

        loop = self.iterate(items, name=name, total=total, conn=conn)
        assert loop.ledger is not None
        async for item in loop:
            await adrive(loop.ledger.keep(await function(item), codec))
        return await adrive(loop.ledger.results(codec))

    def transaction(self, conn: Any, *, name: str | None = None) -> AsyncTransaction:
        """For `async with`: see `Job.transaction`."""
        from resilient.policies.checkpointed.transactions import AsyncTransaction

        return AsyncTransaction(*self._begun_once("transaction()", name, conn))

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        returns: type[T],
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def step(
        self,
        name: str,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def step(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = AS_ANNOTATED,
        **kwargs: Any,
    ) -> Any:
        """Call the function, or await it, once in the life of the job: see `Job.step`."""
        from resilient.engine.drivers.aio import adrive

        async def body(_: object) -> Any:
            answer = function(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        return await adrive(once(self._run, name, codec_of_results(function, returns)), body)

    async def save(self, label: str = "") -> None:
        """Save position and state now; in a loop, when the item in hand is done: see `Job.save`."""
        from resilient.engine.drivers.aio import adrive

        await adrive(self._run.save(label))
