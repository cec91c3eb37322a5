"""What `@circuit_breaker` does without its backend; its bounds and its ends."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

import resilient
from resilient import (
    Backend,
    CircuitBreaker,
    CircuitOpen,
    CircuitState,
    Consecutive,
    HalfOpen,
    Quorum,
    circuit_breaker,
)
from resilient.engine.budget import NotAsked
from resilient.engine.circuits import catalogue, registry
from resilient.engine.clock import ManualClock
from resilient.engine.drivers.sync import drive
from resilient.events import BackendTrouble, CircuitChanged, Event
from resilient.protocols.circuits import CircuitStore
from resilient.resolving import resolve
from tests.support.forks import in_child
from tests.support.modes import Mode
from tests.support.shared_circuits import Shared, Watched, enter, fail, tick
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
    _known(backend)._hear(None)  # as when it is heard again
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


# --- bounds and ends


def test_many_keys_are_bounded_and_open_ones_stay(
    mode: Mode, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest unused closed circuits are dropped; those that are open never."""
    monkeypatch.setattr(catalogue, "MOST_KNOWN", 50)
    backend = shared.process()
    breaker = CircuitBreaker("s:{n}", trip=Consecutive(1), backend=backend)
    for n in range(5):
        with pytest.raises(ConnectionError), mode.entered(breaker.guard(n=n)):
            raise ConnectionError
    for n in range(5, 200):
        with mode.entered(breaker.guard(n=n)):
            pass
        if n % 20 == 0:
            until(lambda: all(each.is_idle for each in _known(backend).catalogue.all()))
    assert len(_known(backend).catalogue.all()) <= 80
    shared.store.asked.clear()
    for n in range(5):
        with pytest.raises(CircuitOpen), mode.entered(breaker.guard(n=n)):
            pytest.fail("it is open")
    assert shared.store.inline() == []


def test_where_none_can_go_they_are_not_looked_through_at_each_new_one(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes as long as there are circuits, so it is done once for many that come."""
    monkeypatch.setattr(catalogue, "MOST_KNOWN", 50)
    backend = shared.process()
    breaker = CircuitBreaker("s:{n}", trip=Consecutive(1), backend=backend)
    looks: list[int] = []
    make_room = catalogue.Catalogue._make_room

    def counted(self: catalogue.Catalogue) -> None:
        looks.append(len(self))
        make_room(self)

    monkeypatch.setattr(catalogue, "is_ordinary", lambda circuit: False)
    monkeypatch.setattr(catalogue.Catalogue, "_make_room", counted)
    for n in range(100):
        with breaker.guard(n=n):
            pass
    assert len(_known(backend).catalogue) == 100, "none of them can go"
    assert looks == list(range(51, 100, 6)), "at 51, and after each 5 more"


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
    until(lambda: sum(map(len, shared.store.outcomes)) == 1000)
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
from tests.support.forks import in_child
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

    def child() -> None:
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                call(True)
        with contextlib.suppress(CircuitOpen):
            call(True)
        until(lambda: "".join(shared.store.outcomes) == "11")
        time.sleep(0.15)
        assert "".join(shared.store.outcomes) == "11"

    assert in_child(child) == 0
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

    async def sent(outcomes: str) -> None:
        deadline = time.monotonic() + 10
        while store.outcomes != outcomes:
            assert time.monotonic() < deadline, store.outcomes
            await asyncio.sleep(0.002)

    async def main() -> None:
        await call(False)
        await sent("0")
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await call(True)
        with pytest.raises(CircuitOpen):
            await call(True)
        await sent("0111")

    asyncio.run(main())


# --- a server that is slower than what it is asked


class Scarce(Watched):
    """A server that has time for one only of what it is asked at once."""

    most = 0

    def send_many(self, commands: Sequence[Any]) -> list[Any]:
        """Answer the first one."""
        first, *others = commands
        self.most = max(self.most, len(commands))
        return [self.send(first), *(NotAsked("for want of time") for _ in others)]


def test_a_flush_larger_than_its_budget() -> None:
    """What there was no time for is told, or asked, with the next one; that is no outage."""
    shared, told = Shared(), list[Event]()
    store = shared.store = Scarce(shared.memory.require("circuits"))
    backend, mode = shared.process(), Mode("sync")
    stop = resilient.events.subscribe(told.append)
    with contextlib.closing(shared), contextlib.ExitStack() as stack:
        stack.callback(stop)
        breakers = [
            CircuitBreaker(f"k{number}", trip=Consecutive(1), open_for=600, backend=backend)
            for number in range(6)
        ]
        for breaker in breakers:
            enter(mode, breaker)
        until(lambda: len(store.outcomes) >= 6, seconds=30)
        store.answers.clear()  # the first flush waits, and the others' failures gather
        for breaker in breakers:
            fail(mode, breaker)
        store.answers.set()
        until(lambda: len(store.outcomes) >= 12, seconds=30)
        store.most = 0
        store.asked.clear()
        backend.hub.deliver("circuits", None)  # some may have been missed
        until(lambda: [name for name, _ in store.asked].count("view") >= 6, seconds=30)
        assert store.most >= 6
        assert not backend.outage.is_on
        assert not [event for event in told if isinstance(event, BackendTrouble)]


def test_others_have_their_turn_between_two_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    """All circuits in use are asked for anew, as many at a time as one trip takes."""
    shared = Shared()
    store = shared.store = Watched(shared.memory.require("circuits"))
    backend, mode = shared.process(), Mode("sync")
    with contextlib.closing(shared):
        breakers = [CircuitBreaker(f"k{number}", backend=backend) for number in range(5)]
        for breaker in breakers:
            enter(mode, breaker)
        circuits = vars(backend)[registry.ATTRIBUTE]
        backend.worker.stop()
        monkeypatch.setattr(registry, "MOST_AT_ONCE", 2)
        monkeypatch.setattr(backend.worker, "nudge", lambda: None)
        for breaker in breakers:  # one that is idle is forgotten
            enter(mode, breaker)
        trips = []
        backend.hub.deliver("circuits", None)
        while circuits.due() == -math.inf:
            store.asked.clear()
            drive(circuits.run())
            trips.append([name for name, _ in store.asked].count("view"))
        assert trips == [2, 2, 1]
