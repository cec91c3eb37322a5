"""What the body of a job sees of it: `Job` in a `def`, `AsyncJob` in an `async def`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, overload

from typing_extensions import TypeVar

from resilient.engine.drivers.sync import drive
from resilient.errors import ConfigurationError
from resilient.policies.checkpointed.loops import AsyncItems, Items
from resilient.policies.checkpointed.places import here
from resilient.policies.checkpointed.progress import Progress

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.run import Run

__all__ = ["AnyJob", "AsyncJob", "Job", "current_job"]

P = ParamSpec("P")
T = TypeVar("T")
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

    def iterate(
        self, items: Iterable[T], *, total: int | None = None, name: str | None = None
    ) -> Items[T]:
        """The items that are not done yet, in order.

        An item is done when the body asks for the next one. Every `every` items or `seconds`
        seconds the position is saved, together with the state at that moment. A job that is
        resumed goes through the items from the first, and skips those that are done: they must
        come in the same order again. A loop that has come to its end is not run again.

        What the items do to `state` is done once. What they do elsewhere is done again for the
        items that were not saved: at most `every` each time that the process is killed.

        Args:
            items: Whatever can be iterated; it is read one by one.
            total: How many there are, for `progress`; known by itself of what has a length.
            name: Tells this loop from the others in its place; by default it is its number
                among them. A loop inside another one's item belongs to that item.

        Raises:
            StaleRunner: From the loop: another runner has taken the job over.
            BackendError: From the loop: the backend was away for as long as the lease lasts.
            ConfigurationError: Two loops of one name, or fewer items than are done already.
        """
        return Items(self._run, self._run.begin_loop(name, items, total), items)

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

    def iterate(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        total: int | None = None,
        name: str | None = None,
    ) -> AsyncItems[T]:
        """The items that are not done yet, for `async for`: see `Job.iterate`.

        Tasks of one body may each have a loop. The state is then saved with an item of another
        loop half done, unless no item awaits between its changes of the state.
        """
        return AsyncItems(self._run, self._run.begin_loop(name, items, total), items)

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
    from resilient.engine.codecs import codec_for, codec_of

    return codec_for(function) if returns is BY_ANNOTATION else codec_of(returns)
