"""`on_busy="skip"` puts what stands for a skipped call into the result type, and nothing else."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, TypeVar, assert_type

from resilient import distributed_lock, idempotent, retry
from resilient.engine.typing import SkippingDecorator

T = TypeVar("T")

assert_type(distributed_lock("k", on_busy="skip"), SkippingDecorator[None])
assert_type(distributed_lock("k", on_busy="skip", skipped=None), SkippingDecorator[None])
assert_type(distributed_lock("k", on_busy="skip", skipped=-1), SkippingDecorator[int])
assert_type(idempotent("k", ttl=60, on_busy="skip"), SkippingDecorator[None])
assert_type(idempotent("k", ttl=60, on_busy="skip", skipped="busy"), SkippingDecorator[str])


@distributed_lock("{n}", on_busy="skip")
def function(n: int, *, flag: bool = False) -> str:
    """`None` by default."""
    return str(n)


assert_type(function(1, flag=True), str | None)
function(1).upper()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
function("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Busy(Enum):
    """A value that no result can be."""

    BUSY = 0


@distributed_lock("{n}", on_busy="skip", skipped=Busy.BUSY)
def marked(n: int) -> str | None:
    """A value of one's own."""
    return None


assert_type(marked(1), str | None | Busy)


@idempotent("{n}", ttl=60, on_busy="skip")
async def coroutine(n: int) -> bytes:
    """Of an async function it is what is awaited."""
    return bytes(n)


@retry(on=OSError)
@distributed_lock("{n}", on_busy="skip")
@idempotent("{n}", ttl=60, on_busy="skip", skipped=0.5)
async def stacked(n: int) -> bytes:
    """In a stack both appear."""
    return bytes(n)


async def awaits() -> None:
    """It is part of what is awaited."""
    assert_type(await coroutine(1), bytes | None)
    assert_type(await stacked(1), bytes | float | None)


@distributed_lock("k", on_busy="skip")
def generic(value: T) -> list[T]:
    """Type variables stay open."""
    return [value]


assert_type(generic(1), list[int] | None)


class Service:
    """Methods too."""

    @distributed_lock("{n}", on_busy="skip")
    def method(self, n: int) -> str:
        """A method."""
        return str(n)

    @distributed_lock("{n}", on_busy="skip")
    async def amethod(self, n: int) -> str:
        """An async one."""
        return str(n)

    @classmethod
    @idempotent("{n}", ttl=60, on_busy="skip")
    def make(cls, n: int) -> str:
        """A class method."""
        return str(n)

    @staticmethod
    @distributed_lock("{n}", on_busy="skip", skipped=-1)
    def static(n: int) -> str:
        """A static one."""
        return str(n)


assert_type(Service().method(1), str | None)
assert_type(Service().method(n=1), str | None)
assert_type(Service.make(1), str | None)
assert_type(Service.static(1), str | int)


async def awaits_methods() -> None:
    """It is part of what is awaited there too."""
    assert_type(await Service().amethod(1), str | None)


SKIP: Final[Literal["skip"]] = "skip"
assert_type(distributed_lock("k", on_busy=SKIP), SkippingDecorator[None])


def dynamic(on_busy: str) -> None:
    """What may be either must be said."""
    distributed_lock("k", on_busy=on_busy)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
