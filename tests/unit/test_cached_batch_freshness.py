"""How long a batch serves each of its values, and what it does when a computation fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import ConfigurationError, TimedOut, cached
from resilient.engine import chance, clock
from resilient.engine.backend import Backend
from resilient.engine.clock import ManualClock
from resilient.events import Event, StaleServed
from resilient.testing.faults import FaultProxy
from tests.support.modes import Mode
from tests.support.servers import RedisAt


@pytest.fixture(autouse=True)
def manual() -> Iterator[ManualClock]:
    """A clock that moves when told to."""
    with clock.installed(manual := ManualClock()):
        yield manual


@pytest.fixture(autouse=True)
def backend(manual: ManualClock) -> Iterator[Backend]:
    """A fresh memory backend for each test, on that clock."""
    with resilient.using("memory://") as backend:
        yield backend


class Source:
    """What is cached: it remembers what it was asked for, and fails or waits when told to."""

    def __init__(self, mode: Mode, **options: Any) -> None:
        self.mode = mode
        self.asked: list[list[int]] = []
        self.error: Exception | None = None
        self.is_held = False
        self.works: Callable[[], object] = lambda: None

        async def read(ids: list[int]) -> dict[int, str]:
            self.asked.append(ids)
            self.works()
            number = len(self.asked)
            while self.is_held:
                await mode.sleep(0.005)
            if self.error is not None:
                raise self.error
            return {n: f"{n}: {number}" for n in ids}

        self.cached = mode.decorate(cached.batch(key_arg="ids", **options), read)

    def __call__(self, *ids: int) -> Any:
        return list(self.mode.call(self.cached, list(ids)).values())

    def settle(self) -> None:
        """Let what goes on in the background end."""

        async def later() -> None:
            await self.mode.sleep(0.01)

        deadline = time.monotonic() + 5
        near = cached.batch.of(self.cached)._layer.attend()
        assert near is not None
        while len(near.nearby.flights):
            assert time.monotonic() < deadline
            self.mode.call(self.mode.function(later))


LOCAL = pytest.mark.parametrize("local", ["auto", None])


@LOCAL
def test_stale_while_refreshed(mode: Mode, manual: ManualClock, local: Any) -> None:
    """After their soft TTL all are served at once, and computed anew in one call."""
    source = Source(mode, ttl=60, soft_ttl=10, local=local)
    assert source(1, 2) == ["1: 1", "2: 1"]
    manual.advance(11)
    source.is_held = True
    assert source(2, 1) == ["2: 1", "1: 1"], "though nobody has them computed yet"
    source.is_held = False
    source.settle()
    assert source.asked == [[1, 2], [2, 1]]
    assert source(1, 2) == ["1: 2", "2: 2"]
    assert cached.batch.of(source.cached).stats().stale >= 2
    manual.advance(60)
    assert source(1) == ["1: 3"], "past its TTL nobody gets it any more"


def test_stale_beside_missing(mode: Mode, manual: ManualClock) -> None:
    """What is stale is computed anew together with what is missing, for which one waits anyway."""
    source = Source(mode, ttl=60, soft_ttl=10)
    source(1)
    manual.advance(11)
    assert source(1, 2) == ["1: 2", "2: 2"]
    assert source.asked == [[1], [1, 2]]


def test_early(mode: Mode, manual: ManualClock) -> None:
    """Ahead of time, the likelier the longer it takes; nobody waits for it."""
    source = Source(mode, ttl=60, early=True)
    source(1)
    manual.advance(59)
    assert source(1) == ["1: 1"], "what took no time is not computed early"
    assert source.asked == [[1]]


@LOCAL
def test_early_is_drawn_once_for_each_value(
    mode: Mode, manual: ManualClock, local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value of a batch has a moment of its own; what the whole call took counts for each."""
    drawn = [math.exp(-10), math.exp(-5), 1.0]  # ten times and five times as early, and not at all
    monkeypatch.setattr(chance, "random", lambda: 1.0 - drawn.pop(0))
    source = Source(mode, ttl=60, early=True, local=local)
    source.works = partial(manual.advance, 2)
    assert source(1, 2) == ["1: 1", "2: 1"]
    assert drawn == [1.0]
    for passed in (1, 38):
        manual.advance(passed)
        assert source(1, 2) == ["1: 1", "2: 1"]
    source.settle()
    assert source.asked == [[1, 2]], "40 s and 50 s after they were stored, and not before"
    manual.advance(2)
    assert source(1, 2) == ["1: 1", "2: 1"], "nobody waits"
    source.settle()
    assert source.asked == [[1, 2], [1]]
    assert drawn == []
    assert source(1) == ["1: 2"]


@LOCAL
def test_stale_if_error(mode: Mode, manual: ManualClock, seen: list[Event], local: Any) -> None:
    """A failing source is asked once per throttle interval, and former values stand meanwhile."""
    source = Source(mode, ttl=10, stale_if_error=600, throttle=5, local=local)
    source(1, 2)
    manual.advance(11)
    source.error = LookupError("away")
    for _ in range(3):
        assert source(1, 2) == ["1: 1", "2: 1"]
    assert len(source.asked) == 2
    assert [type(event) for event in seen].count(StaleServed) == 2
    manual.advance(6)
    assert source(1, 2) == ["1: 1", "2: 1"]
    assert len(source.asked) == 3
    with pytest.raises(LookupError):
        source(1, 2, 3)
    assert source.asked[-1] == [3], "the others stand"
    source.error = None
    manual.advance(6)
    assert source(1, 2, 3) == ["1: 5", "2: 5", "3: 5"]


def test_a_backend_that_is_away(mode: Mode, redis_server: RedisAt, prefix: str) -> None:
    """What is at hand is fallen back on, and only the rest is computed."""
    source = Source(mode, ttl=0.05, stale_if_error=600, backend_timeout=("1s", "2s"))
    with (
        clock.installed(clock.SystemClock()),
        FaultProxy(redis_server.url) as proxy,
        resilient.using(proxy.url, prefix=prefix),
    ):
        source(1)
        time.sleep(0.1)
        proxy.refuse()
        assert source(1, 2) == ["1: 1", "2: 2"]
        assert source.asked == [[1], [2]]


@pytest.mark.parametrize("falls_back", [False, True])
def test_compute_timeout(mode: Mode, manual: ManualClock, falls_back: bool) -> None:
    """A call gives up after the hard limit; after the soft one it takes former values."""
    options: dict[str, Any] = {"stale_if_error": 600} if falls_back else {}
    source = Source(mode, ttl=10, compute_timeout=("20ms", "300ms"), **options)
    source(1)
    manual.advance(11)
    source.is_held = True
    if falls_back:
        assert source(1) == ["1: 1"]
    else:
        with pytest.raises(TimedOut, match=r"cached\.batch on .*read.*0\.3 seconds"):
            source(1)
    source.is_held = False
    source.settle()


def test_key_function(mode: Mode) -> None:
    """`key=` is given one item in the place of all."""

    async def read(ids: list[int], realm: str) -> dict[int, str]:
        return {n: f"{realm}{n}" for n in ids}

    batch = mode.decorate(
        cached.batch(key_arg="ids", ttl=60, namespace="n", key=lambda ids, realm: (realm, ids)),
        read,
    )
    assert mode.call(batch, [1, 2], "a") == {1: "a1", 2: "a2"}
    assert mode.call(batch, [2, 3], realm="b") == {2: "b2", 3: "b3"}
    assert len(set(cached.batch.of(batch).keys([1, 2], "a").values())) == 2


def test_bypass() -> None:
    """Within it, calls go to the function itself."""
    source = Source(Mode("sync"), ttl=60)
    source(1)
    with cached.batch.of(source.cached).bypass():
        assert source(1) == ["1: 2"]
    assert source(1) == ["1: 1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error_ttl": {LookupError: 5}}, "error_ttl=.*which of the items"),
        ({"soft_ttl": 60}, "soft_ttl=60"),
        ({"early": 1}, "early=1"),
        ({"compute_timeout": ("2s", "1s")}, "compute_timeout"),
        ({"throttle": -1}, "throttle"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    """They are refused as those of a single function are, and what makes no sense by name."""

    def read(ids: list[int]) -> dict[int, str]:
        return {}

    with pytest.raises(ConfigurationError, match=message):
        cached.batch(key_arg="ids", ttl=60, **options)(read)
