"""The SQLite backend: waiting for others, transactions, what is collected, event loops, closing."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend
from resilient.backends.sqlite.transaction import successor
from resilient.engine import chance
from resilient.engine.clock import ManualClock, installed
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.transactional import Transaction
from resilient.engine.transactional.lock_records import LOCKS, Holder, Lock
from resilient.errors import BackendError
from resilient.protocols.locks import Grant, Held
from resilient.protocols.values import Encoded
from tests.support.sqlite import acquire, change, count, open_files, threads


@pytest.fixture(name="backend")
def _backend(path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(path)
    yield backend
    backend.close()


def begin(backend: SqliteBackend, job: str, owner: str = "ann", ttl: float = 1) -> Any:
    """Run a job for a second."""
    assert backend.checkpoints is not None
    return drive(backend.checkpoints.start(job, owner=owner, lease=1, ttl=ttl))


def test_nothing_happens_before_the_first_operation(path: Path) -> None:
    """Making a backend opens no file and starts no thread."""
    before = threads()
    backend = SqliteBackend(path)
    assert not path.exists()
    assert threads() == before
    backend.close()
    assert not path.exists()


# --- being kept waiting


@pytest.fixture(name="stubborn")
def _stubborn(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, as far as locks go: it writes and does not end."""
    acquire(starter := SqliteBackend(path), "k")
    starter.close()
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_locked_for_too_long(path: Path, stubborn: sqlite3.Connection) -> None:
    """A writer that never ends is a transient `BackendError` after the time-out; reads go on."""
    backend = SqliteBackend(path, timeout=0.2)
    began = time.monotonic()
    with pytest.raises(BackendError, match=r"state\.db was locked.*0\.2 seconds") as caught:
        acquire(backend, "new")
    assert 0.2 <= time.monotonic() - began < 2
    assert caught.value.transient
    assert backend.locks is not None
    assert isinstance(drive(backend.locks.holder("k")), Held)
    backend.close()


def test_locked_for_a_while(path: Path, stubborn: sqlite3.Connection) -> None:
    """A writer that ends is waited for."""
    backend = SqliteBackend(path)
    timer = threading.Timer(0.1, stubborn.execute, ("ROLLBACK",))
    timer.start()
    assert isinstance(acquire(backend, "new"), Grant)
    timer.join()
    backend.close()


def test_readers_do_not_wait_behind_writers(path: Path, stubborn: sqlite3.Connection) -> None:
    """In an event loop too, a hit is answered while writes wait for another process."""
    backend = SqliteBackend(path, timeout=30)
    assert backend.locks is not None
    locks = backend.locks

    async def main() -> None:
        writes = [
            asyncio.ensure_future(adrive(locks.acquire(f"n{n}", ttl=1, owner="ann")))
            for n in range(5)
        ]
        await asyncio.sleep(0.05)
        for _ in range(10):
            assert await adrive(locks.holder("k")) is not None
        assert not any(write.done() for write in writes)
        stubborn.execute("ROLLBACK")
        assert all(isinstance(grant, Grant) for grant in await asyncio.gather(*writes))

    asyncio.run(main())
    backend.close()


# --- transactions


def test_nothing_remains_of_what_failed(backend: SqliteBackend, path: Path) -> None:
    """A transaction that raises has changed nothing, told nobody, and the next one works."""
    first = acquire(backend, "kept")

    def work(tx: Transaction) -> None:
        tx.tick()
        tx.put(LOCKS, "new", Lock(1), ttl=5)
        tx.delete(LOCKS, "kept")
        tx.publish("cache", "k")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change(backend, work)
    assert isinstance(acquire(backend, "kept", "bob"), Held)
    assert acquire(backend, "new", "bob").fence > first.fence
    assert count(path, "event") == 0


def test_a_transaction_reads_its_own_writes(backend: SqliteBackend) -> None:
    """What was put is there, what was deleted is not, in order and with bounds."""

    def work(tx: Transaction) -> list[list[str]]:
        keys = ["a", "a:1", "a:2", "a\U0010ffff", "a\U0010ffffz", "b", "", "é", "\ud7ff"]
        for key in keys:
            tx.put(LOCKS, key, Lock(1), ttl=5)
        tx.put(LOCKS, "expired", Lock(1), ttl=0)
        tx.delete(LOCKS, "a:1")
        assert tx.get(LOCKS, "a:1") is None
        scans: list[Any] = [
            tx.scan(LOCKS),
            tx.scan(LOCKS, "a"),
            tx.scan(LOCKS, "a:"),
            tx.scan(LOCKS, "a\U0010ffff"),
            tx.scan(LOCKS, after="a"),
            tx.scan(LOCKS, after="", limit=2),
        ]
        return [[key for key, _ in scan] for scan in scans]

    everything = ["", "a", "a:2", "a\U0010ffff", "a\U0010ffffz", "b", "é", "\ud7ff"]
    assert change(backend, work) == [
        everything,
        everything[1:5],
        ["a:2"],
        everything[3:5],
        everything[2:],
        ["a", "a:2"],
    ]


def test_successor() -> None:
    """The first text after a prefix's, over the gap of the surrogates and the last code point."""
    assert successor("a:") == "a;"
    assert successor("\ud7ff") == "\ue000"
    assert successor("b\U0010ffff") == "c"
    assert successor("\U0010ffff") is None
    assert successor("") is None


def test_finaliser_inside_a_transaction(backend: SqliteBackend) -> None:
    """A generator that the garbage collector closes inside a transaction may release."""
    acquire(backend, "other")
    assert backend.locks is not None
    locks = backend.locks

    def suspended() -> Iterator[None]:
        try:
            yield
        finally:
            drive(locks.release("other", owner="ann"))

    generator = suspended()
    next(generator)
    garbage: list[Any] = [generator]
    garbage.append(garbage)  # only the collector finds it
    del generator, garbage
    began = time.monotonic()
    change(backend, lambda tx: gc.collect())
    assert time.monotonic() - began < 5
    assert isinstance(acquire(backend, "other", "bob"), Grant)


def test_many_threads(backend: SqliteBackend) -> None:
    """Threads share a few connections, and lose nothing."""
    cache = backend.cache
    assert cache is not None

    def work(name: str) -> None:
        for number in range(25):
            drive(cache.set(f"{name}.{number}", Encoded(b"x"), ttl=60))
            assert drive(cache.get(f"{name}.{number}")) is not None

    running = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(16)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(drive(cache.keys())) == 16 * 25
    assert len(backend._transport._database._idle) <= 4


# --- nothing unbounded


def test_expired_rows_are_collected(path: Path) -> None:
    """Rows that nobody asks for again go away by themselves, as new ones come."""
    clock = ManualClock()
    with installed(clock):
        backend = SqliteBackend(path)
        cache = backend.cache
        assert cache is not None
        drive(cache.set("stays", Encoded(b"x"), ttl=1_000_000))
        for number in range(3_000):
            drive(cache.set(f"k{number}", Encoded(b"x"), ttl=1))
            clock.advance(0.01)
        backend.close()
        assert count(path, "record") < 1_500
        assert drive(cache.has("stays"))
        backend.close()


def test_expired_rows_in_the_order_of_keys_are_collected(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do those that lie in the order of their keys: of all tenants, and what lives stays."""
    monkeypatch.setattr(chance, "random", partial(next, cycle([0.0, *[0.5] * 63])))
    clock = ManualClock()
    with installed(clock):
        backends = [SqliteBackend(path, prefix=prefix) for prefix in ("", "b:")]
        for turn in range(1_000):
            for backend in backends:
                ttl = 1_000_000 if turn == 700 else 1
                begin(backend, f"job{turn}", ttl=ttl)
            clock.advance(0.01)
        assert count(path, "clustered") < 1_000
        for backend in backends:
            assert begin(backend, "job700", "bob").attempt == 2
            backend.close()


def test_signals_are_trimmed(backend: SqliteBackend, path: Path) -> None:
    """Whatever is published, some thousands of signals are kept."""

    def work(tx: Transaction) -> None:
        for number in range(1_000):
            tx.publish("cache", f"k{number}")

    for _ in range(10):
        change(backend, work)
    assert count(path, "event") <= 3_000


# --- event loops and closing


def test_a_cancelled_caller_hears_of_it_when_the_answer_is_there(backend: SqliteBackend) -> None:
    """The command under way is finished before its caller is cancelled."""
    assert backend.locks is not None
    locks = backend.locks
    inside = threading.Event()

    def slow(tx: Transaction) -> None:
        inside.set()
        time.sleep(0.1)
        tx.put(LOCKS, "k", Lock(1, (Holder("ann", 1, tx.now, tx.now + 30),)), ttl=30)

    async def main() -> Held | None:
        transport = backend._transport

        async def ask() -> None:
            await transport.asend(slow)

        task = asyncio.create_task(ask())
        await asyncio.to_thread(inside.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await adrive(locks.holder("k"))

    held = asyncio.run(main())
    assert held is not None
    assert held.owner == "ann"


def test_a_loop_that_is_gone_when_the_answer_comes(backend: SqliteBackend) -> None:
    """An answer that nobody waits for any more harms nothing."""
    entered, leave = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        entered.set()
        leave.wait(5)

    async def main() -> None:
        reply = backend._transport.asend(slow)
        assert not reply.done()
        await asyncio.to_thread(entered.wait)

    asyncio.run(main())
    leave.set()
    assert isinstance(acquire(backend, "k"), Grant)


def test_close_leaves_nothing_open(backend: SqliteBackend, path: Path) -> None:
    """After `close` no file of the database is open and no thread runs; and it works again."""
    before = threads()
    assert backend.locks is not None
    locks = backend.locks
    for _ in range(2):
        acquire(backend, "k")
        asyncio.run(adrive(locks.is_held("k", owner="ann")))
        asyncio.run(adrive(locks.renew("k", owner="ann", ttl=30)))
        backend.hub.listen("cache", lambda message: None)
        assert open_files(path)
        assert len(threads()) == len(before) + 3
        backend.close()
        assert open_files(path) == []
        assert threads() == before


def test_aclose(backend: SqliteBackend, path: Path) -> None:
    """The same in an event loop."""
    assert backend.locks is not None
    locks = backend.locks

    async def main() -> None:
        await adrive(locks.acquire("k", ttl=30, owner="ann"))
        await backend.aclose()

    asyncio.run(main())
    assert open_files(path) == []


def test_idle_threads_end(backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads without work end by themselves, and come again with work."""
    monkeypatch.setattr("resilient.engine.crew.LINGER", 0.05)
    before = threads()
    assert backend.locks is not None
    acquire_once = partial(backend.locks.acquire, ttl=30, owner="ann")
    for number in range(3):
        asyncio.run(adrive(acquire_once(f"k{number}")))
        deadline = time.monotonic() + 5
        while threads() != before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads() == before
