"""What runs in the background goes on, whatever happens around it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import resilient
from resilient.backends.memory import MemoryBackend, MemorySignals
from resilient.engine import background
from resilient.engine.backend import made_once
from resilient.engine.circuits.registry import known_circuits
from resilient.engine.drivers.sync import drive
from resilient.engine.listening import Bell, ListeningSource
from resilient.engine.outage import Outage
from resilient.errors import BackendError, LeaseLost
from tests.support.modes import Mode
from tests.support.servers import RedisServer
from tests.support.waiting import soon

TTL = 2.0


def lose(backend: resilient.Backend, key: str) -> None:
    """Take a lock away from its holder."""
    assert backend.locks is not None
    drive(backend.locks.force_release(key))


class Deaf:
    """A subscription that never comes about."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()
        self.unheard: frozenset[str] = frozenset()
        self._ended = threading.Event()

    def open(self, channels: set[str]) -> None:
        self._ended.wait()
        raise BackendError("it has ended")

    def add(self, channels: set[str]) -> None:
        raise AssertionError("it is not open")

    def receive(self) -> Iterator[tuple[str, str]]:
        raise AssertionError("it is not open")

    def close(self) -> None:
        self._ended.set()


class DeafSource(ListeningSource):
    """A source of signals that hears nothing, and lets those who wait for it wait for long."""

    def __init__(self) -> None:
        super().__init__("deaf", patience=60)
        self.subscription = Deaf()

    def _subscription(self) -> Deaf:
        return self.subscription

    def _own_channel(self, process: str) -> str:
        return process

    def _broadcast(self, channel: str) -> str:
        return channel


def test_who_cannot_be_heard_holds_up_no_renewal() -> None:
    """A breaker that looks for its server in the background does not wait there to hear it."""
    stores, source = MemoryBackend(), DeafSource()
    backend = resilient.Backend("deaf", locks=stores.locks, circuits=stores.circuits, source=source)
    circuits = known_circuits(backend, lambda: MemoryBackend().require("circuits"))
    with resilient.using(backend), resilient.lock("k", ttl=TTL) as lease:
        circuits.trouble("s", BackendError("it did not answer"))
        until = lease.deadline + 2 * TTL
        assert soon(lambda: lease.deadline > until)
        assert not lease.lost
        assert circuits.is_away  # as long as nothing is heard
    source.subscription.close()
    backend.close()


def test_what_two_threads_ask_for_first_is_made_once() -> None:
    """A part of a backend that is being made is waited for; the second thread makes none."""
    made: list[object] = []
    second_asks = threading.Event()

    class Whole:
        @made_once
        def part(self) -> object:
            made.append(object())
            assert second_asks.wait(10)
            time.sleep(0.05)  # in which it would make one, too
            return made[-1]

    whole, got = Whole(), []
    first = threading.Thread(target=lambda: got.append(whole.part))
    first.start()
    assert soon(lambda: bool(made))
    second_asks.set()
    got.append(whole.part)
    first.join()
    assert got == 2 * made
    assert len(made) == 1


def test_a_function_that_exits_ends_no_renewal() -> None:
    """`sys.exit()` in an `on_lost` function stops the thread of nobody else's locks."""
    backend = MemoryBackend()
    with resilient.using(backend), resilient.lock("other", ttl=TTL) as other:
        told = threading.Event()

        def leave(lease: Any) -> None:
            told.set()
            sys.exit(1)

        with pytest.raises(LeaseLost), resilient.lock("k", ttl=TTL, on_lost=leave):
            lose(backend, "k")
            assert told.wait(10)
        until = other.deadline
        assert soon(lambda: other.deadline > until)
        assert not other.lost


def test_closing_a_backend_ends_no_renewal() -> None:
    """A lock that is held while its backend is closed is renewed all the same."""
    backend = MemoryBackend()
    with resilient.using(backend), resilient.lock("k", ttl=TTL) as lease:
        backend.close()
        until = lease.deadline
        assert soon(lambda: lease.deadline > until)
        assert not lease.lost


class SlowSource(MemorySignals):
    """A source of signals whose end is waited for until somebody lets it end."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.ended: list[bool] = []

    def stop(self) -> None:
        self.ended.append(self.may_end.wait(30))


def test_an_event_loop_goes_on_while_a_backend_is_closed() -> None:
    """What the threads still have to do is waited for by others."""
    source = SlowSource()
    backend = resilient.Backend("slow", locks=MemoryBackend().locks, source=source)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(source.may_end.set)
        await backend.aclose()

    asyncio.run(main())
    assert source.ended == [True]


def test_an_idle_process_keeps_two_connections(
    mode: Mode, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on which it listens, and one for its callers: what only the background used is closed."""
    monkeypatch.setattr(background, "LINGER", 1.2)

    async def body(number: int) -> int:
        return number

    with resilient.using(private_redis.url), private_redis.client() as client:
        call = mode.decorate(resilient.circuit_breaker("k:{number}"), body)
        mode.together(*[partial(call, number) for number in range(8)])

        def ours() -> int:
            return len(client.client_list()) - 1

        if mode.is_async:  # the background has one of its own, to report the calls
            assert soon(lambda: ours() > 2)
        assert soon(lambda: ours() == 2)
        assert mode.call(call, 1) == 1
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_loss_tells_why_nothing_was_renewed() -> None:
    """What the server answered to the renewals is the cause of the loss."""
    backend = MemoryBackend()
    store: Any = backend.locks

    async def refuses(*args: Any, **options: Any) -> bool:
        raise BackendError("NOPERM this user has no permissions", transient=False)

    store.renew = refuses
    with resilient.using(backend):
        with (
            pytest.raises(LeaseLost, match="NOPERM") as caught,
            resilient.lock("k", ttl=TTL) as lease,
        ):
            assert soon(lambda: lease.lost)
            lease.check()
        assert isinstance(caught.value.__cause__, BackendError)


def test_a_probe_that_fails_in_its_own_way_is_not_repeated_at_once() -> None:
    """A programming error in a probe waits for the next one, as an outage does."""
    backend = MemoryBackend()
    outage = Outage(backend)
    probes = []

    async def broken() -> None:
        probes.append(time.monotonic())
        raise ValueError("a programming error")

    assert outage.begin(broken)
    assert soon(lambda: len(probes) >= 2)
    time.sleep(0.1)
    assert len(probes) < 10
    backend.close()
