"""The listening thread: whatever happens to it, nobody trusts in hearing what is not heard."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import resilient
from resilient import LocalCache, cached
from resilient.engine import listener
from resilient.engine.drivers.sync import ThreadWaiter, drive
from resilient.engine.nearby import Nearby
from resilient.engine.signals import Hub, Listener
from tests.support.fixtures import Target
from tests.support.listening import Source
from tests.support.modes import Mode
from tests.support.waiting import soon


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """One that comes back soon."""
    monkeypatch.setattr(listener, "LONGEST_PAUSE", 0.01)
    source = Source()
    yield source
    source.stop()


def test_an_error_that_nobody_has_thought_of(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, told like a loss of the connection, and what comes then is heard again."""
    heard: list[str | None] = []
    hub = Hub(source)
    hub.listen("cache", heard.append, doubts=True)
    with caplog.at_level(logging.ERROR, "resilient"):
        source.arriving.put(ValueError("what is this?"))
        assert soon(lambda: len(heard) == 2)
    assert heard == [None, None]  # as soon as it is lost, and once it is back
    assert "what is this?" in caplog.text
    source.arriving.put(("cache", "k"))
    assert soon(lambda: heard[2:] == ["k"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_the_thread_is_told(source: Source) -> None:
    """Even if the thread itself ends, nobody trusts in it; who listens next is told of a gap."""
    heard: list[str | None] = []
    hub = Hub(source)
    hub.listen("cache", heard.append, doubts=True)
    listener = source._listener
    assert listener is not None
    source.arriving.put(SystemExit())
    assert soon(lambda: heard == [None])
    listener.join(30)  # else pytest might tell the next test of its end
    assert not hub.is_listening
    hub.start()
    assert soon(lambda: heard == [None, None])


def test_a_waiter_that_cannot_be_woken(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    """It harms neither the other waiters nor the thread."""

    class Faulty(ThreadWaiter):
        def wake(self) -> None:
            raise RuntimeError("a waiter's own fault")

    heard: list[str | None] = []
    hub, faulty, waiter = Hub(source), Faulty(), ThreadWaiter()
    hub.add(faulty)
    hub.add(waiter)
    hub.listen("cache", heard.append, doubts=True)
    with caplog.at_level(logging.ERROR, "resilient"):
        [own] = source.channels() - {"cache"}
        source.arriving.put((own, f"{faulty.id} {waiter.id}"))
        assert waiter.event.wait(10)
        source.arriving.put(("cache", "k"))
        assert soon(lambda: heard)
    assert heard == ["k"]
    assert "a waiter's own fault" in caplog.text


def test_who_stops_listening_misses_something(source: Source) -> None:
    """Those who trust in hearing are told at once, and everybody once something is heard again."""
    trusting: list[str | None] = []
    heard: list[str | None] = []
    hub = Hub(source)
    hub.listen("cache", trusting.append, doubts=True)
    hub.listen("circuits", heard.append)
    hub.stop()
    assert (trusting, heard) == ([None], [])
    hub.start()
    assert soon(lambda: (trusting, heard) == ([None, None], [None]))


def test_nothing_is_trusted_before_its_changes_are_heard(source: Source) -> None:
    """Where others listen already, values at hand are kept only once theirs are listened to."""
    watched: list[bool] = []

    class Asked(Hub):
        def enlist(self, channel: str, listener: Listener, *, doubts: bool = False) -> None:
            watched.append(nearby.is_watching)
            super().enlist(channel, listener, doubts=doubts)

    hub = Asked(source)
    nearby = Nearby(hub)
    nearby.keeps = True
    hub.start()
    assert hub.is_listening
    nearby.send(None)
    assert watched == [False]
    assert nearby.is_watching


@pytest.mark.parametrize("every_target", ["sqlite", "redis"], indirect=True)
def test_where_no_thread_can_be_started(
    every_target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits looks by itself, and it is tried again: it listens once there can be threads."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with resilient.using(every_target.url, prefix=every_target.prefix) as backend:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refused)
            with pytest.raises(resilient.BackendError, match="can't start new thread"):
                backend.hub.start()
            assert not backend.hub.is_listening
        backend.hub.start()
        assert backend.hub.is_listening


@pytest.mark.parametrize("every_target", ["sqlite", "redis"], indirect=True)
def test_to_listen_waits_for_nothing_in_a_loops_own_executor(every_target: Target) -> None:
    """Tasks begin to wait, and to cache, while the user's work keeps all its threads busy."""
    over = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as executor:
            loop.set_default_executor(executor)
            busy = loop.run_in_executor(None, over.wait)
            loop.call_later(60, over.set)  # else a failure would hang
            async with resilient.lock("k", ttl=30):
                with pytest.raises(resilient.LockNotAcquired):
                    async with resilient.lock("k", wait=0.01):
                        pass
            await cached("{n}", ttl=60)(answer)(1)
            assert not over.is_set()
            over.set()
            await busy

    async def answer(n: int) -> int:
        return n

    with resilient.using(every_target.url, prefix=every_target.prefix) as backend:

        async def all_of_it() -> None:
            await main()
            await backend.aclose()

        asyncio.run(all_of_it())


@pytest.mark.parametrize("every_target", ["sqlite", "redis", "postgres", "mongodb"], indirect=True)
def test_no_value_at_hand_survives_a_close(mode: Mode, every_target: Target) -> None:
    """A backend that was closed and is used again serves nothing invalidated meanwhile."""
    source = ["old"]

    async def f(n: int) -> str:
        return source[0]

    url, prefix = every_target.url, every_target.prefix
    with resilient.using(url, prefix=prefix) as other, resilient.using(url, prefix=prefix) as own:
        options: dict[str, Any] = {"ttl": 600, "local": LocalCache(ttl=600)}
        read = mode.decorate(cached("{n}", namespace="f", backend_timeout="10s", **options), f)
        assert [mode.call(read, 1), mode.call(read, 1)] == ["old", "old"]
        assert cached.of(read).stats().local_size == 1
        mode.call(own.aclose if mode.is_async else own.close)
        drive(other.require("cache").delete(cached.of(read).key(1)))
        source[0] = "new"
        assert mode.call(read, 1) == "new"
        mode.call(read, 2)  # it listens again
        assert mode.call(read, 1) == "new"
        if mode.is_async:
            mode.call(own.aclose)
