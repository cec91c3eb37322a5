"""What `@circuit_breaker` asks of its backend, and when; and what it does without one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import pytest

import resilient
from resilient import (
    Backend,
    BackendError,
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    CountWindow,
    FailureRate,
    HalfOpen,
    Quorum,
    circuit_breaker,
)
from resilient.engine.circuits import registry
from resilient.engine.clock import ManualClock, installed
from resilient.engine.drivers.aio import Reply
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Ask
from resilient.events import BackendTrouble, CircuitChanged, Event
from resilient.protocols.circuits import CircuitStore
from resilient.resolving import resolve
from tests.support.modes import Mode

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class Watched:
    """A store behind a transport, as on a server: it notes what it is asked, and by which thread.

    It can be away, and it can be slow.
    """

    def __init__(self, store: CircuitStore) -> None:
        self._store = store
        self.is_away = False
        self.answers = threading.Event()
        self.answers.set()
        self.asked: list[tuple[str, str]] = []
        self.outcomes: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not hasattr(CircuitStore, name):
            raise AttributeError(name)

        async def method(*args: Any, **kwargs: Any) -> Any:
            return await Ask(self, (name, args, kwargs))

        return method

    def send(self, command: Any) -> Any:
        """Answer a blocking caller."""
        name, args, kwargs = command
        self.asked.append((name, threading.current_thread().name))
        self.answers.wait(5)
        if self.is_away:
            raise BackendError("the server is away")
        if "outcomes" in kwargs:
            self.outcomes.append(kwargs["outcomes"])
        return drive(getattr(self._store, name)(*args, **kwargs))

    def asend(self, command: Any) -> Reply:
        """Answer a caller in an event loop."""
        return Reply.of(asyncio.to_thread(self.send, command))

    def inline(self) -> list[str]:
        """What callers have waited for."""
        return [name for name, thread in self.asked if not thread.startswith("resilient-worker")]


numbers = count()


class Shared:
    """One memory store, and several backends on it: as several processes share a server."""

    def __init__(self) -> None:
        self.memory = resolve("memory://")
        self.store = Watched(self.memory.require("circuits"))
        self._backends: list[Backend] = []
        self.memory.hub.listen("circuits", self._deliver)

    def _deliver(self, message: str | None) -> None:
        for backend in self._backends:
            backend.hub.deliver("circuits", message)

    def process(self, **options: Any) -> Backend:
        """A backend of its own on the same store."""
        backend = Backend(f"process {next(numbers)}", circuits=self.store, **options)
        self._backends.append(backend)
        return backend

    def close(self) -> None:
        """End their threads."""
        for backend in self._backends:
            backend.close()


@pytest.fixture(name="shared")
def _shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.close()


@pytest.fixture(name="clock")
def _clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with installed(clock):
        yield clock


@pytest.fixture(name="seen")
def _seen() -> Iterator[list[Event]]:
    events: list[Event] = []
    unsubscribe = resilient.subscribe(events.append)
    yield events
    unsubscribe()


def eventually(condition: Callable[[], bool], within: float = 3.0) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.002)


def enter(mode: Mode, breaker: CircuitBreaker, error: Exception | None = None) -> None:
    """One guarded block that ends well, or by the error."""
    if error is None:
        with mode.entered(breaker.guard()):
            return
    with pytest.raises(type(error)), mode.entered(breaker.guard()):
        raise error


def fail(mode: Mode, breaker: CircuitBreaker, times: int = 1) -> None:
    """So many guarded blocks that fail."""
    for _ in range(times):
        enter(mode, breaker, ConnectionError())


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
    for _ in range(500):
        call()
        time.sleep(0.001)
    eventually(lambda: sum(map(len, shared.store.outcomes)) == 500, within=0.5)
    flushes = [name for name, _ in shared.store.asked if name == "record"]
    assert 4 <= len(flushes) <= 12


def test_a_failure_arrives_within_milliseconds(shared: Shared, mode: Mode) -> None:
    """Failures do not wait for the successes' turn."""
    breaker = CircuitBreaker("s", backend=shared.process())
    enter(mode, breaker)
    eventually(lambda: shared.store.outcomes == ["0"])
    fail(mode, breaker)
    began = time.monotonic()
    eventually(lambda: shared.store.outcomes == ["0", "1"])
    assert time.monotonic() - began < 0.09


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
    eventually(lambda: circuit.metrics().calls == 2401)
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
    eventually(lambda: one.at().state is two.at().state is OPEN or _tick(clock))
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


def _tick(clock: ManualClock) -> bool:
    clock.advance(0.1)
    time.sleep(0.005)
    return False


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
    eventually(lambda: shared.store.outcomes == ["1"])
    late = CircuitBreaker("s", trip=Consecutive(1), backend=shared.process())
    with pytest.raises(CircuitOpen):
        enter(mode, late)


def test_missed_messages_are_made_up_for(mode: Mode) -> None:
    """After a gap, circuits in use are asked for at once, and others before their next use."""
    with resilient.using("memory://") as backend:
        used, idle = CircuitBreaker("used"), CircuitBreaker("idle")
        enter(mode, idle)
        eventually(lambda: backend.sync.circuits.view("idle").calls == 1)
        time.sleep(0.25)
        enter(mode, used)
        source = backend.hub._source
        hub, source.hub = source.hub, None  # type: ignore[union-attr]  # nobody hears
        for name in ("used", "idle"):
            backend.sync.circuits.force(name, OPEN, rules=used.rules)
        assert used.at().state is idle.at().state is CLOSED
        source.hub = hub  # type: ignore[union-attr]  # as after a reconnection
        hub.deliver("circuits", None)
        eventually(lambda: used.at().state is OPEN)
        with pytest.raises(CircuitOpen):
            enter(mode, idle)


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
    eventually(lambda: ill.at().state is CLOSED)
    enter(mode, ill)
    reasons = [event.reason for event in seen if isinstance(event, CircuitChanged)]
    assert reasons == ["failure_rate", "outvoted"]


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
    eventually(lambda: any(isinstance(event, BackendTrouble) for event in seen))
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
    eventually(lambda: shared.store.outcomes == ["1"])
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
    eventually(lambda: shared.store.asked[-1][0] == "record")
    time.sleep(0.02)
    enter(mode, here)
    fail(mode, here, 3)
    assert here.at().state is OPEN
    shared.store.is_away = False
    there = CircuitBreaker("s", trip=Consecutive(3), backend=shared.process())
    eventually(lambda: there.at().metrics().state is OPEN or _tick(clock))
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
        assert time.monotonic() - began < 1
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
    eventually(lambda: sorted(shared.store.outcomes) == ["0", "11"] or _tick(clock))
    memory = shared.memory.sync.circuits
    for key in ("s:1", "s:2"):
        eventually(partial(memory.delete, key))
    with pytest.raises(CircuitOpen), mode.entered(breaker.guard(n=1)):
        pytest.fail("it is open")
    for _ in range(2):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard(n=2)):
            raise ConnectionError
    eventually(lambda: memory.view("s:2").state is OPEN or _tick(clock))
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
    eventually(lambda: memory.view("s").state is OPEN)
    before = memory.view("s").generation
    clock.advance(10)
    memory.delete("s")
    _known(backend)._hear(None)  # as when it is heard again
    eventually(lambda: memory.view("s").state is OPEN or _tick(clock))
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
        _tick(clock)
    assert [node.at().state for node in nodes] == [OPEN] + [CLOSED] * 9
    fail(mode, nodes[1], 3)
    eventually(lambda: {node.at().state for node in nodes} == {OPEN} or _tick(clock))


# --- bounds and ends


def test_many_keys_are_bounded_and_open_ones_stay(
    mode: Mode, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest unused closed circuits are dropped; those that are open never."""
    monkeypatch.setattr(registry, "MOST_KNOWN", 50)
    backend = shared.process()
    breaker = CircuitBreaker("s:{n}", trip=Consecutive(1), backend=backend)
    for n in range(5):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard(n=n)):
            raise ConnectionError
    for n in range(5, 200):
        with mode.entered(breaker.guard(n=n)):
            pass
        if n % 20 == 0:
            eventually(lambda: all(each.is_idle for each in _known(backend)._all()))
    assert len(_known(backend)._all()) <= 80
    shared.store.asked.clear()
    for n in range(5):
        with pytest.raises(CircuitOpen), mode.entered(breaker.guard(n=n)):
            pytest.fail("it is open")
    assert shared.store.inline() == []


def _known(backend: Backend) -> registry.KnownCircuits:
    known: registry.KnownCircuits = vars(backend)[registry.ATTRIBUTE]
    return known


def test_thousands_of_keys_need_one_thread(mode: Mode, shared: Shared) -> None:
    """And when all is sent, none."""
    before = threading.active_count()
    backend = shared.process()
    breaker = CircuitBreaker("s:{n}", backend=backend)
    for n in range(1000):
        with mode.entered(breaker.guard(n=n)):
            pass
    helpers = [t for t in threading.enumerate() if t.name.endswith(backend.name)]
    assert len(helpers) <= 1
    eventually(lambda: sum(map(len, shared.store.outcomes)) == 1000)
    assert threading.active_count() <= before + 2 + (4 if mode.is_async else 0)


def test_closing_sends_what_is_left(mode: Mode, shared: Shared) -> None:
    """`close()` does not lose the last tenth of a second; the breaker works on after it."""
    backend = shared.process()
    breaker = CircuitBreaker("s", backend=backend)
    for _ in range(2):
        shared.store.outcomes.clear()
        enter(mode, breaker)
        backend.close()
        assert shared.store.outcomes == ["0"]


def test_an_ending_process_sends_what_is_left(tmp_path: Any) -> None:
    """At the interpreter's exit too, where it is the configured backend."""
    code = f"""
import resilient
resilient.configure("sqlite:///{tmp_path}/state.db")
@resilient.circuit_breaker("s", window=resilient.CountWindow(50))
def call(): pass
for _ in range(20): call()
"""
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    backend = resolve(f"sqlite:///{tmp_path}/state.db")
    assert backend.sync.circuits.view("s").calls == 20
    backend.close()


def test_a_forked_child_sends_nothing_of_its_parents(shared: Shared) -> None:
    """What the parent has counted is the parent's to send; the child goes on by itself."""

    def body(fails: bool) -> None:
        if fails:
            raise ConnectionError

    call = circuit_breaker("s", trip=Consecutive(2), backend=shared.process())(body)
    call(False)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            signal.alarm(10)
            for _ in range(2):
                with contextlib.suppress(ConnectionError):
                    call(True)
            with contextlib.suppress(CircuitOpen):
                call(True)
            eventually(lambda: "".join(shared.store.outcomes) == "11")
            time.sleep(0.15)
            code = int("".join(shared.store.outcomes) != "11")
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "".join(shared.store.outcomes) == "0"


def _raise() -> None:
    raise ConnectionError


class AwaitingStore:
    """A third party's store that needs an event loop."""

    def __init__(self, store: CircuitStore) -> None:
        self._store = store
        self.outcomes = ""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def method(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            self.outcomes += kwargs.get("outcomes", "")
            return await getattr(self._store, name)(*args, **kwargs)

        return method


def test_a_backend_that_needs_a_loop() -> None:
    """Its flusher is a task; a `def` is refused when decorated."""
    store: Any = AwaitingStore(resolve("memory://").require("circuits"))
    backend = Backend("awaiting", circuits=store, modes=frozenset({"async"}))
    with pytest.raises(resilient.CapabilityMissing, match="async"):
        circuit_breaker("s", backend=backend)(_raise)

    @circuit_breaker("s", trip=Consecutive(3), backend=backend)
    async def call(fails: bool) -> None:
        if fails:
            raise ConnectionError

    async def main() -> None:
        await call(False)
        await asyncio.sleep(0.2)
        assert store.outcomes == "0"
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await call(True)
        with pytest.raises(CircuitOpen):
            await call(True)
        await asyncio.sleep(0.05)
        assert store.outcomes == "0111"

    asyncio.run(main())
