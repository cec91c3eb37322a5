"""What `@circuit_breaker` guards: functions of every kind, with a fallback or without."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    ConfigurationError,
    Consecutive,
    HalfOpen,
    circuit_breaker,
)
from resilient.config import disabled
from resilient.engine.clock import ManualClock
from tests.support.guarded import Service, state, trip
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


# --- generators


def test_a_generator_is_guarded_until_it_is_exhausted(clock: ManualClock) -> None:
    """It fails where it fails, succeeds at its end, and an early close counts neither way."""
    breaker = CircuitBreaker("service", trip=Consecutive(2))

    @breaker
    def read(error: bool) -> Iterator[int]:
        yield 1
        yield 2
        if error:
            raise ConnectionError

    assert list(read(False)) == [1, 2]
    early = read(True)
    assert next(early) == 1
    early.close()  # type: ignore[attr-defined]  # a generator, by its body
    assert breaker.at().metrics()[3:5] == (1, 0)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            list(read(True))
    with pytest.raises(CircuitOpen):
        next(read(False))


def test_an_async_generator_is_guarded_until_it_is_exhausted() -> None:
    """The same for `async def` with `yield`."""
    breaker = CircuitBreaker("service", trip=Consecutive(2))

    @breaker
    async def read(error: bool) -> AsyncIterator[int]:
        yield 1
        if error:
            raise ConnectionError

    async def main() -> None:
        assert [item async for item in read(False)] == [1]
        early = read(True)
        assert await anext(early) == 1
        await early.aclose()  # type: ignore[attr-defined]  # a generator, by its body
        assert (await breaker.at().ametrics())[3:5] == (1, 0)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                async for _item in read(True):
                    pass
        with pytest.raises(CircuitOpen):
            await anext(read(False))

    asyncio.run(main())


def test_a_probing_generator_that_is_closed_gives_its_permit_back(clock: ManualClock) -> None:
    """The round goes on with the next call."""
    breaker = CircuitBreaker("service", trip=Consecutive(1), half_open=HalfOpen(permits=1))

    @breaker
    def read() -> Iterator[int]:
        yield 1

    with pytest.raises(ConnectionError), breaker.guard():
        raise ConnectionError
    clock.advance(30)
    for _ in range(3):
        probing = read()
        next(probing)
        probing.close()  # type: ignore[attr-defined]  # a generator, by its body
    assert list(read()) == [1]
    assert breaker.at().state is CLOSED


# --- fallback


def test_a_fallback_answers_refused_calls(service: Service, mode: Mode) -> None:
    """It is given the refusal and the arguments; the function's own errors pass."""
    given: list[Any] = []

    def fallback(refusal: CircuitOpen, tenant: str = "acme") -> str:
        given.append((type(refusal), refusal.key, tenant))
        return "cached"

    call = service.guarded("s:{tenant}", trip=Consecutive(2), fallback=fallback)
    service.fails(call, 2, "globex")
    assert mode.call(call, "globex") == "cached"
    assert mode.call(call, tenant="globex") == "cached"
    assert given == [(CircuitOpen, "s:globex", "globex")] * 2
    service.succeeds(call, 1, "other")
    assert service.calls == 3


def test_a_fallback_of_an_async_function_may_be_async() -> None:
    """It is awaited."""

    async def fallback(refusal: CircuitOpen) -> str:
        await asyncio.sleep(0)
        return "later"

    @circuit_breaker("service", trip=Consecutive(1), fallback=fallback)
    async def call() -> str:
        raise ConnectionError

    async def main() -> None:
        with pytest.raises(ConnectionError):
            await call()
        assert await call() == "later"

    asyncio.run(main())


def test_the_refusal_of_another_breaker_is_not_for_the_fallback(mode: Mode) -> None:
    """A `CircuitOpen` out of the function is an exception like any other, and does not count."""
    inner = CircuitBreaker("inner", trip=Consecutive(1))
    trip(mode, inner)

    async def body() -> str:
        """Never reached."""
        return ""

    guarded = mode.decorate(inner, body)
    outer = circuit_breaker("outer", trip=Consecutive(1), fallback=lambda refusal: "no")(guarded)
    for _ in range(2):
        with pytest.raises(CircuitOpen, match="inner"):
            mode.call(outer)


# --- kinds of functions


class Client:
    """Guarded methods of every kind."""

    def __init__(self, host: str) -> None:
        self.host = host

    @circuit_breaker("host:{self.host}", trip=Consecutive(1))
    def get(self, fails: bool = False) -> str:
        """A method."""
        if fails:
            raise ConnectionError
        return self.host

    @circuit_breaker("class", trip=Consecutive(1))
    @classmethod
    def made(cls) -> str:
        """A class method, decorated from above."""
        return cls.__name__

    @staticmethod
    @circuit_breaker("static:{n}")
    def twice(n: int, *, by: int = 2) -> int:
        """A static method."""
        return n * by


def test_methods_of_every_kind_are_guarded() -> None:
    """Each binds as it would undecorated, and its circuit is found through the bound method."""
    well, ill = Client("a"), Client("b")
    with pytest.raises(ConnectionError):
        ill.get(fails=True)
    assert well.get() == "a"
    with pytest.raises(CircuitOpen):
        ill.get()
    assert circuit_breaker.of(ill.get).at().state is OPEN
    assert circuit_breaker.of(well.get).key() == "host:a"
    assert Client.made() == well.made() == "Client"
    assert Client.twice(3) == 6
    assert well.twice(3, by=5) == 15


def test_the_wrapper_looks_like_the_function(service: Service, mode: Mode) -> None:
    """Name, signature and kind are the function's; a wrong call is its own `TypeError`."""
    call = service.guarded()
    assert call.__name__ == "call"
    assert str(inspect.signature(call)).startswith("(tenant: ")
    assert inspect.iscoroutinefunction(call) is mode.is_async
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        mode.call(call, nonsense=1)


def test_sync_and_async_functions_share_one_circuit() -> None:
    """The failures of both open it for both."""
    breaker = CircuitBreaker("service", trip=Consecutive(2))

    @breaker
    def sync() -> None:
        raise ConnectionError

    @breaker
    async def coroutine() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        sync()
    with pytest.raises(ConnectionError):
        asyncio.run(coroutine())
    with pytest.raises(CircuitOpen):
        sync()
    with pytest.raises(CircuitOpen):
        asyncio.run(coroutine())


def test_a_sync_function_that_answers_a_coroutine_is_refused() -> None:
    """It would run after the call, unguarded: at every call, on the fast path too."""

    async def later() -> None:
        """Never runs."""

    def call() -> Any:
        return later()

    call = circuit_breaker("service")(call)
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="decorate an `async def` instead"):
            call()


# --- configuration


def test_another_backend_has_other_circuits(service: Service, mode: Mode) -> None:
    """What was remembered under one configuration is not used under another."""
    call = service.guarded(trip=Consecutive(1))
    service.fails(call, 1)
    with resilient.using("memory://"):
        service.succeeds(call, 2)
        with resilient.using("memory://", scope="context"):
            service.succeeds(call, 1)
    with pytest.raises(CircuitOpen):
        mode.call(call)


def test_disabled_policies_pass_calls_through(service: Service) -> None:
    """No circuit opens, and an open one refuses nothing."""
    call = service.guarded(trip=Consecutive(1))
    service.fails(call, 1)
    with disabled():
        service.fails(call, 3)
        service.succeeds(call, 1)
    assert state(call) is OPEN


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), -1.0, "soon", ZeroDivisionError()])
def test_a_retry_after_function_that_fails_hides_nothing(mode: Mode, answer: Any) -> None:
    """The call's own error is raised and counted, whatever the function does."""

    def retry_after(error: BaseException) -> float:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]  # on purpose: not even a number

    def fails() -> None:
        raise OSError("down")

    guarded = mode.decorate(
        circuit_breaker("s", trip=Consecutive(2), retry_after=retry_after), fails
    )
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            mode.call(guarded)
    with pytest.raises(CircuitOpen):
        mode.call(guarded)
