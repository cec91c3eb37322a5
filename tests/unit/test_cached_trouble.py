"""`@cached` when its backend is away: calls go on, and the backend is left alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

import resilient
from resilient import BackendError, cached
from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.events import BackendTrouble, Event
from tests.support.flaky import Flaky, flaky_memory
from tests.support.modes import Mode


@pytest.fixture
def flaky() -> Iterator[Flaky]:
    """The store of a memory backend that is in use, to be broken."""
    with flaky_memory("cache") as (store, _):
        yield store


@pytest.fixture
def manual() -> Iterator[ManualClock]:
    """A clock that moves when told to."""
    manual = ManualClock()
    with clock.installed(manual):
        yield manual


def test_calls_run(mode: Mode, flaky: Flaky, seen: list[Event], manual: ManualClock) -> None:
    """With the backend away each call runs the function; single flight in the process remains."""
    ran = []

    async def f(x: int) -> int:
        ran.append(x)
        await mode.sleep(0.05)
        return x

    f = mode.decorate(cached(ttl=60), f)
    flaky.broken = {"fetch"}
    assert mode.together(*[lambda: f(7)] * 10) == [7] * 10
    assert len(ran) == 1
    assert mode.call(f, 7) == 7
    assert len(ran) == 2, "what was computed without the backend is not kept"
    [event] = seen
    assert isinstance(event, BackendTrouble)
    assert (event.policy, event.key) == ("cached", cached.of(f).key(7))
    assert cached.of(f).stats().backend_errors == 1


def test_it_is_left_alone(mode: Mode, flaky: Flaky, manual: ManualClock) -> None:
    """After an error no call asks the backend: it is probed in the background until it is back."""

    async def f(x: int) -> int:
        return x

    f = mode.decorate(cached(ttl=60), f)
    flaky.broken = {"fetch", "has"}
    assert mode.call(f, 7) == 7
    flaky.asked.clear()
    for _ in range(100):
        assert mode.call(f, 7) == 7
    assert "fetch" not in flaky.asked
    flaky.broken = set()
    for _ in range(100):
        if cached.of(f).stats().local_size:
            break
        manual.advance(0.05)
        time.sleep(0.01)
        mode.call(f, 7)
    assert cached.of(f).stats().local_size, "back within 5 s"
    assert flaky.asked.count("fetch") == 1


def test_raise_by_choice(mode: Mode, flaky: Flaky, seen: list[Event]) -> None:
    """With `on_backend_error="raise"` every call asks, raises, and runs nothing."""
    ran = []

    async def f() -> int:
        ran.append(1)
        return 7

    f = mode.decorate(cached(ttl=60, on_backend_error="raise"), f)
    flaky.broken = {"fetch"}
    for _ in range(2):
        with pytest.raises(BackendError, match="away"):
            mode.call(f)
    assert (ran, seen) == ([], [])
    flaky.broken = set()
    assert mode.call(f) == 7


@pytest.mark.parametrize("what", ["fetch", "fill"])
def test_a_lost_reply_costs_nothing(mode: Mode, flaky: Flaky, seen: list[Event], what: str) -> None:
    """A request whose reply was lost is sent again: one execution, and it is stored."""
    ran = []

    async def f() -> int:
        ran.append(1)
        return 7

    f = mode.decorate(cached(ttl=60, local=None), f)
    flaky.lost = {what}
    assert [mode.call(f), mode.call(f)] == [7, 7]
    assert (len(ran), seen) == (1, [])


def test_failing_to_store(mode: Mode, flaky: Flaky, seen: list[Event], manual: ManualClock) -> None:
    """If the value cannot be stored the caller gets it all the same, and it is not kept here."""

    async def f() -> int:
        return 7

    f = mode.decorate(cached(ttl=60), f)
    flaky.broken = {"fill"}
    assert mode.call(f) == 7
    assert [type(event) for event in seen] == [BackendTrouble]
    assert cached.of(f).stats().local_size == 0


def test_failing_to_abandon(
    mode: Mode, flaky: Flaky, seen: list[Event], manual: ManualClock
) -> None:
    """The function's exception arrives, and the backend is left alone from then on."""

    async def f() -> int:
        raise LookupError("nobody")

    f = mode.decorate(cached(ttl=60), f)
    flaky.broken = {"abandon", "has"}
    for _ in range(2):
        with pytest.raises(LookupError, match="nobody"):
            mode.call(f)
    assert (flaky.asked.count("fetch"), flaky.asked.count("abandon")) == (1, 1)
    assert [type(event) for event in seen] == [BackendTrouble]


@pytest.mark.parametrize("batch", [False, True], ids=["call", "batch"])
def test_giving_back_takes_no_longer_than_asking(mode: Mode, flaky: Flaky, batch: bool) -> None:
    """A lease is given back within the backend's budget; if that is over, its TTL does it."""

    async def f(items: list[int]) -> dict[int, int]:
        if batch:
            return {}
        raise LookupError("nobody")

    decorator = cached.batch("{items}", key_arg="items", ttl=60) if batch else cached(ttl=60)
    f = mode.decorate(decorator, f)
    with contextlib.suppress(LookupError):
        mode.call(f, [7])
    assert 0 < flaky.budgets["abandon"] <= 0.25


def test_invalidations_do_not_fail_silently(mode: Mode, flaky: Flaky, manual: ManualClock) -> None:
    """An invalidation that the backend did not take is an error; here the value is gone."""

    async def f() -> int:
        return 7

    f = mode.decorate(cached(ttl=60), f)
    mode.call(f)
    flaky.broken = {"delete", "invalidate_tags"}
    for control in (cached.of(f).invalidate, cached.of(f).clear, cached.of(f).refresh):
        with pytest.raises(BackendError, match="away"):
            mode.call(control)
    assert cached.of(f).stats().local_size == 0
    flaky.broken, flaky.lost = set(), {"delete"}
    assert mode.call(cached.of(f).invalidate) in (True, False)


def test_unreachable_servers_cost_one_attempt(mode: Mode) -> None:
    """With a real client and nobody listening, calls after the first cost next to nothing."""
    ran = []

    async def f(x: int) -> int:
        ran.append(x)
        return x

    f = mode.decorate(cached(ttl=60, backend="redis://127.0.0.1:1/0"), f)
    assert mode.call(f, 0) == 0
    began = time.monotonic()
    for number in range(100):
        assert mode.call(f, number) == number
    assert len(ran) == 101
    assert time.monotonic() - began < 3
    resilient.close()  # or its probes would go on behind the other tests
