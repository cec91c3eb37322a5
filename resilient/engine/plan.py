"""Plans: policies and backend operations as coroutines that do no I/O.

A plan is an `async def` that awaits *operations*. An operation's `__await__` yields the operation
itself; a driver (`resilient.engine.drivers`) steps the coroutine by hand and answers it: by
blocking, in an event loop, or in a simulation with a virtual clock. So there is one text of each
policy for sync and async callers, and type checkers flag a forgotten `await`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias

if TYPE_CHECKING:
    import asyncio

    from resilient.engine.lease import Lease
    from resilient.engine.signals import GiftedWaiter, Hub, Waiter  # noqa: F401 - in a text below

__all__ = [
    "NOW",
    "RANDOM",
    "Ask",
    "Body",
    "IsDead",
    "Listen",
    "Operation",
    "Plan",
    "Sleep",
    "Together",
    "Transport",
    "Wait",
    "all_of",
    "shielded",
]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T")
    Command = TypeVar("Command", contravariant=True, default=Any)
else:  # defaults are for type checkers, and the module that has them is slow to import
    from typing import TypeVar

    T = TypeVar("T")
    Command = TypeVar("Command", contravariant=True)

Plan: TypeAlias = Coroutine[Any, Any, T]
"""A coroutine that awaits operations only, or a third party's ordinary awaitables."""


class Operation(Generic[T]):
    """Something a plan wants done; awaiting it yields it to the driver."""

    __slots__ = ()

    def __await__(self) -> Generator[Operation[T], T, T]:
        return (yield self)


class Transport(Protocol[Command]):
    """How a backend's commands reach its server: the only twin code of a backend.

    Both raise `BackendError`, with the driver's own error as its cause.
    """

    def send(self, command: Command, /) -> Any:
        """Send a command and block for its answer."""
        ...

    def asend(self, command: Command, /) -> asyncio.Future[Any]:
        """Send a command; the future has its answer, and is always answered.

        It is a `resilient.engine.drivers.aio.Reply`: a cancelled caller is told so only when the
        answer is there, so that a plan can undo what its command did.
        """
        ...


class Ask(Operation[Any]):
    """Have a transport answer a command."""

    __slots__ = ("command", "transport")

    def __init__(self, transport: Transport[Any], command: Any) -> None:
        self.transport = transport
        self.command = command


class Body(Operation[Any]):
    """Run the user's function, or the body of the `with` statement, and answer its result.

    Args:
        value: What `with ... as value` binds.
        lease: The lease under which it runs. An async body is cancelled when it is lost and
            `cancel` is true; the operation then raises `LeaseLost`.
        cancel: Whether to.
    """

    __slots__ = ("cancel", "lease", "value")

    def __init__(self, value: Any = None, lease: Lease | None = None, cancel: bool = False) -> None:
        self.value = value
        self.lease = lease
        self.cancel = cancel


class Sleep(Operation[None]):
    """Let time pass, in seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class _Now(Operation[float]):
    __slots__ = ()


class _Random(Operation[float]):
    __slots__ = ()


NOW = _Now()
"""Seconds on the local clock, which runs on while the machine is suspended.

`clock.now()` says the same, for less: a simulation installs its clock for whatever runs in it.
"""
RANDOM = _Random()
"""A random number in [0, 1)."""


class IsDead(Operation[bool]):
    """Whether an owner was a process of this very host and is gone."""

    __slots__ = ("owner",)

    def __init__(self, owner: str) -> None:
        self.owner = owner


class Listen(Operation["GiftedWaiter"]):
    """A new waiter on a hub, once every signal for it will be heard.

    Args:
        hub: The hub.
        broadcasts: Whether what is told to all will be heard, too.
    """

    __slots__ = ("broadcasts", "hub")

    def __init__(self, hub: Hub, *, broadcasts: bool = False) -> None:
        self.hub = hub
        self.broadcasts = broadcasts


class Wait(Operation[bool]):
    """Wait until a waiter is woken; false if that did not happen within so many seconds."""

    __slots__ = ("seconds", "waiter")

    def __init__(self, waiter: Waiter, seconds: float) -> None:
        self.waiter = waiter
        self.seconds = seconds


class Together(Operation["list[Any]"]):
    """Run several plans side by side; what they ask of one transport at once is one trip.

    Answers a list of results in the order of the plans; a plan that raised has its exception there.
    They come to their ends even if the plan that awaits them is cancelled.
    """

    __slots__ = ("plans",)

    def __init__(self, plans: Sequence[Plan[Any]]) -> None:
        self.plans = plans


async def all_of(plans: Sequence[Plan[T]]) -> list[T]:
    """The results of plans run side by side; the first error is raised when all have ended."""
    results = await Together(plans)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def shielded(plan: Plan[T]) -> T:
    """The result of a plan that comes to its end, even if the plan that awaits it is cancelled."""
    (result,) = await all_of([plan])
    return result
