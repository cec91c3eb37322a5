"""What `@circuit_breaker` does without its backend; its bounds and its ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    HalfOpen,
    Quorum,
)
from resilient.engine.circuits import registry
from resilient.engine.clock import ManualClock
from resilient.events import BackendTrouble, CircuitChanged, Event
from tests.support.modes import Mode
from tests.support.shared_circuits import Shared, enter, fail, known, tick
from tests.support.waiting import until

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture(name="shared")
def _shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.close()


# --- without the backend


def test_without_its_backend_it_is_a_local_breaker(
    mode: Mode, shared: Shared, clock: ManualClock, seen: list[Event]
) -> None:
    """It opens, is probed and closes by the same rules, asks nobody meanwhile, and says so once."""
    breaker = CircuitBreaker(
        "s", trip=Consecutive(3), half_open=HalfOpen(permits=2), backend=shared.process()
    )
    enter(mode, breaker)
    shared.store.is_away = True
    shared.store.asked.clear()
    fail(mode, breaker)
    clock.advance(0.01)
    until(lambda: any(isinstance(event, BackendTrouble) for event in seen))
    enter(mode, breaker)
    for _ in range(2):
        fail(mode, breaker, 3)
        assert breaker.at().state is OPEN
        with pytest.raises(CircuitOpen) as info:
            enter(mode, breaker)
        assert info.value.retry_after == pytest.approx(30, abs=0.1)
        clock.advance(30)
        with mode.entered(breaker.guard()) as probe:
            assert probe.is_probe
            assert breaker.at().state is HALF_OPEN
            enter(mode, breaker)
            with pytest.raises(CircuitOpen):
                enter(mode, breaker)
        assert breaker.at().state is CLOSED
    assert shared.store.inline() == []
    assert len([event for event in seen if isinstance(event, BackendTrouble)]) == 1
    changes = [event.after for event in seen if isinstance(event, CircuitChanged)]
    assert changes == ["open", "half_open", "closed"] * 2


def test_the_first_call_may_find_the_backend_away(mode: Mode, shared: Shared) -> None:
    """Unknown circuits are closed then; each one costs no further attempt."""
    shared.store.is_away = True
    breaker = CircuitBreaker("s:{n}", trip=Consecutive(2), backend=shared.process())
    for n in range(5):
        with mode.entered(breaker.guard(n=n)):
            pass
    assert shared.store.inline() == ["view"]
    for _ in range(2):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard(n=1)):
            raise ConnectionError
    assert breaker.at(n=1).state is OPEN


def test_a_backend_that_goes_away_while_it_is_open(
    mode: Mode, shared: Shared, clock: ManualClock
) -> None:
    """The permit is given here then, and one caller alone has waited for the server."""
    breaker = CircuitBreaker(
        "s", trip=Consecutive(1), half_open=HalfOpen(permits=1), backend=shared.process()
    )
    fail(mode, breaker)
    until(lambda: shared.store.outcomes == ["1"])
    shared.store.is_away = True
    clock.advance(30.1)
    with mode.entered(breaker.guard()) as probe:
        assert probe.is_probe
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                enter(mode, breaker)
    assert breaker.at().state is CLOSED
    assert shared.store.inline() == ["view", "admit"]


def test_what_was_seen_meanwhile_is_told_afterwards(
    mode: Mode, shared: Shared, clock: ManualClock
) -> None:
    """When the server is back it gets the outcomes, judges them, and its word counts again."""
    here = CircuitBreaker("s", trip=Consecutive(3), backend=shared.process())
    enter(mode, here)
    shared.store.is_away = True
    fail(mode, here)
    clock.advance(0.01)
    until(lambda: shared.store.asked[-1][0] == "record")
    time.sleep(0.02)
    enter(mode, here)
    fail(mode, here, 3)
    assert here.at().state is OPEN
    shared.store.is_away = False
    there = CircuitBreaker("s", trip=Consecutive(3), backend=shared.process())
    until(lambda: there.at().metrics().state is OPEN or tick(clock))
    with pytest.raises(CircuitOpen):
        enter(mode, there)
    assert here.at().state is OPEN


def test_nobody_waits_for_a_server_that_does_not_answer(mode: Mode, shared: Shared) -> None:
    """While a flush is overdue, first calls are let through and probes put off, at once."""
    breaker = CircuitBreaker("s:{n}", trip=Consecutive(1), backend=shared.process())
    with mode.entered(breaker.guard(n=0)):
        pass
    shared.store.answers.clear()
    try:
        began = time.monotonic()
        with pytest.raises(ConnectionError), mode.entered(breaker.guard(n=0)):
            raise ConnectionError
        assert breaker.at(n=0).state is OPEN
        time.sleep(registry.PATIENCE + 0.05)
        for n in range(1, 20):
            with mode.entered(breaker.guard(n=n)):
                pass
        assert time.monotonic() - began < 3
    finally:
        shared.store.answers.set()


def test_a_server_that_has_lost_its_data(mode: Mode, shared: Shared, clock: ManualClock) -> None:
    """An open circuit stays open for its time; a closed one goes on being counted."""
    breaker = CircuitBreaker("s:{n}", trip=Consecutive(2), open_for=30, backend=shared.process())
    for error in (ConnectionError(), ConnectionError()):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard(n=1)):
            raise error
    with mode.entered(breaker.guard(n=2)):
        pass
    clock.advance(0.1)
    until(lambda: sorted(shared.store.outcomes) == ["0", "11"] or tick(clock))
    memory = shared.memory.sync.circuits
    for key in ("s:1", "s:2"):
        until(partial(memory.delete, key))
    with pytest.raises(CircuitOpen), mode.entered(breaker.guard(n=1)):
        pytest.fail("it is open")
    for _ in range(2):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard(n=2)):
            raise ConnectionError
    until(lambda: memory.view("s:2").state is OPEN or tick(clock))
    clock.advance(31)
    with mode.entered(breaker.guard(n=1)):
        pass
    assert breaker.at(n=1).state is CLOSED


def test_a_server_that_has_lost_its_data_is_told_again(
    mode: Mode, shared: Shared, clock: ManualClock
) -> None:
    """Open again, for the rest of its time, in a generation that it never had."""
    backend = shared.process()
    breaker = CircuitBreaker("s", trip=Consecutive(2), open_for=30, backend=backend)
    fail(mode, breaker, 2)
    memory = shared.memory.sync.circuits
    until(lambda: memory.view("s").state is OPEN)
    before = memory.view("s").generation
    clock.advance(10)
    memory.delete("s")
    known(backend)._hear(None)  # as when it is heard again
    until(lambda: memory.view("s").state is OPEN or tick(clock))
    view = memory.view("s")
    assert view.generation > before
    assert view.reason == "restored"
    assert 15 < view.reopens_in <= 20


def test_one_bad_node_opens_only_itself(mode: Mode, shared: Shared, clock: ManualClock) -> None:
    """One of ten nodes fails, with a quorum of two: nine stay closed, until a second one fails."""
    nodes = [
        CircuitBreaker("s", trip=Consecutive(3), quorum=Quorum(2), backend=shared.process())
        for _ in range(10)
    ]
    for node in nodes:
        enter(mode, node)
    fail(mode, nodes[0], 3)
    for _ in range(5):
        tick(clock)
    assert [node.at().state for node in nodes] == [OPEN] + [CLOSED] * 9
    fail(mode, nodes[1], 3)
    until(lambda: {node.at().state for node in nodes} == {OPEN} or tick(clock))
