"""What the body of a job in a `def` has in hand: its loops, steps and saves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from resilient.engine.drivers.sync import drive
from resilient.policies.checkpointed.in_hand import AS_ANNOTATED, JobInHand, S, codec_of_results
from resilient.policies.checkpointed.loops import Items
from resilient.policies.checkpointed.sources import Reading
from resilient.policies.checkpointed.steps import once

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.transactions import Transaction

__all__ = ["Job"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class Job(JobInHand[S]):
    """A resumable job in the hands of its runner: the first parameter of a checkpointed `def`."""

    __slots__ = ()

    _mode = "sync"

    @overload
    def iterate(
        self,
        items: Iterable[T],
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
        conn: Any = None,
    ) -> Items[T]: ...

    @overload
    def iterate(
        self,
        items: Callable[[Any], Iterable[T]],
        *,
        key: Callable[[T], Any],
        total: int | None = None,
        name: str | None = None,
        conn: Any = None,
    ) -> Items[T]: ...

    def iterate(
        self,
        items: Iterable[Any] | Callable[[Any], Iterable[Any]],
        *,
        key: Callable[[Any], Any] | None = None,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
        conn: Any = None,
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
            conn: A connection of your own to SQLite or PostgreSQL, of sqlite3, psycopg or
                SQLAlchemy, with which the body makes its effects. The loop commits them together
                with position and state, every `every` items or `seconds`, so that nothing is lost
                or done again; an error rolls back what is not committed. Commit nothing yourself.
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
        return Items(*self._begun("iterate()", items, reading, name, total, conn))

    @overload
    def chunks(
        self,
        items: Iterable[T],
        size: int,
        *,
        total: int | None = None,
        name: str | None = None,
        verify: bool = False,
        conn: Any = None,
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
        conn: Any = None,
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
        conn: Any = None,
    ) -> Items[list[Any]]:
        """The items that are not done yet, in lists of `size`; the last one may be shorter.

        A chunk is done when the body asks for the next one. Progress, `total` and the decorator's
        `every` count items, and the other arguments are those of `iterate`. The size may be
        another one when the job is resumed.
        """
        reading = Reading(size, key, verify)
        return Items(*self._begun("chunks()", items, reading, name, total, conn))

    @overload
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
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
    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        workers: int | None = None,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["collect"],
        returns: Any = AS_ANNOTATED,
    ) -> list[R | Exception]: ...

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        workers: int | None = None,
        total: int | None = None,
        name: str | None = None,
        retries: int = 0,
        on_error: Literal["raise", "collect"] = "raise",
        returns: Any = AS_ANNOTATED,
        conn: Any = None,
    ) -> list[Any]:
        """Call the function for every item, in threads; the results in the order of the items.

        Each result is stored as soon as it is there, and is not computed again when the job is
        resumed: a kill costs at most the calls that are under way. The items must come in the same
        order again.

        Args:
            function: What to call, with one item. It runs in other threads than the body, and
                leaves the state alone.
            items: Whatever can be iterated; it is read as there is room for it.
            workers: Calls at a time; 8 unless it is said.
            total: How many items there are, for `progress`.
            name: As that of a loop.
            retries: How often a call that raised is tried again, at once; `@retry` on the function
                knows pauses.
            on_error: `"raise"` the first error when the calls under way have ended, or
                `"collect"`: errors stand in the place of their results. The calls that failed are
                made again when the job is resumed.
            returns: What the results are stored as, where the function is not annotated.
            conn: As that of `iterate`: calls and their results are committed together. One
                connection serves one call at a time, so that they are made one after the other,
                here.

        Raises:
            StaleRunner: Another runner has taken the job over.
            JobCancelled: Somebody has cancelled the job.
            ResultUnavailable: An earlier run has made a call, but its result had no stored form.
            CodecError: With `conn`, a result has no stored form: the transaction is undone.
            BackendError: The backend was away for as long as the lease lasts.
            ConfigurationError: A wrong option, or two loops of one name.
        """
        from resilient.engine.side_by_side import in_threads
        from resilient.policies.checkpointed.mapping import WORKERS, Mapping, refuse_with_connection

        if conn is not None:
            refuse_with_connection(workers, retries, on_error)
            return self._map_inside(
                function, items, codec_of_results(function, returns), name, total, conn
            )
        drive(self._run.settle_left())
        workers = WORKERS if workers is None else workers
        mapping = Mapping(
            self._run, items, codec_of_results(function, returns), name=name, total=total,
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

    def _map_inside(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        codec: Codec,
        name: str | None,
        total: int | None,
        conn: Any,
    ) -> list[Any]:
        """Call the function for one item after the other, in the transactions of a connection."""
        loop = self.iterate(items, name=name, total=total, conn=conn)
        assert loop.ledger is not None
        for item in loop:
            drive(loop.ledger.keep(function(item), codec))
        return drive(loop.ledger.results(codec))

    def transaction(self, conn: Any, *, name: str | None = None) -> Transaction:
        """A transaction of your own database that is committed once in the life of the job.

        `with job.transaction(conn) as tx:` begins it, and commits it with the job's fence and
        state; an error rolls it back. Where an earlier run has committed it, `tx.done` is true:
        test that, and leave the rest out. It counts as one item of `progress`.

        Args:
            conn: As that of `iterate`.
            name: As that of a loop.

        Raises:
            StaleRunner: When it begins or ends: another runner has taken the job over.
            ConfigurationError: `conn` is no known connection, or this is inside a loop with one.
        """
        from resilient.policies.checkpointed.transactions import Transaction

        return Transaction(*self._begun_once("transaction()", name, conn))

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
        returns: Any = AS_ANNOTATED,
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
            ResultUnavailable: An earlier run has made the step, but its result had no stored form.
            BackendError: The backend was away for as long as the lease lasts.
        """
        plan = once(self._run, name, codec_of_results(function, returns))
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
