"""What the body of a job sees of it: `Job` in a `def`, `AsyncJob` in an `async def`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing, closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeAlias, overload

from typing_extensions import TypeVar

from resilient.engine.drivers.sync import drive
from resilient.engine.side_by_side import as_tasks, in_threads
from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.loops import AsyncItems, Items
from resilient.policies.checkpointed.mapping import Mapping
from resilient.policies.checkpointed.places import here
from resilient.policies.checkpointed.progress import Progress
from resilient.policies.checkpointed.sources import Reading

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.run import Run

__all__ = ["AnyJob", "AsyncJob", "Job", "current_job"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S", default=dict[str, Any])

BY_ANNOTATION: Any = object()


class JobInHand(Generic[S]):
    """What jobs of both kinds have."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def task(self) -> str:
        """The job's key, without the backend's prefix."""
        return self._run.task

    @property
    def state(self) -> S:
        """The job's own data, saved together with the position, and restored with it.

        Change it inside loops: what stands outside of them is run again when the job resumes.
        """
        state: S = self._run.state
        return state

    @state.setter
    def state(self, state: S) -> None:
        self._run.state = state

    @property
    def progress(self) -> Progress:
        """How far the job is, how fast it goes, and how long it will take."""
        return self._run.progress()

    @property
    def attempt(self) -> int:
        """1 in the first run of the job, more when it has been resumed."""
        return self._run.attempt

    @property
    def fence(self) -> int:
        """A number larger than that of every earlier run; 0 while policies are disabled."""
        return 0 if self._run.lease is None else self._run.lease.fence

    @property
    def lost(self) -> bool:
        """Whether another runner may have taken the job over."""
        return self._run.lease is not None and self._run.lease.lost

    def check(self) -> None:
        """Raise `StaleRunner` if the job is lost; call it before a write that must not be stale."""
        if self._run.lease is not None:
            self._run.lease.check()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task!r}, attempt {self.attempt}>"


class Job(JobInHand[S]):
    """A resumable job in the hands of its runner: the first parameter of a checkpointed `def`."""

    __slots__ = ()

    @overload
    def iterate(
        self,
        items: Iterable[T],
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
    ) -> Items[T]: ...

    @overload
    def iterate(
        self,
        items: Callable[[Any], Iterable[T]],
        *,
        key: Callable[[T], Any],
        total: int | None = None,
        name: str | None = None,
    ) -> Items[T]: ...

    def iterate(
        self,
        items: Iterable[Any] | Callable[[Any], Iterable[Any]],
        *,
        key: Callable[[Any], Any] | None = None,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
    ) -> Items[Any]:
        """The items that are not done yet, in order.

        An item is done when the body asks for the next one. Every `every` items or `seconds`
        seconds the position is saved, together with the state at that moment. A job that is
        resumed goes through the items from the first, and skips those that are done: they must
        come in the same order again. A loop that has come to its end is not run again.

        What the items do to `state` is done once. What they do elsewhere is done again for the
        items that were not saved: at most `every` each time that the process is killed.

        Args:
            items: Whatever can be iterated; it is read one by one. With `key`, a function that
                answers the items after a key: `lambda after: rows_after(after)`. It is called once,
                with the key of the last item that is done, or `None`.
            key: The key of an item, by which its source is ordered. A job that is resumed then
                reads nothing again, however much is done.
            total: How many there are, for `progress`; known by itself of what has a length.
            name: Tells this loop from the others in its place; by default it is its number
                among them. A loop inside another one's item belongs to that item.
            verify: Keep a digest of the items that are done, and compare it with those that a
                resumed job skips. It costs a few microseconds an item.

        Raises:
            StaleRunner: From the loop: another runner has taken the job over.
            JobCancelled: From the loop: somebody has cancelled the job.
            SourceChanged: From the loop: the items that are done are others now.
            BackendError: From the loop: the backend was away for as long as the lease lasts.
            ConfigurationError: Two loops of one name, a wrong option, or fewer items than are
                done already.
        """
        reading = Reading(None, key, verify)
        reading.check(items, "iterate()")
        return Items(self._run, self._run.begin_loop(name, items, total), items, reading)

    @overload
    def chunks(
        self,
        items: Iterable[T],
        size: int,
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
    ) -> Items[list[T]]: ...

    @overload
    def chunks(
        self,
        items: Callable[[Any], Iterable[T]],
        size: int,
        *,
        key: Callable[[T], Any],
        total: int | None = None,
        name: str | None = None,
    ) -> Items[list[T]]: ...

    def chunks(
        self,
        items: Iterable[Any] | Callable[[Any], Iterable[Any]],
        size: int,
        *,
        key: Callable[[Any], Any] | None = None,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
    ) -> Items[list[Any]]:
        """The items that are not done yet, in lists of `size`; the last one may be shorter.

        A chunk is done when the body asks for the next one. Progress, `total` and the decorator's
        `every` count items, and the other arguments are those of `iterate`. The size may be
        another one when the job is resumed.
        """
        reading = Reading(size, key, verify)
        reading.check(items, "chunks()")
        return Items(self._run, self._run.begin_loop(name, items, total), items, reading)

    @overload
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        workers: int = 8,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["raise"] = "raise",
        returns: Any = BY_ANNOTATION,
    ) -> list[R]: ...

    @overload
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        workers: int = 8,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["collect"],
        returns: Any = BY_ANNOTATION,
    ) -> list[R | Exception]: ...

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        workers: int = 8,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["raise", "collect"] = "raise",
        returns: Any = BY_ANNOTATION,
    ) -> list[Any]:
        """Call the function for every item, in threads; the results in the order of the items.

        Each result is stored as soon as it is there, and is not computed again when the job is
        resumed: a kill costs at most the calls that are under way. The items must come in the same
        order again.

        Args:
            function: What to call, with one item. It runs in other threads than the body, and
                leaves the state alone.
            items: Whatever can be iterated; it is read as there is room for it.
            workers: Calls at a time.
            total: How many items there are, for `progress`.
            name: As that of a loop.
            retries: How often a call that raised is tried again, at once; `@retry` on the function
                knows pauses.
            on_error: `"raise"` the first error when the calls under way have ended, or
                `"collect"`: errors stand in the place of their results. The calls that failed are
                made again when the job is resumed.
            returns: What the results are stored as, where the function is not annotated.

        Raises:
            StaleRunner: Another runner has taken the job over.
            JobCancelled: Somebody has cancelled the job.
            CodecError: A result has no stored form.
            BackendError: The backend was away for as long as the lease lasts.
            ConfigurationError: A wrong option, or two loops of one name.
        """
        mapping = Mapping(
            self._run, items, _codec(function, returns), name=name, total=total,
            workers=workers, retries=retries, on_error=on_error,
        )  # fmt: skip

        def one(number: int, item: Any) -> Any:
            return drive(mapping.one(number), lambda _: function(item))

        try:
            with closing(in_threads(one, items, workers)) as outcomes:
                for number, result, error in outcomes:
                    if mapping.is_due(number, result, error):
                        drive(self._run.tend())
            return mapping.ended()
        finally:
            mapping.left()

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        returns: type[T],
        **kwargs: Any,
    ) -> T: ...

    @overload
    def step(
        self, name: str, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = BY_ANNOTATION,
        **kwargs: Any,
    ) -> Any:
        """Call the function once in the life of the job; afterwards, answer its stored result.

        Args:
            name: The step's name, one in the whole job.
            function: What to call.
            *args: With what.
            returns: What its result is stored as, where it is not annotated.
            **kwargs: With what.

        Raises:
            StaleRunner: Another runner has taken the job over.
            CodecError: The result has no stored form; the step will run again.
            BackendError: The backend was away for as long as the lease lasts.
        """
        plan = self._run.step(name, _codec(function, returns))
        return drive(plan, lambda _: function(*args, **kwargs))

    def save(self, label: str = "") -> None:
        """Save position and state now; in a loop, as soon as the item in hand is done.

        Args:
            label: A name for people, which `history()` shows.

        Raises:
            StaleRunner: Another runner has taken the job over.
            CodecError: The state has no stored form.
            BackendError: The backend was away for as long as the lease lasts.
        """
        drive(self._run.save(label))


class AsyncJob(JobInHand[S]):
    """A resumable job in the hands of its runner: the first parameter of one that is `async`."""

    __slots__ = ()

    @overload
    def iterate(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
    ) -> AsyncItems[T]: ...

    @overload
    def iterate(
        self,
        items: Callable[[Any], Iterable[T] | AsyncIterable[T] | Awaitable[Iterable[T]]],
        *,
        key: Callable[[T], Any],
        total: int | None = None,
        name: str | None = None,
    ) -> AsyncItems[T]: ...

    def iterate(
        self,
        items: Any,
        *,
        key: Callable[[Any], Any] | None = None,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
    ) -> AsyncItems[Any]:
        """The items that are not done yet, for `async for`: see `Job.iterate`.

        Tasks of one body may each have a loop. The state is then saved with an item of another
        loop half done, unless no item awaits between its changes of the state.
        """
        reading = Reading(None, key, verify)
        reading.check(items, "iterate()")
        return AsyncItems(self._run, self._run.begin_loop(name, items, total), items, reading)

    @overload
    def chunks(
        self,
        items: Iterable[T] | AsyncIterable[T],
        size: int,
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
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
    ) -> AsyncItems[list[Any]]:
        """The items that are not done yet, in lists of `size`: see `Job.chunks`."""
        reading = Reading(size, key, verify)
        reading.check(items, "chunks()")
        return AsyncItems(self._run, self._run.begin_loop(name, items, total), items, reading)

    @overload
    async def map(
        self,
        function: Callable[[T], Coroutine[Any, Any, R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        workers: int = 8,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["raise"] = "raise",
        returns: Any = BY_ANNOTATION,
    ) -> list[R]: ...

    @overload
    async def map(
        self,
        function: Callable[[T], Coroutine[Any, Any, R]],
        items: Iterable[T] | AsyncIterable[T],
        *,
        workers: int = 8,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["collect"],
        returns: Any = BY_ANNOTATION,
    ) -> list[R | Exception]: ...

    async def map(
        self,
        function: Callable[[Any], Coroutine[Any, Any, Any]],
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        workers: int = 8,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["raise", "collect"] = "raise",
        returns: Any = BY_ANNOTATION,
    ) -> list[Any]:
        """Await the function for every item, in tasks: see `Job.map`.

        With `on_error="raise"`, and when the body is cancelled, the calls under way are cancelled.
        """
        from resilient.engine.drivers.aio import adrive

        mapping = Mapping(
            self._run, items, _codec(function, returns), name=name, total=total,
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
        returns: Any = BY_ANNOTATION,
        **kwargs: Any,
    ) -> Any:
        """Call the function, or await it, once in the life of the job: see `Job.step`."""
        from resilient.engine.drivers.aio import adrive

        async def body(_: object) -> Any:
            answer = function(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer

        return await adrive(self._run.step(name, _codec(function, returns)), body)

    async def save(self, label: str = "") -> None:
        """Save position and state now; in a loop, as soon as the item in hand is done."""
        from resilient.engine.drivers.aio import adrive

        await adrive(self._run.save(label))


AnyJob: TypeAlias = Job[Any] | AsyncJob[Any]


def current_job() -> AnyJob:
    """The job whose body runs here: for functions that the body calls.

    Raises:
        ConfigurationError: No job runs here.

    Example:
        >>> import resilient
        >>> @resilient.checkpointed("hello")
        ... def hello(job: resilient.Job) -> str:
        ...     return resilient.current_job().task
        >>> with resilient.using("memory://"):
        ...     hello()
        'hello'
    """
    place = here.get()
    if place is None:
        raise ConfigurationError("current_job(): no job runs here")
    return place.run.job


def _codec(function: Callable[..., Any], returns: Any) -> Codec:
    try:
        return _known_codec(function, returns)
    except TypeError:  # a function, or a type, without a hash
        return _known_codec.__wrapped__(function, returns)


@lru_cache(256)
def _known_codec(function: Callable[..., Any], returns: Any) -> Codec:
    """The codec of a step that may come many times: to read an annotation takes a while."""
    from resilient.engine.codecs import codec_for, codec_of

    return codec_for(function) if returns is BY_ANNOTATION else codec_of(returns)
