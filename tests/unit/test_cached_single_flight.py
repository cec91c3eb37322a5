"""`single_flight=`: whether a process waits for what another one computes."""

from __future__ import annotations

from typing import Any

import pytest

import resilient
from resilient import ConfigurationError, cached
from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.engine.drivers.sync import drive
from resilient.protocols.cache import CacheStore, Leased
from tests.support.fixtures import Target
from tests.support.modes import Mode

OTHER = "another process"
"""The owner of a computation that takes until it is given up."""


class Source:
    """What is cached: it answers how often it was called."""

    def __init__(self, mode: Mode, **options: Any) -> None:
        self.calls = 0
        self._mode = mode

        async def number(x: int = 7) -> int:
            self.calls += 1
            return self.calls

        self.function = mode.decorate(cached(ttl=60, **options), number)

    def __call__(self) -> Any:
        return self._mode.call(self.function)

    def peek(self) -> Any:
        """What is stored."""
        return self._mode.call(cached.of(self.function).peek)


def begun_elsewhere(store: CacheStore, function: Any) -> str:
    """Have another process compute the function's value; its key."""
    controls = cached.of(function)
    key, tags = controls.key(), controls._layer.tags()
    assert isinstance(drive(store.fetch(key, owner=OTHER, lease=30.0, tags=tags)), Leased)
    return key


@pytest.mark.parametrize("local", ["auto", None])
def test_a_process_need_not_wait_for_another_one(mode: Mode, target: Target, local: Any) -> None:
    """It computes the value too, and leaves storing to the other one; what is stored it takes."""
    with resilient.using(target.url, prefix=target.prefix) as backend:
        source = Source(mode, single_flight="local", local=local, backend_timeout="10s")
        store = backend.require("cache")
        key = begun_elsewhere(store, source.function)
        assert [source(), source()] == [1, 2]
        assert source.peek() is resilient.MISSING
        drive(store.abandon(key, owner=OTHER))
        assert [source(), source(), source.peek()] == [3, 3, 3]
        if mode.is_async:
            mode.call(backend.aclose)


def test_so_need_a_batch(mode: Mode) -> None:
    """What another process computes of it is computed here with the rest, which is stored."""
    asked: list[list[int]] = []

    async def names(ids: list[int]) -> dict[int, str]:
        asked.append(list(ids))
        return {n: f"name {n}" for n in ids}

    batch = mode.decorate(
        cached.batch("{ids}", key_arg="ids", ttl=60, namespace="n", single_flight="local"), names
    )

    async def name(x: int) -> str:
        return ""

    one = mode.decorate(cached("{x}", ttl=60, namespace="n"), name)
    with resilient.using("memory://") as backend:
        controls = cached.of(one)
        tags = controls._layer.tags(2)
        store = backend.require("cache")
        drive(store.fetch(controls.key(2), owner=OTHER, lease=30.0, tags=tags))
        for _ in range(2):
            assert mode.call(batch, [1, 2]) == {1: "name 1", 2: "name 2"}
    assert asked == [[1], [2], [2]]


def test_a_stale_value_is_served_all_the_same(mode: Mode) -> None:
    """While another process refreshes it, nobody has to compute anything."""
    with clock.installed(manual := ManualClock()), resilient.using("memory://") as backend:
        source = Source(mode, single_flight="local", soft_ttl=5)
        assert source() == 1
        manual.advance(6)
        begun_elsewhere(backend.require("cache"), source.function)
        assert [source(), source(), source.calls] == [1, 1, 1]


def test_there_are_two_of_them() -> None:
    """Whatever else is said is refused, when decorated."""
    with pytest.raises(ConfigurationError, match="single_flight='off'"):
        cached(ttl=60, single_flight="off")  # type: ignore[arg-type]  # that is what is shown
    with pytest.raises(ConfigurationError, match="single_flight='off'"):
        cached.batch(key_arg="x", ttl=60, single_flight="off")(len)  # type: ignore[arg-type]  # too
