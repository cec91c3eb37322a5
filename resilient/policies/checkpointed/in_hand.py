"""What jobs of both kinds have, and how the results of their steps are stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from resilient.policies.checkpointed.progress import Progress

if TYPE_CHECKING:
    from resilient.engine.backend import Mode
    from resilient.engine.codecs import Codec
    from resilient.policies.checkpointed.ledger import Ledger
    from resilient.policies.checkpointed.places import Place
    from resilient.policies.checkpointed.run import Run
    from resilient.policies.checkpointed.sources import Reading

__all__ = ["AS_ANNOTATED", "JobInHand", "S", "codec_of_results"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    S = TypeVar("S", default=dict[str, Any])
else:  # defaults are for type checkers, and the module that has them is slow to import
    from typing import TypeVar

    S = TypeVar("S")


class _AsAnnotated:
    """The type of `AS_ANNOTATED`: signatures show its name."""

    def __repr__(self) -> str:
        return "AS_ANNOTATED"


AS_ANNOTATED: Any = _AsAnnotated()


class JobInHand(Generic[S]):
    """What jobs of both kinds have."""

    __slots__ = ("__weakref__", "_run")

    _mode: ClassVar[Mode]

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

    def _begun(
        self,
        what: str,
        items: Any,
        reading: Reading,
        name: str | None,
        total: int | None,
        conn: Any,
    ) -> tuple[Run, Place, Any, Reading, Ledger | None]:
        """What a loop is made of that begins where the caller is."""
        reading.check(items, what)
        place = self._run.begin_loop(name, items, total)
        ledger = None if conn is None else self._ledger(place, conn, what)
        return self._run, place, items, reading, ledger

    def _begun_once(self, what: str, name: str | None, conn: Any) -> tuple[Run, Place, Ledger]:
        """The same for a loop of one item."""
        place = self._run.begin_loop(name, (), 1)
        return self._run, place, self._ledger(place, conn, what)

    def _ledger(self, place: Place, conn: Any, what: str) -> Ledger:
        from resilient.policies.checkpointed.ledger import ledger_of

        return ledger_of(self._run, place, conn, mode=self._mode, what=what)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task!r}, attempt {self.attempt}>"


def codec_of_results(function: Callable[..., Any], returns: Any) -> Codec:
    """How the results of a function are stored: by its annotation, unless that is said."""
    try:
        return _known_codec(function, returns)
    except TypeError:  # a function, or a type, without a hash
        return _known_codec.__wrapped__(function, returns)


@lru_cache(256)
def _known_codec(function: Callable[..., Any], returns: Any) -> Codec:
    """The codec of a step that may come many times: to read an annotation takes a while."""
    from resilient.engine.codecs import codec_for, codec_of

    return codec_for(function) if returns is AS_ANNOTATED else codec_of(returns)
