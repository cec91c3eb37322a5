"""What `@circuit_breaker` asks of its backend, and when; and what it does without one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    circuit_breaker,
)
from resilient.engine.clock import ManualClock
from resilient.events import CircuitChanged, Event
from resilient.protocols.circuits import CircuitStore
from tests.support.modes import Mode
from tests.support.shared_circuits import Shared, Watched, enter, fail, tick
from tests.support.waiting import until

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture(name="shared")
def _shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.close()


# --- no request while it is closed


@pytest.mark.parametrize("template", ["service", "service:{n}"])
def test_a_closed_circuit_asks_once(mode: Mode, shared: Shared, template: str) -> None:
    """The first call under a key asks; thousands after it, failures too, ask for nothing."""

    async def body(n: int, number: int) -> None:
        if number % 7 == 0:
            raise ConnectionError

    decorator = circuit_breaker(template, trip=FailureRate(0.5), backend=shared.process())
    call = mode.decorate(decorator, body)

    async def many() -> None:
        for n in range(2000):
            with contextlib.suppress(ConnectionError):
                await mode.within(call, n % 20, n)

    mode.call(mode.function(many))
    assert shared.store.inline() == ["view"] * (1 if template == "service" else 20)


def test_what_was_counted_arrives_in_time_and_in_few_trips(shared: Shared) -> None:
    """Successes are on the server within 0.1 s and little more, in ten requests a second."""

    def body() -> None:
        """Always well."""

    call = circuit_breaker("s", window=CountWindow(1000), backend=shared.process())(body)
    began = time.monotonic()
    for _ in range(500):
        call()
        time.sleep(0.001)
    seconds = time.monotonic() - began
    until(lambda: sum(map(len, shared.store.outcomes)) == 500)
    flushes = [name for name, _ in shared.store.asked if name == "record"]
    assert 2 <= len(flushes) <= 2 + 12 * seconds


def test_a_failure_arrives_within_milliseconds(shared: Shared, mode: Mode) -> None:
    """Failures do not wait for the successes' turn: in the best of some, on a busy machine."""
    breaker = CircuitBreaker("s", trip=FailureRate(1.0), backend=shared.process())
    took = []
    for _ in range(10):
        shared.store.outcomes.clear()
        enter(mode, breaker)
        until(lambda: shared.store.outcomes == ["0"])
        fail(mode, breaker)
        began = time.monotonic()
        until(lambda: shared.store.outcomes == ["0", "1"])
        took.append(time.monotonic() - began)
        if took[-1] < 0.05:
            break
    assert min(took) < 0.05


def test_threads_lose_no_outcome(shared: Shared) -> None:
    """Eight threads at once: the server's totals are exact, and the order of each is kept."""

    def body(fails: bool) -> None:
        if fails:
            raise ConnectionError

    decorator = circuit_breaker(
        "s", trip=FailureRate(0.9), window=CountWindow(3_000), backend=shared.process()
    )
    call = decorator(body)
    call(False)

    def work(_: int) -> None:
        for n in range(300):
            with contextlib.suppress(ConnectionError):
                call(n % 4 == 0)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    circuit = circuit_breaker.of(call).at(False)
    until(lambda: circuit.metrics().calls == 2401)
    assert circuit.metrics().failures == 600


# --- several processes


def test_the_window_is_shared(mode: Mode, shared: Shared, clock: ManualClock) -> None:
    """What none of them has seen alone opens it for all; the probes are counted together."""
    options: dict[str, Any] = {
        "trip": FailureRate(0.5),
        "min_calls": 10,
        "half_open": HalfOpen(permits=2),
    }
    one = CircuitBreaker("s", **options, backend=shared.process())
    two = CircuitBreaker("s", **options, backend=shared.process())
    fail(mode, one, 6)
    fail(mode, two, 6)
    assert one.at().state is two.at().state is CLOSED
    clock.advance(0.1)
    until(lambda: one.at().state is two.at().state is OPEN or tick(clock))
    clock.advance(30)
    with mode.entered(one.guard()) as first, mode.entered(two.guard()) as second:
        assert first.is_probe
        assert second.is_probe
        for breaker in (one, two):
            with pytest.raises(CircuitOpen), mode.entered(breaker.guard()):
                pytest.fail("a third probe")
    clock.advance(0.1)
    enter(mode, one)
    enter(mode, two)
    assert one.at().state is two.at().state is CLOSED


def test_a_transition_is_heard(mode: Mode, seen: list[Event]) -> None:
    """Where the backend has signals, an idle process knows at once, and says so once."""
    with resilient.using("memory://") as backend:
        breaker = CircuitBreaker("s", open_for=60)
        enter(mode, breaker)
        store = backend.sync.circuits
        rules = breaker.rules
        store.record("s", rules=rules, outcomes="1" * 30)
        assert breaker.at().state is OPEN
        with pytest.raises(CircuitOpen) as info:
            enter(mode, breaker)
        assert info.value.retry_after == pytest.approx(60, abs=1)
        store.force("s", CLOSED, rules=rules)
        enter(mode, breaker)
    changes = [(e.before, e.after) for e in seen if isinstance(e, CircuitChanged)]
    assert changes == [("closed", "open"), ("open", "closed")]


def test_a_new_process_does_not_begin_with_a_call_through_an_open_circuit(
    mode: Mode, shared: Shared
) -> None:
    """It asks before its first call."""
    fail(mode, CircuitBreaker("s", trip=Consecutive(1), backend=shared.process()))
    until(lambda: shared.store.outcomes == ["1"])
    late = CircuitBreaker("s", trip=Consecutive(1), backend=shared.process())
    with pytest.raises(CircuitOpen):
        enter(mode, late)


def test_missed_messages_are_made_up_for(mode: Mode) -> None:
    """After a gap, circuits in use are asked for at once, and others before their next use."""
    with resilient.using("memory://") as backend:
        used, idle = CircuitBreaker("used"), CircuitBreaker("idle")
        enter(mode, idle)
        until(lambda: backend.sync.circuits.view("idle").calls == 1)
        time.sleep(0.25)
        enter(mode, used)
        source = backend.hub._source
        hub, source.hub = source.hub, None  # type: ignore[union-attr]  # nobody hears
        for name in ("used", "idle"):
            backend.sync.circuits.force(name, OPEN, rules=used.rules)
        assert used.at().state is idle.at().state is CLOSED
        source.hub = hub  # type: ignore[union-attr]  # as after a reconnection
        hub.deliver("circuits", None)
        until(lambda: used.at().state is OPEN)
        with pytest.raises(CircuitOpen):
            enter(mode, idle)


class Late(Watched):
    """A store whose answers to reports take long, though it does at once what it is asked."""

    def __init__(self, store: CircuitStore) -> None:
        super().__init__(store)
        self.replies = threading.Event()

    def send(self, command: Any) -> Any:
        """Answer a blocking caller."""
        answer = super().send(command)
        if command[0] == "record":
            self.replies.wait(5)
        return answer


def test_a_late_answer_does_not_close_what_has_opened_since(
    mode: Mode, shared: Shared, seen: list[Event]
) -> None:
    """The first failure is counted, and its answer is under way while the next one opens it."""
    shared.store = store = Late(shared.memory.require("circuits"))
    breaker = CircuitBreaker("s", trip=Consecutive(2), backend=shared.process())
    try:
        fail(mode, breaker)
        until(lambda: store.outcomes == ["1"])
        fail(mode, breaker)
        assert breaker.at().state is OPEN
    finally:
        store.replies.set()
    until(lambda: store.outcomes == ["1", "1"])
    until(lambda: shared.memory.sync.circuits.view("s").state is OPEN)
    assert breaker.at().state is OPEN
    assert [event.reason for event in seen if isinstance(event, CircuitChanged)] == ["consecutive"]


def test_what_only_this_process_sees_is_overruled(
    mode: Mode, shared: Shared, seen: list[Event]
) -> None:
    """Its own window opens the circuit at once; the fleet's, when it has spoken, closes it."""
    options: dict[str, Any] = {"trip": FailureRate(0.5), "min_calls": 10}
    well = CircuitBreaker("s", **options, backend=shared.process())
    ill = CircuitBreaker("s", **options, backend=shared.process())
    for _ in range(60):
        enter(mode, well)
    assert mode.call(well.at().ametrics if mode.is_async else well.at().metrics).calls == 60
    enter(mode, ill)
    shared.store.answers.clear()  # the fleet's word takes a while
    try:
        fail(mode, ill, 9)
        assert ill.at().state is OPEN
        with pytest.raises(CircuitOpen):
            enter(mode, ill)
    finally:
        shared.store.answers.set()
    until(lambda: ill.at().state is CLOSED)
    enter(mode, ill)
    reasons = [event.reason for event in seen if isinstance(event, CircuitChanged)]
    assert reasons == ["failure_rate", "outvoted"]
