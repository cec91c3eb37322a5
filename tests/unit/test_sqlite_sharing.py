"""What the processes of one SQLite file share: a clock, ticks and signals."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend
from resilient.backends.sqlite import clock as sqlite_clock
from resilient.engine.clock import ManualClock, SystemClock, installed
from resilient.engine.drivers.sync import drive
from resilient.engine.transactional import Transaction
from resilient.protocols.locks import Held
from tests.support.sqlite import acquire, change, count, release, threads
from tests.support.waiting import until


class Waiting:
    """A waiter that tells when it was woken."""

    channel = ""

    def __init__(self, backend: SqliteBackend, name: str) -> None:
        self.id = name
        self.event = threading.Event()
        backend.hub.add(self)
        backend.hub.start()

    def wake(self) -> None:
        self.event.set()


def now(backend: SqliteBackend) -> float:
    """The store's time."""
    seconds: float = change(backend, lambda tx: tx.now)
    return seconds


# --- the clock


def test_starts_as_the_time_of_day(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """A new file's time is that of the wall, and the same for all."""
    assert now(pair[0]) == pytest.approx(time.time(), abs=0.5)
    assert now(pair[1]) == pytest.approx(now(pair[0]), abs=0.1)


@pytest.mark.parametrize("step", [-86_400.0, 86_400.0])
def test_steps_of_the_wall_clock_move_nothing(
    path: Path, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease lives as long as it should whatever becomes of the time of day meanwhile."""
    backend = SqliteBackend(path)
    acquire(backend, "k")
    before = now(backend)
    wall = time.time
    monkeypatch.setattr(SystemClock, "wall", staticmethod(lambda: wall() + step))
    late = SqliteBackend(path)
    for each in (backend, late):
        held = acquire(each, "k", "bob")
        assert 25 < held.ttl <= 30
        assert now(each) == pytest.approx(before, abs=2)
        each.close()


@pytest.mark.parametrize("step", [-1_000_000.0, 0.0, 1_000.0])
def test_goes_on_after_a_reboot(path: Path, step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reboot, time and fences go on from where they were, also if the wall went back."""
    backend = SqliteBackend(path)
    fence = acquire(backend, "k").fence
    release(backend, "k")
    before = now(backend)
    backend.close()
    wall = time.time
    monkeypatch.setattr(sqlite_clock, "boot_id", lambda: "the next boot")
    monkeypatch.setattr(SystemClock, "wall", staticmethod(lambda: wall() + step))
    monkeypatch.setattr(SystemClock, "now", staticmethod(lambda: time.monotonic() % 100))
    with installed(SystemClock()):
        backend = SqliteBackend(path)
        assert now(backend) >= fence / 1e6
        assert now(backend) >= before + max(0.0, step - 1)
        assert acquire(backend, "k").fence > fence
        backend.close()


def test_ticks_of_all_processes_grow(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """Whoever draws, each tick is larger than the one before."""
    ticks = []
    for _ in range(200):
        for backend in pair:
            ticks += change(backend, lambda tx: [tx.tick(), tx.tick()])
    assert ticks == sorted(set(ticks))


def test_ticks_grow_while_a_clock_stands_still(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """On a test's clock as well, which does not move by itself; and when it is gone again."""
    ticks = change(pair[0], lambda tx: [tx.tick()])
    with installed(ManualClock()):
        for _ in range(20):
            for backend in pair:
                ticks += change(backend, lambda tx: [tx.tick(), tx.tick()])
    for backend in pair:
        ticks += change(backend, lambda tx: [tx.tick()])
    assert ticks == sorted(set(ticks))


def test_what_was_reserved_in_vain(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """A transaction that fails takes its ticks back, and the next ones still grow."""

    def fail(tx: Transaction) -> None:
        tx.tick()
        raise ZeroDivisionError

    ticks = []
    for backend in pair * 3:
        with pytest.raises(ZeroDivisionError):
            change(backend, fail)
        ticks.append(change(backend, lambda tx: tx.tick()))
    assert ticks == sorted(set(ticks))


# --- signals


def test_the_thread_runs_only_for_somebody(
    pair: tuple[SqliteBackend, SqliteBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first waiter starts the thread; it ends a while after the last."""
    monkeypatch.setattr("resilient.backends.sqlite.signals.LINGER", 0.05)
    before = threads()
    acquire(pair[0], "k")
    assert threads() == before
    for _ in range(2):
        waiter = Waiting(pair[0], "w")
        assert pair[0].hub.is_listening
        time.sleep(0.15)
        assert len(threads()) == len(before) + 1
        del waiter
        until(lambda: threads() == before)
        assert not pair[0].hub.is_listening


def test_woken_by_another_process(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """A release elsewhere wakes the one waiter that is meant, and no other."""
    here, there = pair
    first, second = Waiting(here, "1"), Waiting(here, "2")
    acquire(there, "k")
    for waiter in (first, second):
        held = acquire(here, "k", waiter.id, waiter=here.hub.address(waiter))
        assert isinstance(held, Held)
    release(there, "k")
    assert first.event.wait(5)
    time.sleep(0.05)
    assert not second.event.is_set()


def test_woken_at_once_in_the_same_process(
    pair: tuple[SqliteBackend, SqliteBackend], path: Path
) -> None:
    """A waiter of the same backend is awake when the release returns; nothing is written down."""
    backend = pair[0]
    waiter = Waiting(backend, "w")
    acquire(backend, "k")
    acquire(backend, "k", "bob", waiter=backend.hub.address(waiter))
    release(backend, "k")
    assert waiter.event.is_set()
    assert count(path, "event") == 0


def test_broadcasts_are_heard_once(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """One's own at once, another's soon, both exactly once; from before nothing."""
    heard: dict[int, list[str | None]] = {0: [], 1: []}
    caches: list[Any] = [backend.cache for backend in pair]
    drive(caches[0].delete("before"))
    for number, backend in enumerate(pair):
        backend.hub.listen("cache", heard[number].append)
    drive(caches[0].delete("a"))
    assert heard[0] == ["a"]
    until(lambda: heard[1] == ["a"])
    drive(caches[1].invalidate_tags(["t"]))
    assert heard[1] == ["a", "#t"]
    until(lambda: heard[0] == ["a", "#t"])
    time.sleep(0.1)
    assert heard == {0: ["a", "#t"], 1: ["a", "#t"]}


def test_tenants_hear_nothing_of_each_other(path: Path) -> None:
    """Broadcasts stay within a prefix."""
    mine, theirs = SqliteBackend(path, prefix="a:"), SqliteBackend(path, prefix="b:")
    same = SqliteBackend(path, prefix="a:")
    heard: list[str | None] = []
    mine.hub.listen("cache", heard.append)
    caches: list[Any] = [theirs.cache, same.cache]
    for cache, key in zip(caches, "xy", strict=True):
        drive(cache.delete(key))
    until(lambda: bool(heard))
    time.sleep(0.05)
    assert heard == ["y"]
    for backend in (mine, theirs, same):
        backend.close()


def test_a_gap_is_told(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """Whoever was too slow to hear everything hears that, and every waiter looks again."""
    here, there = pair
    heard: list[str | None] = []
    here.hub.listen("cache", heard.append)
    waiter = Waiting(here, "w")
    signals: Any = here._transport._signals

    def flood(tx: Transaction) -> None:
        for number in range(1_000):
            tx.publish("cache", f"{number}")

    with signals._lock:  # it is not looking
        for _ in range(6):
            change(there, flood)
    until(lambda: bool(heard) and heard[-1] == "999")
    assert heard[0] is None
    assert heard.count(None) == 1
    assert waiter.event.is_set()


def test_another_file_is_a_gap(pair: tuple[SqliteBackend, SqliteBackend], path: Path) -> None:
    """When the file is replaced, listeners are told that they know nothing any more."""
    here, there = pair
    heard: list[str | None] = []
    here.hub.listen("cache", heard.append)
    acquire(there, "k")
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        path.with_name(name).unlink()
    until(lambda: None in heard)
    cache: Any = there.cache
    drive(cache.delete("a"))
    until(lambda: heard[-1] == "a")


def test_listening_again_after_a_stop(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """What listeners missed while the source was stopped, they are told that they missed."""
    here, there = pair
    heard: list[str | None] = []
    here.hub.listen("cache", heard.append)
    here.close()
    cache: Any = there.cache
    drive(cache.delete("missed"))
    here.hub.start()
    assert heard == [None]
    drive(cache.delete("a"))
    until(lambda: heard == [None, "a"])


def test_a_listener_that_fails_ends_nothing(
    pair: tuple[SqliteBackend, SqliteBackend], caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in a listener is logged; later signals are still heard."""
    here, there = pair
    heard: list[str | None] = []

    def listener(message: str | None) -> None:
        heard.append(message)
        if message == "bad":
            raise ZeroDivisionError

    here.hub.listen("cache", listener)
    cache: Any = there.cache
    drive(cache.delete("bad"))
    until(lambda: heard == ["bad"])
    drive(cache.delete("good"))
    until(lambda: heard == ["bad", "good"])
    assert "ZeroDivisionError" in caplog.text


def test_an_error_that_nobody_foresaw_ends_nothing(
    pair: tuple[SqliteBackend, SqliteBackend],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is logged, everybody looks by itself meanwhile, and later signals are heard again."""
    monkeypatch.setattr("resilient.backends.sqlite.signals.TROUBLE", 0.01)
    here, there = pair
    heard: list[str | None] = []
    here.hub.listen("cache", heard.append)
    signals: Any = here._transport._signals
    with monkeypatch.context() as broken:
        broken.setattr(signals, "_look", lambda: 1 / 0)
        waiter = Waiting(here, "w")
        until(waiter.event.is_set)
        assert None in heard
    cache: Any = there.cache
    drive(cache.delete("a"))
    until(lambda: heard[-1] == "a")
    assert "ZeroDivisionError" in caplog.text
