"""A thread that waits may read what wakes it, while the listening thread rests."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from resilient.engine import listener
from resilient.engine.drivers.sync import Flag, ThreadWaiter
from resilient.engine.signals import Hub
from resilient.errors import BackendError
from tests.support.listening import Source
from tests.support.waiting import soon

LONG = 600.0
"""Seconds that no test waits."""


class Watched(Source):
    """One that notes on which thread it hears what."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[tuple[str, threading.Thread]] = []

    def heard(self, channel: str, message: str | None) -> None:
        if channel != self.own_name():
            self.threads.append((channel, threading.current_thread()))
        super().heard(channel, message)

    def named(self, message: str) -> None:
        self.threads.append((self.own_name(), threading.current_thread()))
        super().named(message)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """One that comes back soon after a loss, and rests until it is called."""
    monkeypatch.setattr(listener, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(listener, "REST", LONG)
    monkeypatch.setattr(listener, "NAP", LONG)
    source = Watched()
    yield source
    source.stop()


@pytest.fixture
def hub(source: Watched) -> Hub:
    """Its hub."""
    hub = Hub(source)
    hub.start()
    return hub


def one_who_waits(hub: Hub) -> ThreadWaiter:
    """A waiter of a thread."""
    waiter = ThreadWaiter(hub)
    hub.add(waiter)
    return waiter


def rested(source: Watched, hub: Hub) -> listener.Listener:
    """The listening thread, which has woken a thread that could have read, and rests."""
    waiter = one_who_waits(hub)
    thread = threading.Thread(target=waiter.event.wait, args=(LONG,))
    thread.start()
    found = source._listener
    assert found is not None
    assert soon(lambda: found._is_relieved)
    source.arriving.put((source.own_name(), waiter.id))
    thread.join()
    assert soon(lambda: found.is_resting)
    source.threads.clear()
    return found


def test_who_waits_again_reads(source: Watched, hub: Hub) -> None:
    """The first wait is served by the listening thread; what wakes the next one it reads itself."""
    rested(source, hub)
    for _ in range(3):
        waiter = one_who_waits(hub)
        source.arriving.put((source.own_name(), f"{waiter.id}=7"))
        assert waiter.event.wait(LONG)
        assert waiter.gift == "7"
        del waiter
    assert source.threads == [(source.own_name(), threading.current_thread())] * 3


def test_the_thread_reads_again_once_nobody_does(
    source: Watched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment, whether somebody has read in its place or not."""
    monkeypatch.setattr(listener, "REST", 0.01)
    heard: list[str | None] = []
    hub.listen("cache", heard.append)
    found = source._listener
    assert found is not None
    for number in range(3):
        waiter = one_who_waits(hub)
        source.arriving.put((source.own_name(), waiter.id))
        assert waiter.event.wait(LONG)
        del waiter
        source.arriving.put(("cache", str(number)))
        assert soon(lambda: heard[-1:] == [str(number)])  # noqa: B023 - called at once


def test_nobody_elses_code_runs_in_a_thread_that_waits(source: Watched, hub: Hub) -> None:
    """What everybody hears is left to the listening thread, in its order."""
    heard: list[str | None] = []
    hub.listen("cache", heard.append)
    found = rested(source, hub)
    waiter = one_who_waits(hub)
    for number in range(3):
        source.arriving.put(("cache", str(number)))
    source.arriving.put((source.own_name(), waiter.id))
    assert waiter.event.wait(LONG)
    assert soon(lambda: heard == ["0", "1", "2"])
    assert {thread for channel, thread in source.threads if channel == "cache"} == {found}


def test_who_stays_behind_is_woken_too(source: Watched, hub: Hub) -> None:
    """When the one that reads leaves, the listening thread reads for all the others."""
    found = rested(source, hub)
    first, second = one_who_waits(hub), one_who_waits(hub)
    woken = threading.Event()

    def wait() -> None:
        assert second.event.wait(LONG)
        woken.set()

    thread = threading.Thread(target=wait)
    source.arriving.put((source.own_name(), first.id))
    assert first.event.wait(LONG)
    thread.start()
    assert soon(lambda: not found.is_resting)
    source.arriving.put((source.own_name(), second.id))
    assert woken.wait(LONG)
    thread.join()


def test_who_leaves_looks_back_once_it_has_let_go(
    source: Watched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes in that moment reads by itself, or is seen: nobody waits unread for."""
    found = rested(source, hub)
    was_held: list[bool] = []

    def is_lonely(_: Watched) -> bool:
        was_held.append(found._reading.locked())
        return True

    waiter = one_who_waits(hub)
    with monkeypatch.context() as watched:
        watched.setattr(Watched, "is_lonely", property(is_lonely))
        source.arriving.put((source.own_name(), waiter.id))
        assert waiter.event.wait(LONG)
    assert was_held == [False]


def test_who_reads_is_woken_by_other_threads(source: Watched, hub: Hub) -> None:
    """The flag may be set by whoever ends the wait, not only by what is read."""
    rested(source, hub)
    waiter = one_who_waits(hub)

    def wake() -> None:
        assert soon(lambda: waiter.event.bell is not None)
        waiter.wake()

    thread = threading.Thread(target=wake)
    thread.start()
    assert waiter.event.wait(LONG)
    thread.join()
    assert source.threads == []


def test_a_call_takes_the_reading_back(source: Watched, hub: Hub) -> None:
    """Whoever wants to hear something new needs the thread itself."""
    found = rested(source, hub)
    waiter = one_who_waits(hub)
    thread = threading.Thread(target=waiter.event.wait, args=(LONG,))
    thread.start()
    assert soon(lambda: waiter.event.bell is not None)
    heard: list[str | None] = []
    hub.listen("cache", heard.append)
    assert not found.is_resting
    source.arriving.put((source.own_name(), waiter.id))
    source.arriving.put(("cache", "k"))
    thread.join()
    assert soon(lambda: heard == ["k"])


def test_a_task_that_waits_takes_the_reading_back(source: Watched, hub: Hub) -> None:
    """It cannot read by itself, and is woken at once."""
    found = rested(source, hub)
    hub.attend()
    assert not found.is_resting
    waiter = ThreadWaiter()
    hub.add(waiter)
    source.arriving.put((source.own_name(), waiter.id))
    assert waiter.event.wait(LONG)


def test_a_loss_while_another_thread_reads(source: Watched, hub: Hub) -> None:
    """The listening thread connects anew, and wakes everybody: something may have been missed."""
    heard: list[str | None] = []
    hub.listen("cache", heard.append, doubts=True)
    rested(source, hub)
    waiter = one_who_waits(hub)
    source.arriving.put(BackendError("gone", transient=True))
    assert waiter.event.wait(LONG)
    assert soon(lambda: heard == [None, None])  # as soon as it is lost, and once it is back


def test_an_interrupt_while_it_reads(source: Watched, hub: Hub) -> None:
    """It goes to the thread that is interrupted; what it may have read is not believed heard."""
    heard: list[str | None] = []
    hub.listen("cache", heard.append, doubts=True)
    rested(source, hub)
    waiter = one_who_waits(hub)
    source.arriving.put(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        waiter.event.wait(LONG)
    assert soon(lambda: heard == [None, None])


def test_a_thread_that_never_comes_back(
    source: Watched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not keep the others from hearing: another connection is opened."""
    monkeypatch.setattr(listener, "REST", 0.01)
    monkeypatch.setattr(listener, "GRACE", 0.05)
    heard: list[str | None] = []
    hub.listen("cache", heard.append, doubts=True)
    found = source._listener
    assert found is not None
    found._is_relieved = True
    source.arriving.put((source.own_name(), "nobody"))
    given_up = found.subscription
    assert soon(lambda: found._reading.acquire(blocking=False))
    assert soon(lambda: heard == [None, None])
    source.arriving.put(("cache", "k"))
    assert soon(lambda: heard[2:] == ["k"])
    given_up.bell.close()


def test_a_thread_that_comes_back_late(
    source: Watched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler has kept it: it reads no more, and the others hear on."""
    monkeypatch.setattr(listener, "REST", 0.01)
    monkeypatch.setattr(listener, "NAP", 0.01)
    monkeypatch.setattr(listener, "GRACE", 0.05)
    heard: list[str | None] = []
    found = source._listener
    assert found is not None
    found._is_relieved = True
    source.arriving.put((source.own_name(), "nobody"))
    assert soon(lambda: found.is_resting)
    hub.enlist("cache", heard.append, doubts=True)
    with handled(lambda: soon(lambda: heard == [None, None])):
        assert one_who_waits(hub).event.wait(0.02)  # something may have been missed
    source.arriving.put(("cache", "k"))
    assert soon(lambda: heard == [None, None, "k"])
    assert found.is_alive()


@contextmanager
def handled(during: Callable[[], object]) -> Iterator[None]:
    """The main thread has a signal to handle, soon, for as long as that takes."""
    before = signal.signal(signal.SIGUSR1, lambda *_: during())
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.005, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_who_reads_is_not_given_up_because_the_process_stood_still(
    source: Watched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGSTOP and SIGCONT its time is over too; but it has not been its turn yet."""
    monkeypatch.setattr(listener, "REST", 0.01)
    monkeypatch.setattr(listener, "NAP", 0.01)
    stood_still, looks = 0.0, 0

    def monotonic() -> float:
        nonlocal looks
        looks += threading.current_thread() is found
        return time.monotonic() + stood_still

    heard: list[str | None] = []
    hub.listen("cache", heard.append, doubts=True)
    found = source._listener
    assert found is not None
    monkeypatch.setattr(listener, "time", SimpleNamespace(monotonic=monotonic))
    found._is_relieved = True
    source.arriving.put((source.own_name(), "nobody"))
    assert soon(lambda: found._reading.acquire(blocking=False))  # as who reads, and is read for
    found._reads_until = monotonic() + LONG
    stood_still, looks = 2 * LONG, 0
    assert soon(lambda: looks > 5)
    found._reading.release()
    source.arriving.put(("cache", "k"))
    assert soon(lambda: bool(heard))
    assert heard == ["k"]


def test_who_reads_for_a_moment_comes_back(
    source: Watched, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the listening thread looks, the last one's time is over; but it has left."""
    monkeypatch.setattr(listener, "REST", 0.01)
    monkeypatch.setattr(listener, "GRACE", 0.05)
    heard: list[str | None] = []
    hub.listen("cache", heard.append, doubts=True)
    found = source._listener
    assert found is not None
    found._is_relieved = True
    source.arriving.put((source.own_name(), "nobody"))
    assert soon(lambda: found.is_resting)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        one_who_waits(hub).event.wait(0.001)
        time.sleep(0.005)  # so that mostly nobody reads
    assert not heard


class Cleared(threading.Event):
    """Something happens as it is cleared: another thread sets it, and that is lost."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens: Callable[[], object] | None = happens
        self.other = threading.Thread(target=happens)
        self.set()
        self.sets = 0

    def set(self) -> None:
        super().set()
        self.sets = 1

    def clear(self) -> None:
        if not self.other.ident:
            self.other.start()
            assert soon(lambda: self.sets > 0)
        super().clear()


@pytest.mark.parametrize("what", ["listen", "stop"])
def test_a_call_as_the_thread_lies_down_is_not_lost(source: Watched, hub: Hub, what: str) -> None:
    """It comes when the thread has decided to rest, and nobody can see yet that it does."""
    heard: list[str | None] = []
    found = source._listener
    assert found is not None
    called = Cleared(source.stop if what == "stop" else lambda: hub.listen("cache", heard.append))
    found._called = called
    found._is_relieved = True
    source.arriving.put((source.own_name(), "nobody"))
    assert soon(lambda: bool(called.other.ident))
    called.other.join(LONG)
    source.arriving.put(("cache", "k"))
    assert soon(lambda: heard == ["k"] if what == "listen" else not found.is_alive())


def test_without_a_source_a_flag_is_only_waited_for() -> None:
    """Of the hub of a backend in memory nothing is read."""
    flag = Flag(Hub())
    assert not flag.wait(0.001)
    flag.set()
    assert flag.wait(LONG)
