"""Where a job is: a tree of loops, each with the number of its items that are done.

A loop that begins while the body has an item of another one in hand lies inside that item, and is
forgotten with it. A loop without a name is told from its siblings by its number among them: the
body is expected to begin its loops in the same order when it runs again.
"""

from __future__ import annotations

from collections.abc import Sized
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from resilient.errors import ConfigurationError

if TYPE_CHECKING:
    from resilient.policies.checkpointed.run import Run

__all__ = ["Place", "here", "place_in"]


class Place:
    """A loop, or the job as a whole, which is the place around its outermost loops (a `Run`).

    Attributes:
        around: The place around it. Around a whole job it is one in the job that called it.
        name: The loop's name among its siblings.
        done: How many of its items are done.
        cursor: The key of the last of them, in a loop with `key=`.
        digest: Of all of them, in a loop with `verify=True`.
        total: How many there are, if that is known.
        is_complete: Whether the loop has come to its end.
        is_entered: Whether it has begun in this run.
        is_open: Whether the body is in it now.
        loops: The loops inside the item in hand, by name.
        has_ledger: Whether it is kept in the user's own database.
        is_provisional: Whether it lies inside of such a loop, with whose transaction it stands or
            falls: nothing of it is saved.
    """

    # In the class, for few places change them: a job is one even if it has no loops.
    done = 0
    cursor: Any = None
    digest = b""
    total: int | None = None
    is_complete = False
    is_entered = False
    is_open = False
    has_ledger = False
    is_provisional = False
    _begun = 0

    _run: Run

    def __init__(self, around: Place, name: str) -> None:
        self._run = around.run
        self.around: Place | None = around
        self.name = name
        self.loops: dict[str, Place] = {}

    @property
    def run(self) -> Run:
        """The run to which it belongs."""
        return self._run

    def enter(self, name: str | None, items: object, total: int | None) -> Place:
        """The loop of that name that begins here now, at the item where it stopped.

        Raises:
            ConfigurationError: The name is not one, or this run has been through a loop of it.
        """
        loop = self._loop(self._named(name))
        if loop.is_open or (loop.is_complete and loop.is_entered):
            raise ConfigurationError(
                f"the job {self.run.task!r} has two loops {loop.name!r} in one place: "
                "iterate(..., name=...) needs a name of its own for each"
            )
        if total is None and isinstance(items, Sized):
            total = len(items)
        loop.total = total if total is not None else loop.total
        loop.is_entered = True
        loop.is_provisional = self.has_ledger or self.is_provisional
        loop.is_open = not loop.is_complete
        return loop

    @property
    def path(self) -> str:
        """What tells it from every other loop of the job, and of every other item around it."""
        around = self.around
        if around is None or around.run is not self.run or around is self.run:
            return self.name
        return f"{around.path}[{around.done}]/{self.name}"

    def next_item(self, count: int, cursor: Any, digest: bytes) -> None:
        """What was in hand, so many items, is done, and what was inside it is over."""
        self.done += count
        self.cursor, self.digest = cursor, digest
        self._begun = 0
        if self.loops:
            self.loops = {}

    def complete(self) -> None:
        """The loop has come to its end."""
        self.is_complete = True
        self.is_open = False

    def clear(self) -> None:
        """Forget the loops inside, and these theirs."""
        for loop in self.loops.values():
            loop.clear()
        self.loops = {}

    def stored(self) -> dict[str, Any]:
        """The loops inside, as they are saved."""
        return {name: loop.position() for name, loop in self.loops.items()}

    def position(self) -> list[Any]:
        """This loop, as it is saved."""
        inside = {} if self.has_ledger else self.stored()
        position = [self.done, self.total, self.is_complete, inside]
        more = self.digest or self.cursor is not None
        return [*position, self.cursor, self.digest] if more else position

    def restore(self, stored: dict[str, Any]) -> None:
        """Take the loops inside from what was saved."""
        for name, position in stored.items():
            self._loop(name).go_to(position)

    def go_to(self, position: list[Any]) -> None:
        """Take this loop from what was saved."""
        self.done, self.total, self.is_complete, loops, *more = position
        self.cursor, self.digest = more or (None, b"")
        self.restore(loops)

    def _loop(self, name: str) -> Place:
        loop = self.loops.get(name)
        if loop is None:
            loop = self.loops[name] = Place(self, name)
        return loop

    def _named(self, name: object) -> str:
        if name is None:
            self._begun += 1
            return f"#{self._begun}"
        if not isinstance(name, str) or not name or name.startswith("#"):
            raise ConfigurationError(
                f"iterate(name={name!r}): a loop's name is a text that does not start with '#'"
            )
        return name


here: ContextVar[Place | None] = ContextVar("resilient.job", default=None)
"""Where the calling thread or task is: in an item of a loop, or somewhere else in a job."""


def place_in(run: Run) -> Place:
    """Where the caller is in this run: the innermost loop whose item it has in hand."""
    place = here.get()
    while place is not None and (place.run is not run or not place.is_open):
        place = place.around
    return run if place is None else place
