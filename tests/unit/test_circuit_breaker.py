"""`@circuit_breaker` and `CircuitBreaker` over memory: what counts, and when a circuit opens."""

from __future__ import annotations

import asyncio
import pickle
import traceback
from functools import partial

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
    distributed_lock,
)
from resilient.engine.clock import ManualClock
from resilient.events import CircuitChanged, Event
from tests.support.guarded import Service, state, trip
from tests.support.modes import Mode

pytestmark = pytest.mark.usefixtures("clock", "backend")

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


# --- opening


def test_failures_in_a_row_open_it(mode: Mode, service: Service) -> None:
    """The n-th failure opens the circuit, and the next call does not reach the service."""
    call = service.guarded(trip=Consecutive(3), open_for=30)
    service.fails(call, 3)
    with pytest.raises(CircuitOpen) as info:
        mode.call(call)
    assert service.calls == 3
    error = info.value
    assert (error.policy, error.key) == ("circuit_breaker", "service")
    assert error.retry_after == pytest.approx(30)
    assert "'service'" in str(error)
    assert "consecutive" in str(error)


def test_a_success_begins_the_count_anew(service: Service) -> None:
    """Failures in a row are in a row."""
    call = service.guarded(trip=Consecutive(3))
    for _ in range(5):
        service.fails(call, 2)
        service.succeeds(call, 1)
    assert state(call) is CLOSED


def test_a_rate_is_judged_from_min_calls_on(service: Service) -> None:
    """Failures alone do not open it before there are enough calls."""
    call = service.guarded(trip=FailureRate(0.5), min_calls=10)
    service.fails(call, 9)
    assert state(call) is CLOSED
    service.fails(call, 1)
    assert state(call) is OPEN


def test_a_success_may_open_it_too(mode: Mode, service: Service, clock: ManualClock) -> None:
    """The rate is judged after every call: also after the success that makes them enough."""
    call = service.guarded(trip=FailureRate(0.5), min_calls=10)
    service.fails(call, 9)
    service.succeeds(call, 1)
    handle = circuit_breaker.of(call).at()
    metrics = mode.call(handle.ametrics if mode.is_async else handle.metrics)
    assert metrics.state is OPEN
    assert state(call) is OPEN


def test_only_the_window_is_judged(service: Service) -> None:
    """Failures that have left the window no longer count."""
    call = service.guarded(trip=FailureRate(0.5), window=CountWindow(10), min_calls=10)
    for _ in range(4):
        service.fails(call, 4)
        service.succeeds(call, 6)
    assert state(call) is CLOSED
    service.fails(call, 5)
    assert state(call) is OPEN


def test_a_window_smaller_than_min_calls_is_judged_when_full(service: Service) -> None:
    """As in resilience4j, `min_calls` is at most the window."""
    call = service.guarded(trip=FailureRate(1.0), window=CountWindow(4), min_calls=20)
    service.fails(call, 4)
    assert state(call) is OPEN


def test_any_of_several_conditions_opens_it(service: Service) -> None:
    """`|` joins conditions."""
    trip = FailureRate(0.9) | Consecutive(4)
    call = service.guarded(trip=trip, min_calls=10)
    service.fails(call, 4)
    assert state(call) is OPEN
    assert repr(trip) == "FailureRate(0.9) | Consecutive(4)"


def test_each_key_has_its_circuit(mode: Mode, service: Service) -> None:
    """One tenant's failures are nobody else's."""
    call = service.guarded("payments:{tenant}", trip=Consecutive(2))
    service.fails(call, 2, "acme")
    service.succeeds(call, 3, "globex")
    assert (state(call, "acme"), state(call, "globex")) == (OPEN, CLOSED)
    with pytest.raises(CircuitOpen, match="payments:acme"):
        mode.call(call, "acme")


# --- what counts


def test_what_is_not_recorded_is_a_success(service: Service, mode: Mode) -> None:
    """With `record=`, other exceptions say that the dependency answered."""
    call = service.guarded(trip=Consecutive(2), record=ConnectionError)
    for error in (ConnectionError(), ValueError(), ConnectionError(), ValueError()):
        service.error = error
        with pytest.raises(type(error)):
            mode.call(call)
    assert state(call) is CLOSED


def test_what_is_ignored_counts_neither_way(service: Service, mode: Mode) -> None:
    """An ignored exception does not interrupt failures in a row."""
    call = service.guarded(trip=Consecutive(2), ignore=(LookupError,))
    for error in (ConnectionError(), KeyError(), ConnectionError()):
        service.error = error
        with pytest.raises(type(error)):
            mode.call(call)
    assert state(call) is OPEN


class Interruption(BaseException):
    """What ends a call from outside, as `KeyboardInterrupt` does."""


@pytest.mark.parametrize("error", [Interruption(), asyncio.CancelledError()])
def test_an_interruption_never_counts(service: Service, mode: Mode, error: BaseException) -> None:
    """What is no `Exception` says nothing about the dependency."""
    call = service.guarded(trip=Consecutive(1))
    service.error = error
    for _ in range(5):
        with pytest.raises(type(error)):
            mode.call(call)
    assert state(call) is CLOSED


def test_our_own_rejections_never_count(mode: Mode) -> None:
    """A busy lock inside the guarded function is not the dependency's failure."""

    async def body() -> None:
        """Never reached."""

    locked = mode.decorate(distributed_lock("busy", wait=0), body)
    guarded = circuit_breaker("service", trip=Consecutive(1))(locked)
    with mode.entered(resilient.lock("busy")):
        for _ in range(3):
            with pytest.raises(resilient.LockNotAcquired):
                mode.call(guarded)
    assert state(guarded) is CLOSED


def test_the_users_exception_passes_unchanged(service: Service, mode: Mode) -> None:
    """Same object, no context, one frame of ours; also when it opens the circuit."""
    call = service.guarded(trip=Consecutive(2))
    service.succeeds(call, 1)
    for _ in range(2):
        service.error = error = ConnectionError("mine")
        with pytest.raises(ConnectionError) as info:
            mode.call(call)
        assert info.value is error
        assert error.__context__ is None
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        ours = [name for name in files if "/resilient/" in name or name.startswith("<resilient")]
        assert ours == ["<resilient: call>"]


def test_a_stop_iteration_passes_unchanged() -> None:
    """A `def` may raise `StopIteration`, on the fast path and through the plan."""

    @circuit_breaker("service")
    def call() -> None:
        raise StopIteration("mine")

    for _ in range(3):
        with pytest.raises(StopIteration, match="mine"):
            call()


# --- transitions and refusals


@pytest.mark.parametrize("outcome", [None, ConnectionError()])
@pytest.mark.parametrize("until", [OPEN, HALF_OPEN, CLOSED])
def test_a_call_of_an_earlier_time_has_no_effect(
    mode: Mode, clock: ManualClock, until: CircuitState, outcome: Exception | None
) -> None:
    """Begun when it was closed, ended when it is open, half-open or closed anew: it is dropped."""
    breaker = CircuitBreaker(
        "service", trip=Consecutive(1), half_open=HalfOpen(permits=2), open_for=30
    )
    slow = breaker.guard()
    enter, leave = (
        (partial(mode.call, slow.__aenter__), partial(mode.call, slow.__aexit__))
        if mode.is_async
        else (slow.__enter__, slow.__exit__)
    )
    enter()
    trip(mode, breaker)
    if until is not OPEN:
        clock.advance(30)
        for _ in range(1 if until is HALF_OPEN else 2):
            with mode.entered(breaker.guard()):
                pass
    assert breaker.at().state is until
    leave(None if outcome is None else type(outcome), outcome, None)
    assert breaker.at().state is until
    metrics = mode.call(breaker.at().ametrics if mode.is_async else breaker.at().metrics)
    assert (metrics.state, metrics.calls) == (until, 1 if until is HALF_OPEN else 0)


def test_every_transition_is_an_event_once(
    service: Service, seen: list[Event], clock: ManualClock
) -> None:
    """Closed, open, half-open, open, half-open, closed: five events, with their reasons."""
    call = service.guarded(trip=Consecutive(2), open_for=1, half_open=HalfOpen(permits=1))
    service.succeeds(call, 1)
    service.fails(call, 2)
    clock.advance(1)
    service.fails(call, 1)
    clock.advance(1)
    service.succeeds(call, 3)
    changes = [event for event in seen if isinstance(event, CircuitChanged)]
    assert [(each.before, each.after, each.reason) for each in changes] == [
        ("closed", "open", "consecutive"),
        ("open", "half_open", "wait_elapsed"),
        ("half_open", "open", "probes_failed"),
        ("open", "half_open", "wait_elapsed"),
        ("half_open", "closed", "probes_passed"),
    ]
    assert {each.key for each in changes} == {"service"}
    generations = [each.generation for each in changes[1:]]
    assert generations == sorted(set(generations))


def test_a_subscriber_may_use_the_breaker(mode: Mode, service: Service) -> None:
    """Events come when no lock is held: a subscriber can look, and call."""
    call = service.guarded(trip=Consecutive(1))
    found: list[CircuitState] = []
    unsubscribe = resilient.subscribe(lambda _: found.append(state(call)))
    try:
        service.fails(call, 1)
    finally:
        unsubscribe()
    assert found == [OPEN]


def test_each_refusal_is_an_exception_of_its_own(service: Service, mode: Mode) -> None:
    """Thousands of refusals: fresh instances, tracebacks that do not grow, and they pickle."""
    call = service.guarded(trip=Consecutive(1))
    service.fails(call, 1)
    depths, ids = set(), []
    for _ in range(500):
        with pytest.raises(CircuitOpen) as info:
            mode.call(call)
        depths.add(len(traceback.extract_tb(info.value.__traceback__)))
        ids.append(info.value)
    assert len(depths) == 1
    assert len({id(each) for each in ids}) == 500
    again = pickle.loads(pickle.dumps(ids[0]))
    assert (again.key, again.retry_after, str(again)) == (
        ids[0].key,
        ids[0].retry_after,
        str(ids[0]),
    )
