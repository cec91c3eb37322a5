"""Generators under a policy that are closed before their end: what they held is free at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import resilient
from resilient import CircuitBreaker, CircuitState, Consecutive, HalfOpen, distributed_lock
from tests.support.fixtures import Target
from tests.support.modes import Mode


@pytest.fixture(autouse=True, name="backend")
def _backend(target: Target, mode: Mode) -> Iterator[resilient.Backend]:
    with resilient.using(target.url, prefix=target.prefix) as backend:
        yield backend
        if mode.is_async:
            mode.call(backend.aclose)


def numbers(decorate: Callable[[Any], Any], mode: Mode) -> None:
    """One number of a decorated generator, which is closed then."""

    def steps() -> Iterator[int]:
        yield from range(10)

    async def asteps() -> AsyncIterator[int]:
        for number in range(10):
            yield number

    closed_early(decorate(steps), decorate(asteps), mode)


def closed_early(steps: Callable[[], Any], asteps: Callable[[], Any], mode: Mode) -> None:
    """The first item of a generator, of this mode, which is closed then."""

    async def first() -> int:
        items = asteps()
        number: int = await anext(items)
        await items.aclose()
        return number

    if mode.is_async:
        assert mode.call(first) == 0
    else:
        items = steps()
        assert next(items) == 0
        items.close()


def test_a_lock_is_released(mode: Mode) -> None:
    """The next one has it at once."""
    for _ in range(2):
        numbers(distributed_lock("k", ttl=60, wait=0), mode)
    with mode.entered(resilient.lock("k", wait=0)):
        pass


def test_a_block_in_a_generator_is_left(mode: Mode) -> None:
    """A `with` in the user's own generator."""

    def steps() -> Iterator[int]:
        with resilient.lock("k", ttl=60, wait=0):
            yield 0

    async def asteps() -> AsyncIterator[int]:
        async with resilient.lock("k", ttl=60, wait=0):
            yield 0

    for _ in range(2):
        closed_early(steps, asteps, mode)


def test_the_permit_of_a_probe_comes_back(mode: Mode) -> None:
    """It has said nothing about the service: the next call probes."""
    half_open = HalfOpen(permits=1, lease=60)
    breaker = CircuitBreaker("s", trip=Consecutive(1), open_for=0.01, half_open=half_open)
    force = breaker.at().aforce_open if mode.is_async else breaker.at().force_open
    mode.call(force, duration=0.01)
    for _ in range(2):
        _until_it_may_be_probed(mode)
        numbers(breaker, mode)
        assert breaker.at().state is CircuitState.HALF_OPEN
    with mode.entered(breaker.guard()) as probe:
        assert probe.is_probe


def _until_it_may_be_probed(mode: Mode) -> None:
    async def wait() -> None:
        await mode.sleep(0.1)

    mode.call(mode.function(wait))
