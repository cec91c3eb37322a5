"""How long `@cached` serves a value, fresh or stale, and what it does when a computation fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import MISSING, CacheContext, TimedOut, cached
from resilient.engine import clock
from resilient.engine.backend import Backend
from resilient.engine.clock import ManualClock
from resilient.events import Event, StaleServed
from tests.support.modes import Mode


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
    """What is cached: it counts, and fails when told to."""

    def __init__(self, mode: Mode, **options: Any) -> None:
        self.mode = mode
        self.calls = 0
        self.error: Exception | None = None
        self.is_held = False

        async def read(x: int = 7) -> str:
            self.calls += 1
            number = self.calls
            await mode.sleep(0.02)
            while self.is_held:
                await mode.sleep(0.005)
            if self.error is not None:
                raise self.error
            return f"{x}: {number}"

        self.cached = mode.decorate(cached(**options), read)

    def __call__(self) -> Any:
        return self.mode.call(self.cached)

    def settle(self) -> None:
        """Let what goes on in the background end."""

        async def later() -> None:
            await self.mode.sleep(0.01)

        deadline = time.monotonic() + 5
        near = cached.of(self.cached)._layer.attend()
        assert near is not None
        while len(near.nearby.flights):
            assert time.monotonic() < deadline
            self.mode.call(self.mode.function(later))


LOCAL = pytest.mark.parametrize("local", ["auto", None])


@LOCAL
def test_nothing_is_served_after_its_ttl(mode: Mode, manual: ManualClock, local: Any) -> None:
    """A value is served up to its TTL, by whatever layer, and never after it."""
    source = Source(mode, ttl=60, local=local)
    assert source() == "7: 1"
    for _ in range(59):
        manual.advance(1)
        assert source() == "7: 1"
    manual.advance(1)
    assert source() == "7: 2"


@LOCAL
def test_stale_while_one_refreshes(mode: Mode, manual: ManualClock, local: Any) -> None:
    """After its soft TTL a value is served at once, while one caller computes it anew."""
    source = Source(mode, ttl=60, soft_ttl=10, local=local)
    assert source() == "7: 1"
    manual.advance(11)
    assert mode.together(*[lambda: source.cached()] * 8) == ["7: 1"] * 8
    source.settle()
    assert source.calls == 2
    assert source() == "7: 2"
    manual.advance(9)
    assert source() == "7: 2"
    assert source.calls == 2
    assert cached.of(source.cached).stats().stale >= 1
    manual.advance(60)
    assert source() == "7: 3", "past its TTL nobody gets it any more"


@LOCAL
def test_a_refresh_that_hangs(mode: Mode, manual: ManualClock, local: Any) -> None:
    """However long it takes, nobody gets the former value after its TTL: they wait for the new."""
    source = Source(mode, ttl=60, soft_ttl=10, local=local)
    assert source() == "7: 1"
    source.is_held = True
    manual.advance(11)
    assert source() == "7: 1"
    manual.advance(48)
    assert source() == "7: 1"
    manual.advance(2)

    async def release() -> None:
        await mode.sleep(0.05)
        source.is_held = False

    late = [lambda: source.cached()] * 3
    assert mode.together(*late, mode.function(release)) == ["7: 2"] * 3 + [None]
    assert source.calls == 2


@LOCAL
def test_a_refresh_that_fails(
    mode: Mode, manual: ManualClock, local: Any, seen: list[Event]
) -> None:
    """The value is served up to its TTL, and the source called no more often than throttled."""
    source = Source(mode, ttl=60, soft_ttl=10, throttle=5, local=local)
    source()
    source.error = LookupError("away")
    for second in range(11, 60):
        manual.advance(11 if second == 11 else 1)
        assert source() == "7: 1"
        source.settle()
    assert 8 <= source.calls - 1 <= 11, "once in 5 s"
    assert all(isinstance(event, StaleServed) for event in seen)
    manual.advance(5)
    with pytest.raises(LookupError, match="away"):
        source()


@LOCAL
def test_stale_if_error(mode: Mode, manual: ManualClock, local: Any, seen: list[Event]) -> None:
    """A source that fails is called once an interval, and its last value served up to the limit."""
    source = Source(mode, ttl=60, stale_if_error=600, throttle=30, local=local)
    source()
    source.error = LookupError("away")
    for _ in range(60):
        manual.advance(10)
        assert source() == "7: 1"
    assert 18 <= source.calls - 1 <= 20, "once in 30 s of 540"
    assert [type(event) for event in seen] == [StaleServed] * (source.calls - 1)
    manual.advance(60)
    with pytest.raises(LookupError, match="away"):
        source()
    source.error = None
    assert source().startswith("7: ")


def test_without_stale_if_error_an_error_is_an_error(mode: Mode, manual: ManualClock) -> None:
    """By default what a computation raises arrives, every time."""
    source = Source(mode, ttl=60)
    source()
    manual.advance(61)
    source.error = LookupError("away")
    for calls in (2, 3):
        with pytest.raises(LookupError, match="away"):
            source()
        assert source.calls == calls


@LOCAL
def test_what_was_invalidated_is_no_fallback(mode: Mode, local: Any) -> None:
    """A value that was invalidated is served to nobody; one that was expired stands in."""
    source = Source(mode, ttl=60, stale_if_error=600, local=local)
    source()
    mode.call(cached.of(source.cached).expire)
    source.error = LookupError("away")
    assert source() == "7: 1"
    assert source.calls == 2
    mode.call(cached.of(source.cached).invalidate)
    with pytest.raises(LookupError, match="away"):
        source()


@LOCAL
def test_exceptions_by_choice(mode: Mode, manual: ManualClock, local: Any) -> None:
    """The exceptions that are results are raised again until their time is over; no others."""
    source = Source(mode, ttl=60, error_ttl={LookupError: "5s", KeyError: "2s"}, local=local)
    for error, lives in ((LookupError("nobody"), 5), (KeyError("none"), 2)):
        source.error, before = error, source.calls
        for _ in range(3):
            with pytest.raises(type(error), match=str(error)):
                source()
        assert source.calls == before + 1
        assert mode.call(cached.of(source.cached).peek) is MISSING
        manual.advance(lives)
        with pytest.raises(type(error)):
            source()
        assert source.calls == before + 2
        manual.advance(60)
    source.error, before = ValueError("other"), source.calls
    for _ in range(2):
        with pytest.raises(ValueError, match="other"):
            source()
    assert source.calls == before + 2


def test_an_exception_without_a_stored_form(mode: Mode) -> None:
    """It arrives as what it is, and is not kept."""

    class Odd(LookupError):
        def __init__(self, one: object, two: object) -> None:
            super().__init__("odd")

    source = Source(mode, ttl=60, error_ttl={LookupError: 5})
    source.error = Odd(1, object())
    for calls in (1, 2):
        with pytest.raises(Odd):
            source()
        assert source.calls == calls


def test_cache_if(mode: Mode) -> None:
    """What is not to be kept goes to those who wait, and nowhere else."""
    source = Source(mode, ttl=60, cache_if=lambda value: value.endswith("2"))
    assert mode.together(*[lambda: source.cached()] * 4) == ["7: 1"] * 4
    assert [source(), source()] == ["7: 2", "7: 2"]


def test_ttl_from_the_result(mode: Mode, manual: ManualClock) -> None:
    """A function of the result says for how long it is kept, or that it is not."""
    lives = {"7: 1": "10s", "7: 2": None, "7: 3": 100}
    source = Source(mode, ttl=lives.get)
    assert source() == "7: 1"
    manual.advance(9)
    assert source() == "7: 1"
    manual.advance(1)
    assert source() == "7: 2"
    assert source() == "7: 3"
    manual.advance(99)
    assert source() == "7: 3"


def test_jitter_only_shortens(manual: ManualClock) -> None:
    """What was stored together expires apart, and never after its TTL."""
    ran: list[int] = []

    @cached(ttl=100, jitter=0.5, local=None)
    def f(x: int) -> int:
        ran.append(x)
        return x

    for x in range(50):
        f(x)
    manual.advance(50)
    ran.clear()
    for x in range(50):
        f(x)
    assert ran == []
    manual.advance(25)
    for x in range(50):
        f(x)
    assert 10 < len(ran) < 40
    manual.advance(25)
    ran.clear()
    explained = [cached.of(f).explain(x).ttl for x in range(50)]
    assert all(ttl is None or 0 < ttl <= 75 for ttl in explained)


def test_early_is_drawn_once_for_each_value(manual: ManualClock) -> None:
    """The moment to compute ahead of time is distributed as XFetch's: `took` times Exp(1)."""
    ran: list[int] = []

    @cached(ttl=1000, early=True, local=None)
    def f(x: int) -> int:
        ran.append(x)
        manual.advance(1)
        return x

    lags = []
    for x in range(400):
        f(x)
        explained = cached.of(f).explain(x)
        assert explained.ttl is not None
        assert explained.fresh is not None
        lags.append(explained.ttl - explained.fresh)
        assert cached.of(f).explain(x) == explained, "drawn once"
    assert 0.8 < sum(lags) / len(lags) < 1.25
    assert min(lags) < 0.05
    assert max(lags) > 3


def test_time_limits_of_a_computation(mode: Mode, manual: ManualClock) -> None:
    """After the soft limit a stale value is served, if there is one; the hard one is an error."""
    ran: list[int] = []

    async def slow(x: int) -> int:
        ran.append(x)
        await mode.sleep(0.15)
        return len(ran)

    f = mode.decorate(
        cached(ttl=60, stale_if_error=600, compute_timeout=(0.02, 5), local=None), slow
    )
    assert mode.call(f, 1) == 1, "nothing to fall back on: the hard limit"
    manual.advance(61)
    assert mode.call(f, 1) == 1, "the former value, after the soft limit"

    async def later() -> None:
        await mode.sleep(0.3)

    mode.call(mode.function(later))
    assert mode.call(f, 1) == 2
    g = mode.decorate(cached(ttl=60, compute_timeout=0.02), slow)
    with pytest.raises(TimedOut, match="slow"):
        mode.call(g, 2)
    with pytest.raises(TimeoutError):
        mode.call(g, 2)


# --- what a call says about itself


def test_context(mode: Mode, manual: ManualClock) -> None:
    """A call may choose its TTL and tags, and see what it replaces; callers need not know."""
    seen: list[tuple[bool, Any]] = []

    async def f(x: int, ctx: CacheContext = CacheContext()) -> int:  # noqa: B008 - as documented
        seen.append((ctx.has_stale, ctx.stale))
        ctx.keep_for("10s")
        ctx.tag(f"x:{x}")
        return len(seen)

    f = mode.decorate(cached(ttl=3600, stale_if_error=3600), f)
    assert [mode.call(f, 1), mode.call(f, x=1)] == [1, 1]
    manual.advance(11)
    assert mode.call(f, 1) == 2
    assert seen == [(False, None), (True, 1)]
    resilient.invalidate_tags("x:2")
    assert mode.call(f, 1) == 2
    resilient.invalidate_tags("x:1")
    assert mode.call(f, 1) == 3


def test_no_store(mode: Mode) -> None:
    """A call may say that its result is for those who wait only."""
    ran: list[int] = []

    async def f(x: int, *, ctx: CacheContext = CacheContext()) -> int:  # noqa: B008 - how it is declared
        ran.append(x)
        ctx.no_store()
        return x

    f = mode.decorate(cached("{x}", ttl=60), f)
    assert [mode.call(f, 1), mode.call(f, 1)] == [1, 1]
    assert ran == [1, 1]
