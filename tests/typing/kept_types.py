"""A decorator returns a function of exactly the type that it decorates."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Generic, Protocol, Self, TypeVar, assert_type, overload

from typing_extensions import override

from resilient import cached, circuit_breaker, distributed_lock, idempotent, retry
from resilient.engine.typing import Decorator

T = TypeVar("T")
Item = TypeVar("Item")

# --- each of them, in its plain form

assert_type(distributed_lock("k"), Decorator)
assert_type(distributed_lock("k", ttl="1m", wait=None, on_busy="raise"), Decorator)
assert_type(distributed_lock(key=lambda n: f"k:{n}"), Decorator)
assert_type(idempotent("k", ttl="24h"), Decorator)
assert_type(idempotent("k", ttl=60, on_busy="raise", replay_errors=(ValueError,)), Decorator)
assert_type(cached(ttl=60), Decorator)
assert_type(cached("{n}", ttl="10m", tags=("n:{n}",), local=None), Decorator)
assert_type(circuit_breaker("k"), Decorator)
assert_type(circuit_breaker("k", record=(OSError,), ignore=KeyError), Decorator)
assert_type(retry(on=OSError), Decorator)
assert_type(retry(on=(OSError, KeyError), attempts=None), Decorator)

# --- functions


@distributed_lock("{n}")
def function(n: int, *extra: str, flag: bool = False) -> list[str]:
    """Positional, variadic and keyword parameters."""
    return [*extra, str(n), str(flag)]


assert_type(function(1, "a", "b", flag=True), list[str])
assert_type(function(n=1), list[str])
function()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
function("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
function(1, flagged=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


class Named(Protocol):
    """Parameter names and defaults are part of a type."""

    def __call__(self, n: int, *extra: str, flag: bool = ...) -> list[str]: ...


named: Named = function


@retry(on=OSError)
async def coroutine(n: int) -> bytes:
    """An async function stays one."""
    return bytes(n)


async def awaits() -> None:
    """What it answers is awaited."""
    assert_type(await coroutine(1), bytes)
    coroutine(1)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    await coroutine("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@distributed_lock("stream")
def generator(n: int) -> Iterator[int]:
    """A generator function stays one."""
    yield n


@circuit_breaker("stream")
async def async_generator(n: int) -> AsyncIterator[int]:
    """So does an async one."""
    yield n


assert_type(generator(1), Iterator[int])
assert_type(async_generator(1), AsyncIterator[int])

power: Callable[[int], int] = cached(ttl=60)(functools.partial(pow, 2))
"""Callable objects are functions too."""


@idempotent("{order}", ttl=60)
def generic(order: T, others: list[T]) -> dict[str, T]:
    """Type variables stay open."""
    return {"order": order, **{str(each): each for each in others}}


assert_type(generic(1, [2]), dict[str, int])
assert_type(generic("a", ["b"]), dict[str, str])


@overload
def either(n: int) -> int: ...
@overload
def either(n: str) -> str: ...
@cached(ttl=60)
def either(n: int | str) -> int | str:
    """The implementation of an overloaded function."""
    return n


assert_type(either(1), int)
assert_type(either("1"), str)

# --- methods


class Repository(Generic[Item]):
    """Every kind of method."""

    def __init__(self, item: Item) -> None:
        self.item = item

    @distributed_lock("get:{n}")
    def get(self, n: int) -> Item:
        """A method."""
        return self.item

    @cached("{n}", ttl=60)
    async def fetch(self, n: int) -> Item:
        """An async method."""
        return self.item

    @idempotent("chain", ttl=60)
    def chain(self) -> Self:
        """A method that answers its own object."""
        return self

    @classmethod
    @circuit_breaker("make")
    def make(cls, item: Item) -> Self:
        """A class method, decorated below."""
        return cls(item)

    @staticmethod
    @retry(on=OSError)
    def parse(text: str) -> int:
        """A static method, decorated below."""
        return int(text)

    @property
    @distributed_lock("size")
    def size(self) -> int:
        """A property."""
        return 1


repository = Repository("x")
assert_type(repository.get(1), str)
assert_type(repository.get(n=1), str)
assert_type(repository.chain(), Repository[str])
assert_type(repository.make("x"), Repository[str])
assert_type(Repository.parse("1"), int)
assert_type(repository.size, int)
repository.get()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
repository.get("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Repository.parse(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Above:
    """The decorator may stand above as well."""

    @distributed_lock("make")
    @classmethod
    def make(cls, n: int) -> Self:
        """A class method."""
        return cls()

    @retry(on=OSError)
    @staticmethod
    def parse(text: str) -> int:
        """A static method."""
        return int(text)


assert_type(Above.make(1), Above)
assert_type(Above.parse("1"), int)

# --- protocols and overrides


class Reads(Protocol):
    """What a decorated method may be asked to be."""

    def get(self, n: int) -> str: ...

    async def fetch(self, n: int) -> str: ...


reads: Reads = repository
wrong: Reads = Repository(1)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]


class Base(ABC):
    """What is overridden."""

    @abstractmethod
    def run(self, n: int) -> str:
        """A method."""

    def stop(self, n: int) -> str:
        """Another."""
        return str(n)


class Child(Base):
    """A decorated override is judged by what it decorates."""

    @override
    @distributed_lock("run:{n}")
    def run(self, n: int, force: bool = False) -> str:
        """A compatible one."""
        return str(n)

    @distributed_lock("stop:{n}")
    def stop(self, n: str) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        """An incompatible one."""
        return n


assert_type(Child().run(1, force=True), str)

# --- stacks


@distributed_lock("{n}")
@idempotent("{n}", ttl=60)
@cached("{n}", ttl=60)
@circuit_breaker("prices")
@retry(on=OSError)
def stacked(n: int, *, currency: str = "EUR") -> float:
    """All of them."""
    return float(n)


@retry(on=OSError)
@circuit_breaker("prices")
@cached("{n}", ttl=60)
@idempotent("{n}", ttl=60)
@distributed_lock("{n}")
async def astacked(n: int, *, currency: str = "EUR") -> float:
    """All of them, async."""
    return float(n)


assert_type(stacked(1, currency="USD"), float)
stacked(1, "USD")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
handler: Callable[[int], Awaitable[float]] = astacked


async def awaits_methods_and_stacks() -> None:
    """What they answer is awaited as well."""
    assert_type(await repository.fetch(1), str)
    assert_type(await astacked(1, currency="USD"), float)


# --- what is no decorator, and no option


@distributed_lock  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
def forgotten_parentheses() -> None:
    """Without parentheses."""


distributed_lock("k", on_busy="wait")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
distributed_lock("k", fairly=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
distributed_lock("k", skipped=0)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
idempotent("k")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
cached("k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
cached("k", ttl=60, soft=30)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
retry(attempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
retry(on="OSError")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
retry(on=KeyboardInterrupt)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
distributed_lock("k")(7)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
