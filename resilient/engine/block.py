"""`with` and `async with` from a plan: driven to its `Body` on entry, and to its end on exit."""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from resilient.engine import identity
from resilient.engine.drivers.sync import advance, throw_stop
from resilient.engine.plan import Body, Plan
from resilient.errors import BlockingCallInLoop

if TYPE_CHECKING:
    from resilient.engine.backend import Mode
    from resilient.engine.drivers.aio import Interruption, Stepper

__all__ = ["Block", "warn_if_in_loop"]

S = TypeVar("S")
A = TypeVar("A")


class Block(ABC, Generic[S, A]):
    """An object that many threads and tasks may enter at once, each into a plan of its own.

    `S` is what `with ... as` binds, `A` what `async with ... as` does.
    """

    def __init__(self) -> None:
        self._entries: dict[object, list[Any]] = {}

    @abstractmethod
    def _plan(self, mode: Mode) -> Plan[Any]:
        """The plan of one entry."""

    def __enter__(self) -> S:
        who = identity.caller()
        if not isinstance(who, threading.Thread):  # else the words for it need not be made
            warn_if_in_loop(f"with {self!r}", f"async with {self!r}", stacklevel=3)
        plan = self._plan("sync")
        step: Any = advance(plan)
        assert type(step) is Body, "a block's plan runs its body"
        value: S = step.value
        self._entries.setdefault(who, []).append(plan)
        return value

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        plan = self._leave()
        try:
            if isinstance(error, StopIteration | StopAsyncIteration):
                throw_stop(plan, error)
            else:
                advance(plan, None, error)
        except BaseException as raised:
            if raised is not error:  # the body's own exception goes on by itself
                raise
        finally:
            del error, traceback  # they hold this frame by now: a cycle, if it holds them

    async def __aenter__(self) -> A:
        from resilient.engine.drivers.aio import Interruption, Stepper

        stepper = Stepper(self._plan("async"))
        step = await stepper.advance()
        assert type(step) is Body, "a block's plan runs its body"
        watch = Interruption(step.lease) if step.lease is not None and step.cancel else None
        self._entries.setdefault(identity.caller(), []).append((stepper, watch))
        if watch is not None:
            watch.begin()
        value: A = step.value
        return value

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entry: tuple[Stepper, Interruption | None] = self._leave()
        stepper, watch = entry
        settled = error if watch is None else watch.end(error)
        try:
            if isinstance(settled, StopIteration | StopAsyncIteration):
                await stepper.throw_stop(settled)
            else:
                await stepper.advance(error=settled)
        except BaseException as raised:
            if raised is not error:
                raise
        finally:
            del error, settled, traceback  # as above

    def _leave(self) -> Any:
        if len(self._entries) == 1:
            # Who is alone is meant, though it may have entered in one task and leave in another, as
            # some test frameworks' fixtures do. Whoever comes in this moment stands behind it.
            who, *_ = self._entries
        else:
            who = identity.caller()
        entries = self._entries[who]
        entry = entries.pop()
        if not entries:
            del self._entries[who]
        return entry


def warn_if_in_loop(blocking: str, instead: str, *, stacklevel: int = 3) -> None:
    """Warn that a blocking form is used in a thread that runs an event loop."""
    if not isinstance(identity.caller(), threading.Thread):
        warnings.warn(
            f"`{blocking}` blocks the event loop of this thread: use `{instead}`",
            BlockingCallInLoop,
            stacklevel=stacklevel + 1,
        )
