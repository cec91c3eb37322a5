"""What can be locked: methods and other callables, generators of both kinds."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import distributed_lock
from tests.support.holders import held_by, is_free

pytestmark = pytest.mark.usefixtures("backend")


def test_methods_and_what_else_is_callable(backend: resilient.Backend) -> None:
    """Methods, classmethods, staticmethods, partials and callable objects are all locked."""
    held: list[str] = []

    def note() -> str:
        held.append(resilient.current_lease().key)
        return held[-1]

    class Account:
        number = 7

        @distributed_lock("account:{self.number}")
        def settle(self) -> str:
            """Settle it."""
            return note()

        @classmethod
        @distributed_lock("class:{cls.__name__}")
        def below(cls) -> str:
            return note()

        @distributed_lock("class:{cls.__name__}:above")
        @classmethod
        def above(cls) -> str:
            return note()

        @distributed_lock("static:{x}")
        @staticmethod
        def static(x: int) -> str:
            return note()

    class Door:
        def __call__(self, x: int) -> str:
            return note()

    account = Account()
    assert account.settle() == "account:7"
    assert Account.settle(account) == "account:7"
    assert Account.settle.__doc__ == "Settle it."
    assert Account.below() == account.below() == "class:Account"
    assert Account.above() == "class:Account:above"
    assert account.static(3) == "static:3"
    assert distributed_lock.of(account.settle).key() == "account:7"
    assert distributed_lock("p:{x}")(partial(lambda x, y: note(), y=2))(1) == "p:1"
    assert distributed_lock("o:{x}")(Door())(4) == "o:4"


def test_generators_hold_their_lock_from_first_to_last_step(backend: resilient.Backend) -> None:
    """Not before, not after; and the lease is current only while the body runs."""

    @distributed_lock("k")
    def numbers() -> Generator[int, str, str]:
        yield resilient.current_lease().fence
        received = yield 2
        return received

    assert list(_until_free(numbers(), backend)) == [False, False]
    generator = numbers()
    assert is_free(backend, "k")
    next(generator)
    with pytest.raises(resilient.ConfigurationError, match="no lock"):
        resilient.current_lease()
    next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send("sent")
    assert stop.value.value == "sent"
    assert is_free(backend, "k")


def _until_free(generator: Iterable[int], backend: resilient.Backend) -> Iterator[bool]:
    for _ in generator:
        yield is_free(backend, "k")
    assert is_free(backend, "k")


def test_a_generator_that_is_closed_or_dropped_frees_its_lock(backend: resilient.Backend) -> None:
    """Closing it, raising in it, or forgetting it: the lock is free."""

    @distributed_lock("k")
    def numbers() -> Generator[int, str, str]:
        yield 1
        yield 2
        return "end"

    generator = numbers()
    next(generator)
    generator.close()
    assert is_free(backend, "k")
    generator = numbers()
    next(generator)
    with pytest.raises(ValueError, match="thrown"):
        generator.throw(ValueError("thrown"))
    assert is_free(backend, "k")
    generator = numbers()
    next(generator)
    del generator
    gc.collect()
    assert is_free(backend, "k")


def test_async_generators_hold_their_lock_too(backend: resilient.Backend) -> None:
    """From the first step to the last, with `asend`, `athrow` and `aclose`."""

    @distributed_lock("k")
    async def numbers() -> AsyncIterator[Any]:
        try:
            received = yield resilient.current_lease().key
            await asyncio.sleep(0)
            yield received
        except ValueError as error:
            yield f"caught {error}"

    async def main() -> None:
        generator: Any = numbers()
        assert await anext(generator) == "k"
        assert await held_by(backend, "k") is not None
        assert await generator.asend("sent") == "sent"
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert await held_by(backend, "k") is None
        generator = numbers()
        await anext(generator)
        assert await generator.athrow(ValueError("thrown")) == "caught thrown"
        await generator.aclose()
        assert await held_by(backend, "k") is None

    asyncio.run(main())
