"""The memory backend beyond the conformance suite: its clock, atomicity, bounds, its queues."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilient.backends.memory import MemoryBackend, from_url
from resilient.engine.clock import ManualClock, installed
from resilient.engine.drivers.sync import drive
from resilient.engine.transactional import Transaction
from resilient.engine.transactional.lock_records import LOCKS, Holder, Lock
from resilient.errors import ConfigurationError
from resilient.protocols.checkpoints import Started
from resilient.protocols.locks import Grant, Held
from resilient.protocols.values import Encoded
from tests.support.forks import exit_code, forked
from tests.support.memory import acquire, release, size, store_of


@pytest.fixture(name="backend")
def _backend(clock: ManualClock) -> MemoryBackend:
    return MemoryBackend()


class Waiting:
    """A waiter that counts how often it is woken."""

    channel = ""

    def __init__(self, backend: MemoryBackend, name: str) -> None:
        self.id = name
        self.wakes = 0
        self.gift = ""
        backend.hub.add(self)
        backend.hub.start()

    def wake(self) -> None:
        self.wakes += 1


# --- the URL


def test_every_url_is_a_store_of_its_own() -> None:
    """Two backends made of one URL share nothing."""
    first, second = from_url("memory://", prefix="a:"), from_url("memory://", prefix="a:")
    acquire(first, "k", "ann")
    assert isinstance(acquire(second, "k", "bob"), Grant)


@pytest.mark.parametrize("url", ["memory://host", "memory://?size=5", "memory:///x"])
def test_url_says_too_much(url: str) -> None:
    """What a memory URL cannot mean is refused by name, never ignored."""
    with pytest.raises(ConfigurationError, match="memory"):
        from_url(url, prefix="")


# --- the clock


def test_goes_on_under_another_clock() -> None:
    """The store's time goes on from where it was when a test's clock takes over, and back."""
    backend = MemoryBackend()
    before = acquire(backend, "k", "ann")
    assert backend.locks is not None
    clock = ManualClock(start=5.0)
    with installed(clock):
        held = acquire(backend, "k", "bob")
        assert 29 < held.ttl <= 30
        clock.advance(31)
        assert acquire(backend, "k", "bob").fence > before.fence
    held = acquire(backend, "k", "cid")
    assert isinstance(held, Held)
    assert 29 < held.ttl <= 30


def test_fences_grow_while_the_clock_stands_still(backend: MemoryBackend) -> None:
    """Many grants in one tick of the clock, over releases and deletions, have growing fences."""
    fences = []
    for _ in range(100):
        fences.append(acquire(backend, "k", "ann").fence)
        release(backend, "k", "ann")
    jobs = backend.checkpoints
    assert jobs is not None
    for _ in range(100):
        started = drive(jobs.start("k", owner="ann", lease=30, ttl=60))
        assert isinstance(started, Started)
        fences.append(started.fence)
        assert drive(jobs.delete("k"))
    assert fences == sorted(set(fences))


# --- atomicity


def test_nothing_remains_of_what_failed(backend: MemoryBackend) -> None:
    """A transaction that raises has changed nothing, and has woken nobody."""
    acquire(backend, "kept", "ann")
    waiter = Waiting(backend, "w")

    def work(tx: Transaction) -> None:
        tx.put(LOCKS, "kept", Lock(1), ttl=5)
        tx.put(LOCKS, "new", Lock(1), ttl=5)
        tx.delete(LOCKS, "kept")
        tx.wake("w")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(store_of(backend).change(work))
    assert isinstance(acquire(backend, "kept", "cid"), Held)
    assert isinstance(acquire(backend, "new", "cid"), Grant)
    assert waiter.wakes == 0


def test_finaliser_inside_an_operation(backend: MemoryBackend) -> None:
    """A generator that the garbage collector closes in the middle of an operation may release."""
    acquire(backend, "other", "ann")

    def suspended() -> Iterator[None]:
        try:
            yield
        finally:
            release(backend, "other", "ann")

    generator = suspended()
    next(generator)
    garbage: list[Any] = [generator]
    garbage.append(garbage)  # only the collector finds it
    del generator, garbage

    done = threading.Event()

    def run() -> None:
        drive(store_of(backend).change(lambda tx: gc.collect()))
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(5), "the operation is stuck on its own lock"
    assert isinstance(acquire(backend, "other", "bob"), Grant)


def test_signals_are_sent_outside_of_the_lock(backend: MemoryBackend) -> None:
    """Whoever hears a signal may use the store, from any thread."""
    assert backend.cache is not None
    cache = backend.cache
    heard: list[str | None] = []

    def listener(message: str | None) -> None:
        heard.append(message)
        other = threading.Thread(target=lambda: drive(cache.get("k")))
        other.start()
        other.join(5)
        assert not other.is_alive()

    backend.hub.listen("cache", listener)
    drive(cache.delete("k"))
    drive(cache.invalidate_tags(["t"]))
    assert heard == ["k", "#t"]


# --- fork


@pytest.mark.process
def test_fork_while_another_thread_is_inside() -> None:
    """A child goes on with a copy of its own, also if the lock was held when it was forked."""
    backend = MemoryBackend()
    acquire(backend, "k", "ann")
    inside, leave = threading.Event(), threading.Event()

    def work(tx: Transaction) -> None:
        tx.put(LOCKS, "half", Lock(1, (Holder("ann", 1, tx.now, tx.now + 30),)), ttl=30)
        inside.set()
        leave.wait(10)

    thread = threading.Thread(target=lambda: drive(store_of(backend).change(work)))
    thread.start()
    inside.wait(10)

    def child() -> None:
        assert isinstance(acquire(backend, "k", "bob"), Held)
        assert isinstance(acquire(backend, "half", "bob"), Grant)
        assert release(backend, "k", "ann")

    pid = forked(child)
    leave.set()
    thread.join(10)
    assert exit_code(pid) == 0
    assert isinstance(acquire(backend, "k", "bob"), Held)


# --- nothing unbounded


def test_expired_entries_are_collected(backend: MemoryBackend, clock: ManualClock) -> None:
    """Entries that nobody asks for again go away by themselves, as new ones come."""
    cache = backend.cache
    assert cache is not None
    for number in range(20_000):
        drive(cache.set(f"k{number}", Encoded(b"x"), ttl=1))
        clock.advance(0.01)
    assert size(backend) < 500


def test_a_restless_key_takes_one_entry(backend: MemoryBackend) -> None:
    """Using one lock again and again leaves one entry."""
    for _ in range(1_000):
        acquire(backend, "k", "ann")
        release(backend, "k", "ann")
    assert size(backend) == 1


def test_registrations_are_bounded_and_expire(backend: MemoryBackend, clock: ManualClock) -> None:
    """However many wait and die, a lock remembers some hundreds of them, and not for long."""
    acquire(backend, "k", "ann")
    for number in range(2_000):
        acquire(backend, "k", f"o{number}", waiter=f"w{number}")
    lock = store_of(backend)._tables[LOCKS]["k"][0]
    assert len(lock.queue) == 500
    clock.advance(11)
    acquire(backend, "k", "zoe", waiter="zoe")
    lock = store_of(backend)._tables[LOCKS]["k"][0]
    assert [place.address for place in lock.queue] == ["zoe"]


# --- the queue of a lock


def test_the_longest_waiting_is_woken(backend: MemoryBackend) -> None:
    """A release wakes one waiter, in the order in which they came; looking again keeps a place."""
    waiters = [Waiting(backend, name) for name in ("a", "b", "c")]
    acquire(backend, "k", "ann")
    for waiter in waiters:
        acquire(backend, "k", waiter.id, waiter=waiter.id)
    acquire(backend, "k", "a", waiter="a")
    woken = []
    for owner in ("ann", "a", "b"):
        release(backend, "k", owner)
        (next_one,) = [w for w in waiters if w.wakes]
        next_one.wakes = 0
        woken.append(next_one.id)
        assert isinstance(acquire(backend, "k", next_one.id, waiter=next_one.id), Grant)
    assert woken == ["a", "b", "c"]


def test_an_unfair_release_wakes_who_has_waited_longest(backend: MemoryBackend) -> None:
    """Who was woken and found the lock taken by a newcomer is woken again the next time."""
    a, b = Waiting(backend, "a"), Waiting(backend, "b")
    acquire(backend, "k", "ann", fair=False)
    acquire(backend, "k", "a", waiter="a", fair=False)
    acquire(backend, "k", "b", waiter="b", fair=False)
    release(backend, "k", "ann", fair=False)
    assert (a.wakes, a.gift) == (1, "")
    assert isinstance(acquire(backend, "k", "newcomer", fair=False), Grant)
    assert isinstance(acquire(backend, "k", "a", waiter="a", fair=False), Held)
    release(backend, "k", "newcomer", fair=False)
    assert (a.wakes, b.wakes) == (2, 0)


def test_withdrawing_passes_the_wake_up_on(backend: MemoryBackend) -> None:
    """A wake-up that reached somebody who gives up goes on to the next."""
    a, b = Waiting(backend, "a"), Waiting(backend, "b")
    locks = backend.locks
    assert locks is not None
    acquire(backend, "k", "ann")
    acquire(backend, "k", "a", waiter="a")
    acquire(backend, "k", "b", waiter="b")
    release(backend, "k", "ann")
    assert (a.wakes, b.wakes) == (1, 0)
    drive(locks.withdraw("k", owner="a", waiter="a"))
    assert (a.wakes, b.wakes) == (1, 1)
    drive(locks.withdraw("k", owner="a", waiter="a"))
    assert (a.wakes, b.wakes) == (1, 1)


def test_withdrawing_gives_back_what_was_granted(backend: MemoryBackend) -> None:
    """A grant that crossed the withdrawal is released, and the next waiter woken."""
    b = Waiting(backend, "b")
    locks = backend.locks
    assert locks is not None
    acquire(backend, "k", "a")
    acquire(backend, "k", "b", waiter="b")
    drive(locks.withdraw("k", owner="a", waiter="a"))
    held = drive(locks.holder("k"))
    assert held is not None
    assert (held.owner, b.wakes, b.gift) == ("b", 1, str(held.fence))
