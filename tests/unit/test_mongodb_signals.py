"""Signals on MongoDB: who is woken, how soon, and what happens when nobody can listen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from resilient.backends.mongodb import MongoBackend, from_url
from resilient.backends.mongodb.subscription import PERHAPS
from resilient.engine.drivers.sync import drive
from resilient.protocols.locks import Grant, Held
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.mongodb import MongoAt, mongo_server
from tests.support.scale import measured
from tests.support.waiting import soon

pytestmark = pytest.mark.usefixtures("pymongos_sockets")


@pytest.fixture
def url(mongo_server: MongoAt) -> str:
    """Of the shared server."""
    return mongo_server.url


@pytest.fixture
def backend(served: MongoBackend) -> MongoBackend:
    """A backend on the shared server."""
    return served


@pytest.fixture(scope="module")
def standalone() -> Iterator[MongoAt]:
    """A server that is no member of a replica set: it has no change streams."""
    with mongo_server(standalone=True) as server:
        yield server


def test_a_hand_over_is_quick(run: Run, backend: MongoBackend) -> None:
    """From a release to the waiter in less than the second after which it would look."""
    locks = backend.require("locks")
    taken = []
    for number in range(8):
        run(locks.acquire("k", ttl=30, owner=f"ann{number}"))
        waiter, address = run.listen(backend)
        assert isinstance(run(locks.acquire("k", ttl=30, owner="bob", waiter=address)), Held)
        started = time.perf_counter()
        run(locks.release("k", owner=f"ann{number}"))
        assert run.wait(waiter, 10)
        taken.append(time.perf_counter() - started)
        assert run(locks.is_held("k", owner="bob"))
        run(locks.release("k", owner="bob"))

    assert min(taken) < 0.5


def test_a_killed_waiter_is_forgotten(run: Run, backend: MongoBackend) -> None:
    """Who does not look again loses its place, and the lock is handed over to the next one."""
    locks = backend.require("locks")
    run(locks.acquire("k", ttl=60, owner="ann"))
    run(locks.acquire("k", ttl=60, owner="dead", waiter=f"rsl_{0:016x}|waiter"))
    waiter, address = run.listen(backend)

    began = time.monotonic()
    while time.monotonic() < began + 5.5:
        assert isinstance(run(locks.acquire("k", ttl=60, owner="bob", waiter=address)), Held)
        time.sleep(0.5)
    run(locks.release("k", owner="ann"))

    assert run.wait(waiter, 10)
    assert run(locks.is_held("k", owner="bob"))


def test_duplicates_are_woken(run: Run, backend: MongoBackend) -> None:
    """The outcome of a call wakes all who wait for it."""
    calls = backend.require("idempotency")
    run(calls.claim("k", owner="ann", lease=30, ttl=60))
    waiters = [run.listen(backend) for _ in range(3)]
    for number, (_, address) in enumerate(waiters):
        run(calls.claim("k", owner=f"bob{number}", lease=30, ttl=60, waiter=address))

    run(calls.complete("k", owner="ann", result=b"r", ttl=60))

    assert [run.wait(waiter, 10) for waiter, _ in waiters] == [True] * 3


@pytest.mark.parametrize("run", ["sync"], indirect=True)
def test_a_further_channel_is_heard(run: Run, mongo_server: MongoAt, prefix: str) -> None:
    """Who listens to one more channel misses nothing on the others meanwhile."""
    backend = from_url(mongo_server.url, prefix=prefix)
    with run.closing(backend):
        locks = backend.require("locks")
        run(locks.acquire("k", ttl=30, owner="ann"))
        waiter, address = run.listen(backend)
        run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
        run(locks.release("k", owner="ann"))
        backend.hub.listen("cache", lambda message: None)

        assert backend.hub.is_listening
        assert run.wait(waiter, 10)


@pytest.mark.parametrize("run", ["sync"], indirect=True)
def test_a_silent_connection_is_noticed(run: Run, mongo_server: MongoAt, prefix: str) -> None:
    """A network that swallows everything: noticed, and everybody is told when it is back."""
    with FaultProxy(mongo_server.url) as proxy:
        backend = from_url(
            f"{proxy.url}?directConnection=true&serverSelectionTimeoutMS=2000", prefix=prefix
        )
        with run.closing(backend):
            heard: list[str | None] = []
            backend.hub.listen("cache", heard.append)
            waiter, address = run.listen(backend)

            proxy.blackhole()
            began = time.monotonic()
            assert soon(lambda: not backend.hub.is_listening)
            measured("noticed after", time.monotonic() - began, "s")
            assert heard == []
            proxy.restore()

            assert run.wait(waiter, 15)
            assert soon(lambda: len(heard) > 0)
            assert set(heard) == {None}
            assert soon(lambda: backend.hub.is_listening)
            locks = backend.require("locks")
            drive(locks.acquire("k", ttl=30, owner="ann"))
            drive(locks.acquire("k", ttl=30, owner="bob", waiter=address))
            drive(locks.release("k", owner="ann"))
            assert run.wait(waiter, 10)


def test_a_standalone_server(run: Run, standalone: MongoAt, prefix: str) -> None:
    """Without change streams waiters look by themselves, and nothing at hand is trusted."""
    backend = from_url(standalone.url, prefix=prefix)
    with run.closing(backend):
        heard: list[str | None] = []
        backend.hub.listen("cache", heard.append)
        locks = backend.require("locks")
        run(locks.acquire("k", ttl=30, owner="ann"))
        waiter, address = run.listen(backend)
        run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
        run(locks.release("k", owner="ann"))

        assert run.wait(waiter, 10)
        assert soon(lambda: len(heard) >= 2)
        assert set(heard) == {None}


def test_circuits_are_not_asked_for_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without change streams what is at hand is doubted four times a second, a circuit once."""
    backend = from_url("mongodb://127.0.0.1:1/nowhere")
    source: Any = backend.hub._source
    told: dict[str, list[str | None]] = {"cache": [], "circuits": []}
    for channel, messages in told.items():
        backend.hub.enlist(channel, messages.append)
    source._hub = backend.hub
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for number in range(80):
        now = number / 16
        source.heard(PERHAPS, "")
    assert {channel: len(messages) for channel, messages in told.items()} == {
        "cache": 20,
        "circuits": 5,
    }
    monkeypatch.undo()
    backend.close()


def test_without_listening(run: Run, mongo_server: MongoAt, prefix: str) -> None:
    """`listen=off`: a lock is not handed over, and who looks again gets it."""
    backend = from_url(f"{mongo_server.url}?listen=off", prefix=prefix)
    with run.closing(backend):
        locks = backend.require("locks")
        assert backend.hub.recheck < 0.1
        run(locks.acquire("k", ttl=30, owner="ann"))
        waiter, address = run.listen(backend)
        busy = run(locks.acquire("k", ttl=30, owner="bob", waiter=address))
        assert isinstance(busy, Held)
        run(locks.release("k", owner="ann"))
        assert not run.wait(waiter, 0.05)
        assert isinstance(run(locks.acquire("k", ttl=30, owner="bob", waiter=address)), Grant)
