"""What a breaker keeps is bounded, and what its end, a fork or a closed loop leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import resilient
from resilient import (
    Backend,
    CircuitBreaker,
    CircuitOpen,
    Consecutive,
    circuit_breaker,
)
from resilient.engine.budget import NotAsked
from resilient.engine.circuits import catalogue, registry
from resilient.engine.drivers.sync import drive
from resilient.events import BackendTrouble, Event
from resilient.protocols.circuits import CircuitStore
from resilient.resolving import resolve
from tests.support.forks import in_child
from tests.support.modes import Mode
from tests.support.shared_circuits import Shared, Watched, enter, fail, known
from tests.support.waiting import until


@pytest.fixture(name="shared")
def _shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.close()


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
            until(lambda: all(each.is_idle for each in known(backend).catalogue.all()))
    assert len(known(backend).catalogue.all()) <= 80
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
    assert len(known(backend).catalogue) == 100, "none of them can go"
    assert looks == list(range(51, 100, 6)), "at 51, and after each 5 more"


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
        assert store.most > 1  # all six, unless the first trip began before all were listed
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
