"""Writes under a lock: a holder that has lost its lock stores nothing.

Whatever the library itself stores while a lock is held (a computed value, the outcome of a call, a
checkpoint) goes through `guarded`. It looks at the locks held here, and where a lock lies in the
same server as what is written, the server looks too, in the same operation: a holder that does not
know of its loss yet, because it slept, is refused all the same.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar

from resilient.engine.plan import Ask, Plan
from resilient.errors import BackendError, LeaseLost

__all__ = ["Guard", "NotHeld", "current", "guarded", "in_force"]

T = TypeVar("T")


class NotHeld(BackendError):
    """A server has refused a write, since a lock under which it was made is not held.

    Args:
        owner: The owner token of the stale holder.
    """

    def __init__(self, owner: str) -> None:
        super().__init__(f"{owner} does not hold its lock", transient=False)
        self.owner = owner


class Guard(NamedTuple):
    """How one server makes a write depend on a lock of its own.

    Attributes:
        server: The transport, or the store with transactions, on which the lock lies.
        wrap: Makes of a command to it, or of a transaction's work, one that raises `NotHeld`
            instead if the lock is not held.
    """

    server: object
    wrap: Callable[[Any], Any]


class Holder(Protocol):
    """A lease on a lock, as far as writes under it are concerned."""

    @property
    def owner(self) -> str: ...
    @property
    def outer(self) -> Holder | None: ...
    @property
    def released(self) -> bool: ...
    @property
    def inherited(self) -> bool: ...
    def check(self) -> None: ...
    def guard(self) -> Guard | None: ...
    def lose(self, reason: str) -> None: ...
    def error(self) -> LeaseLost: ...


current: ContextVar[Any] = ContextVar("resilient.current_lease", default=None)
"""The innermost `Holder` here."""
in_force: ContextVar[tuple[Guard, ...]] = ContextVar("resilient.guards", default=())
"""The guards of the write that is being made: set only while its plan is stepped."""


def guarded(ask: Callable[[], Plan[T]]) -> Plan[T]:
    """The plan `ask()`, a write, that comes to pass only if all locks here are held.

    Raises:
        LeaseLost: One of them is not; nothing was written.
    """
    return ask() if current.get() is None else _guarded(ask)


async def _guarded(ask: Callable[[], Plan[T]]) -> T:
    holders = list(_held_here())
    for holder in holders:
        holder.check()
    guards = tuple(guard for holder in holders if (guard := holder.guard()) is not None)
    if not guards:
        return await ask()
    try:
        return await _stepped(guards, ask)
    except NotHeld as refused:
        for holder in holders:
            if holder.owner == refused.owner:
                holder.lose("the server says that it has expired or was taken over")
                raise holder.error() from None
        raise


def _held_here() -> Iterator[Holder]:
    holder: Holder | None = current.get()
    while holder is not None:
        if not holder.released and not holder.inherited:
            yield holder
        holder = holder.outer


@types.coroutine
def _stepped(guards: tuple[Guard, ...], ask: Callable[[], Plan[T]]) -> Generator[Any, Any, T]:
    """Step a plan with the guards in force, and wrap what it asks of their servers."""
    in_force.set(guards)  # a store may make its transaction as it is asked, and not when stepped
    try:
        plan = ask()
    finally:
        in_force.set(())
    answer: Any = None
    error: BaseException | None = None
    while True:
        in_force.set(guards)
        try:
            operation = plan.send(answer) if error is None else plan.throw(error)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            in_force.set(())
            error = None
        if type(operation) is Ask:
            operation = _guarded_ask(operation, guards)
        try:
            answer = yield operation
        except BaseException as raised:
            error = raised


def _guarded_ask(ask: Ask, guards: tuple[Guard, ...]) -> Ask:
    command = ask.command
    for guard in guards:
        if guard.server is ask.transport:
            command = guard.wrap(command)
    return Ask(ask.transport, command)
