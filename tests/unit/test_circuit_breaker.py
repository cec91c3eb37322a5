"""`@circuit_breaker` and `CircuitBreaker` over memory: when a circuit opens, probes and closes."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import (
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    ConfigurationError,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    circuit_breaker,
    distributed_lock,
)
from resilient.config import disabled
from resilient.engine.clock import ManualClock, installed
from resilient.events import CircuitChanged, Event
from tests.support.modes import Mode

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


@pytest.fixture(name="clock", autouse=True)
def _clock() -> Iterator[ManualClock]:
    with installed(ManualClock()) as _, resilient.using("memory://"):
        from resilient.engine import clock

        assert isinstance(clock.current, ManualClock)
        yield clock.current


@pytest.fixture(name="seen")
def _seen() -> Iterator[list[Event]]:
    events: list[Event] = []
    unsubscribe = resilient.subscribe(events.append)
    yield events
    unsubscribe()


class Service:
    """What is guarded: it fails while it is told to, and counts its calls."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.error: BaseException | None = None
        self.calls = 0

    def guarded(self, *args: Any, **options: Any) -> Callable[..., Any]:
        """The service's call behind a breaker of these options."""

        async def call(tenant: str = "acme") -> str:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return f"hello {tenant}"

        return self.mode.decorate(circuit_breaker(*(args or ("service",)), **options), call)

    def fails(self, call: Callable[..., Any], times: int, *args: Any) -> None:
        """Call it while it is failing."""
        self.error = ConnectionError("reset")
        for _ in range(times):
            with pytest.raises(ConnectionError):
                self.mode.call(call, *args)
        self.error = None

    def succeeds(self, call: Callable[..., Any], times: int, *args: Any) -> None:
        """Call it while it is well."""
        self.error = None
        for _ in range(times):
            assert self.mode.call(call, *args).startswith("hello")


@pytest.fixture(name="service")
def _service(mode: Mode) -> Service:
    return Service(mode)


def state(call: Callable[..., Any], *args: Any) -> CircuitState:
    """The state of the circuit behind a call, as this process knows it."""
    return circuit_breaker.of(call).at(*args).state


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


# --- open, half-open and closed again


def test_an_open_circuit_is_probed_and_closes(
    service: Service, mode: Mode, clock: ManualClock
) -> None:
    """After `open_for` so many calls as there are permits go through, and close it."""
    call = service.guarded(trip=Consecutive(2), open_for=30, half_open=HalfOpen(permits=3))
    service.fails(call, 2)
    clock.advance(29.9)
    with pytest.raises(CircuitOpen) as info:
        mode.call(call)
    assert info.value.retry_after == pytest.approx(0.1)
    clock.advance(0.2)
    service.succeeds(call, 1)
    assert state(call) is HALF_OPEN
    service.succeeds(call, 2)
    assert state(call) is CLOSED
    service.fails(call, 1)
    assert state(call) is CLOSED


def test_failed_probes_open_it_again(service: Service, mode: Mode, clock: ManualClock) -> None:
    """The round is judged by the failure rate when all probes have ended."""
    rules = {"trip": FailureRate(0.5), "min_calls": 2, "half_open": HalfOpen(permits=4)}
    call = service.guarded(open_for=10, **rules)
    service.fails(call, 2)
    clock.advance(10)
    service.fails(call, 2)
    service.succeeds(call, 1)
    assert state(call) is HALF_OPEN
    service.succeeds(call, 1)
    assert state(call) is OPEN
    with pytest.raises(CircuitOpen):
        mode.call(call)
    clock.advance(10)
    service.succeeds(call, 4)
    assert state(call) is CLOSED


def test_no_more_probes_than_permits(mode: Mode, clock: ManualClock) -> None:
    """While the probes are under way others are refused, and told that they are under way."""
    breaker = CircuitBreaker("service", trip=Consecutive(1), half_open=HalfOpen(permits=2))
    _trip(mode, breaker)
    clock.advance(30)
    with mode.entered(breaker.guard()) as first, mode.entered(breaker.guard()) as second:
        assert first.is_probe
        assert second.is_probe
        with (
            pytest.raises(CircuitOpen, match="probes are under way"),
            mode.entered(breaker.guard()),
        ):
            pytest.fail("a third probe")
    assert breaker.at().state is CLOSED


def test_a_permit_comes_back_when_its_probe_says_nothing(
    service: Service, mode: Mode, clock: ManualClock
) -> None:
    """An ignored exception in a probe gives its permit to the next call."""
    call = service.guarded(trip=Consecutive(1), half_open=HalfOpen(permits=1), ignore=LookupError)
    service.fails(call, 1)
    clock.advance(30)
    service.error = KeyError()
    for _ in range(3):
        with pytest.raises(KeyError):
            mode.call(call)
    assert state(call) is HALF_OPEN
    service.succeeds(call, 1)
    assert state(call) is CLOSED


def test_a_permit_comes_back_when_its_probe_is_cancelled(clock: ManualClock) -> None:
    """A cancelled probe neither counts nor keeps its permit."""
    breaker = CircuitBreaker("service", trip=Consecutive(1), half_open=HalfOpen(permits=1))

    @breaker
    async def call(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "well"

    async def main() -> None:
        with pytest.raises(ConnectionError):
            async with breaker.guard():
                raise ConnectionError
        clock.advance(30)
        for _ in range(3):
            task = asyncio.create_task(call(60))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert breaker.at().state is HALF_OPEN
        assert await call(0) == "well"
        assert breaker.at().state is CLOSED

    asyncio.run(main())


def test_a_permit_comes_back_by_its_lease(mode: Mode, clock: ManualClock) -> None:
    """A probe that never reports blocks the round no longer than its lease; late, it is void."""
    half_open = HalfOpen(permits=1, lease=5)
    breaker = CircuitBreaker("service", trip=Consecutive(1), open_for=30, half_open=half_open)
    _trip(mode, breaker)
    clock.advance(30)
    lost = breaker.guard()
    if mode.is_async:
        mode.call(lost.__aenter__)
    else:
        lost.__enter__()
    clock.advance(4.9)
    with pytest.raises(CircuitOpen), mode.entered(breaker.guard()):
        pytest.fail("a second probe")
    clock.advance(0.2)
    with mode.entered(breaker.guard()) as probe:
        assert probe.is_probe
        if mode.is_async:
            mode.call(lost.__aexit__, ConnectionError, ConnectionError(), None)
        else:
            lost.__exit__(ConnectionError, ConnectionError(), None)
        assert breaker.at().state is HALF_OPEN
    assert breaker.at().state is CLOSED


def _trip(mode: Mode, breaker: CircuitBreaker, **fields: Any) -> None:
    with pytest.raises(ConnectionError), mode.entered(breaker.guard(**fields)):
        raise ConnectionError


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
    _trip(mode, breaker)
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
    _trip(mode, inner)

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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trip": 0.5}, "trip=0.5"),
        ({"window": 100}, "window=100"),
        ({"half_open": 5}, "half_open=5"),
        ({"min_calls": 0}, "min_calls=0"),
        ({"min_calls": True}, "min_calls=True"),
        ({"open_for": float("nan")}, "open_for=nan"),
        ({"open_for": 0}, "open_for=0"),
        ({"open_for": "1 minute"}, "open_for='1 minute'"),
        ({"record": "ValueError"}, "record='ValueError'"),
        ({"record": (KeyboardInterrupt,)}, "record"),
        ({"ignore": asyncio.CancelledError}, "ignore"),
        ({"fallback": "none"}, "fallback='none'"),
        ({"key": lambda nonsense: ""}, "key="),
        ({"backend": "nonsense://"}, "nonsense"),
    ],
)
def test_a_wrong_option_is_refused_when_decorated(options: dict[str, Any], says: str) -> None:
    """By an error of our tree that names it."""
    template = () if "key" in options else ("service",)

    def call() -> None:
        """Never called."""

    with pytest.raises(ConfigurationError, match=says):
        circuit_breaker(*template, **options)(call)


@pytest.mark.parametrize("value", [0, -0.1, 1.5, True, "half", float("nan")])
def test_a_rate_is_a_share(value: Any) -> None:
    """More than 0, at most 1."""
    with pytest.raises(ConfigurationError, match="FailureRate"):
        FailureRate(value)


@pytest.mark.parametrize("make", [Consecutive, CountWindow, HalfOpen])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5"])
def test_counts_are_whole_numbers(make: Callable[[Any], Any], value: Any) -> None:
    """At least 1."""
    with pytest.raises(ConfigurationError, match="at least 1"):
        make(value)


def test_templates_are_checked_when_decorated() -> None:
    """Unknown fields, no key, both keys, and omitted parentheses."""

    def call(tenant: str) -> None:
        """Never called."""

    with pytest.raises(ConfigurationError, match="nonsense"):
        circuit_breaker("x:{nonsense}")(call)
    with pytest.raises(ConfigurationError, match="needs a key"):
        circuit_breaker()(call)
    with pytest.raises(ConfigurationError, match="not both"):
        circuit_breaker("x", key=lambda tenant: "x")(call)
    with pytest.raises(ConfigurationError, match="parentheses"):
        circuit_breaker(call)  # type: ignore[call-overload]  # what is to be refused
    with pytest.raises(ConfigurationError, match="is not decorated"):
        circuit_breaker.of(call)


def test_a_fallback_must_suit_the_function() -> None:
    """No async fallback for a `def`, and none at all for generators."""

    async def fallback(refusal: CircuitOpen) -> None:
        """Never called."""

    def plain() -> None:
        """Never called."""

    def stream() -> Iterator[int]:
        yield 1

    with pytest.raises(ConfigurationError, match="async fallback"):
        circuit_breaker("x", fallback=fallback)(plain)  # type: ignore[arg-type]  # to be refused
    with pytest.raises(ConfigurationError, match="generator"):
        circuit_breaker("x", fallback=lambda refusal: iter(()))(stream)


def test_an_unknown_option_is_refused() -> None:
    """An option that is not there is a `TypeError`, never accepted and ignored."""
    for option in ("on_backend_error", "max_keys", "windows"):
        with pytest.raises(TypeError, match=option):
            circuit_breaker("x", **{option: None})  # type: ignore[call-overload]  # on purpose


# --- by hand


def test_forcing_a_circuit(mode: Mode, service: Service, clock: ManualClock) -> None:
    """Open for as long as asked, closed at once, and begun anew."""
    breaker = CircuitBreaker("s:{tenant}", trip=Consecutive(2), open_for=30)
    circuit = breaker.at(tenant="acme")
    control = partial(_control, mode, circuit)
    control("force_open", duration="10m")
    assert circuit.state is CircuitState.FORCED_OPEN
    clock.advance("9m")
    with pytest.raises(CircuitOpen) as info, mode.entered(breaker.guard(tenant="acme")):
        pytest.fail("it is open")
    assert info.value.retry_after == pytest.approx(60)
    assert "forced" in str(info.value)
    assert "open for 540.0 s" in str(info.value)
    control("force_closed")
    with mode.entered(breaker.guard(tenant="acme")) as call:
        assert (call.key, call.is_probe) == ("s:acme", False)
    with pytest.raises(ConnectionError), mode.entered(breaker.guard(tenant="acme")):
        raise ConnectionError
    assert control("metrics")[3:6] == (2, 1, 1)
    control("reset")
    assert control("metrics")[3:6] == (0, 0, 0)
    with pytest.raises(ConfigurationError, match="duration"):
        control("force_open", duration=-1)


def _control(mode: Mode, circuit: Any, name: str, **options: Any) -> Any:
    return mode.call(getattr(circuit, f"a{name}" if mode.is_async else name), **options)


def test_a_blocking_form_in_a_loop_warns() -> None:
    """`guard`, `metrics` and the others say which form to use instead."""
    breaker = CircuitBreaker("service")

    async def main() -> None:
        with pytest.warns(resilient.BlockingCallInLoop, match="async with"), breaker.guard():
            pass
        with pytest.warns(resilient.BlockingCallInLoop, match="ametrics") as warnings:
            breaker.at().metrics()
        assert warnings[0].filename == __file__

    asyncio.run(main())


def test_state_asks_nobody() -> None:
    """A circuit that this process has never used is closed as far as it knows."""
    breaker = CircuitBreaker("service:{n}")
    assert breaker.at(n=1).state is CLOSED
    assert "closed" in repr(breaker.at(n=1))
    assert repr(breaker) == "CircuitBreaker('service:{n}')"
    with pytest.raises(TypeError, match="n"):
        breaker.at()
    with pytest.raises(resilient.KeyMissing):
        breaker.guard(n=None)
