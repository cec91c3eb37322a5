"""The SQLite backend: its URL, its file and what may be wrong with it, transactions, closing."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend, from_url
from resilient.backends.sqlite.transaction import successor
from resilient.engine import chance
from resilient.engine.clock import ManualClock, installed
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.transactional import Transaction
from resilient.engine.transactional.lock_records import LOCKS, Holder, Lock
from resilient.errors import BackendError, CodecError, ConfigurationError
from resilient.protocols.locks import Grant, Held
from resilient.protocols.values import Encoded
from tests.support.processes import run_all


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(name="backend")
def _backend(path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(path)
    yield backend
    backend.close()


def acquire(backend: SqliteBackend, key: str, owner: str = "ann") -> Any:
    """Ask for a lock for 30 seconds."""
    assert backend.locks is not None
    return drive(backend.locks.acquire(key, ttl=30, owner=owner))


def begin(backend: SqliteBackend, job: str, owner: str = "ann", ttl: float = 1) -> Any:
    """Run a job for a second."""
    assert backend.checkpoints is not None
    return drive(backend.checkpoints.start(job, owner=owner, lease=1, ttl=ttl))


def change(backend: SqliteBackend, work: Any) -> Any:
    """Run a function in a transaction."""
    return backend._transport.send(work)


def count(path: Path, table: str) -> int:
    """How many rows a table has."""
    connection = sqlite3.connect(path)
    try:
        (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    finally:
        connection.close()
    return int(rows)


def open_files(path: Path) -> list[str]:
    """What this process has open of the database."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
        if target.startswith(str(path)):
            found.append(target)
    return found


def threads() -> list[str]:
    """The backend's threads that run."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("resilient-sqlite"))


# --- the URL


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///state.db", "{cwd}/state.db"),
        ("sqlite:///./.resilient/state.db", "{cwd}/.resilient/state.db"),
        ("sqlite:////var/lib/state.db", "/var/lib/state.db"),
        ("sqlite:////tmp/with%20space%3F%23.db", "/tmp/with space?#.db"),
    ],
)
def test_url_names_a_file(url: str, path: str) -> None:
    """Three slashes and a relative path, or four and an absolute one, percent-decoded."""
    assert from_url(url, prefix="").path == path.format(cwd=os.getcwd())


def test_relative_path_is_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the working directory does not move the file."""
    monkeypatch.chdir(tmp_path)
    backend = from_url("sqlite:///state.db", prefix="")
    monkeypatch.chdir("/")
    acquire(backend, "k")
    backend.close()
    assert (tmp_path / "state.db").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://state.db", "three slashes"),
        ("sqlite://host/state.db", "three slashes"),
        ("sqlite:///x.db?cache=shared", "unknown option cache"),
        ("sqlite:///x.db?timeout=-1", "timeout"),
        ("sqlite:///x.db?timeout=soon", "timeout"),
        ("sqlite:///x.db?timeout=nan", "timeout"),
        ("sqlite:///x.db?synchronous=off", "synchronous='off': it is 'normal' or 'full'"),
        ("sqlite:///x.db?synchronous=", "synchronous=''"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    """A URL that names no file, or an option that there is not, is refused and says why."""
    with pytest.raises(ConfigurationError, match=message):
        from_url(url, prefix="")


@pytest.mark.parametrize(("text", "expected"), [("2.5", 2.5), ("500ms", 0.5)])
def test_timeout_option(text: str, expected: float) -> None:
    """`?timeout=` is a duration."""
    backend = from_url(f"sqlite:///x.db?timeout={text}", prefix="")
    assert backend._transport._database.timeout == expected


@pytest.mark.parametrize(("option", "level"), [("", 1), ("?synchronous=full", 2)])
def test_synchronous_option(path: Path, option: str, level: int) -> None:
    """All connections commit as durably as the URL says: those that are kept, and the next ones."""
    backend = from_url(f"sqlite:///{path}{option}", prefix="")
    database = backend._transport._database
    with (
        database.connection() as first,
        database.connection() as second,
        closing(database.open()) as third,  # as that which looks for signals
    ):
        for connection in (first, second, third):
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    backend.close()


def test_synchronous_argument(path: Path) -> None:
    """It is looked at when the backend is made, before there is a file."""
    wrong: Any = "extra"
    with pytest.raises(ConfigurationError, match="synchronous='extra': it is 'normal' or 'full'"):
        SqliteBackend(path, synchronous=wrong)
    assert SqliteBackend(path, synchronous="full")._transport._database.synchronous == "full"
    assert not path.exists()


def test_nothing_happens_before_the_first_operation(path: Path) -> None:
    """Making a backend opens no file and starts no thread."""
    before = threads()
    backend = SqliteBackend(path)
    assert not path.exists()
    assert threads() == before
    backend.close()
    assert not path.exists()


# --- files that cannot be used


def test_a_directory(tmp_path: Path) -> None:
    """A directory in the place of the file is named."""
    with pytest.raises(ConfigurationError, match=f"{tmp_path} is a directory"):
        acquire(SqliteBackend(tmp_path), "k")


def test_not_a_database(path: Path) -> None:
    """Another kind of file is named, and left alone."""
    content = b"A letter to the editor.\n" * 200
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"state\.db.*not a SQLite database"):
        acquire(SqliteBackend(path), "k")
    assert path.read_bytes() == content


def test_a_file_where_a_directory_must_be(path: Path) -> None:
    """A path through a file is named."""
    path.write_text("x")
    with pytest.raises(ConfigurationError, match=r"state\.db"):
        acquire(SqliteBackend(path / "deeper.db"), "k")


def test_another_programs_database(path: Path) -> None:
    """Somebody else's tables are never mixed with ours: the file stays as it is, to the byte."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (id INTEGER)")
    connection.close()
    content = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"state\.db is another program's database"):
        acquire(SqliteBackend(path), "k")
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [1, 99])
def test_another_version(backend: SqliteBackend, path: Path, version: int) -> None:
    """Tables of an earlier version, or of one that is not known, are not touched."""
    acquire(backend, "k")
    backend.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with pytest.raises(ConfigurationError, match=f"of version {version}, and this one knows 2"):
        acquire(backend, "k")


def test_a_record_that_does_not_read(backend: SqliteBackend, path: Path) -> None:
    """A damaged record is an error of our tree, not of the decoder's."""
    acquire(backend, "k")
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE clustered SET data = ?", (b"\xc1",))
    connection.close()
    with pytest.raises(CodecError, match="'lock'"):
        acquire(backend, "k", "bob")


def test_text_that_is_none(backend: SqliteBackend) -> None:
    """A key with a lone surrogate has no stored form, and that is said."""
    with pytest.raises(ConfigurationError, match="no text that can be stored"):
        acquire(backend, "\ud800")
    assert isinstance(acquire(backend, "k"), Grant)


def fill_the_disk(path: str) -> list[str]:
    """Write until the file may not grow any more, then with room again."""
    import resource

    backend = SqliteBackend(path)
    cache = backend.cache
    assert cache is not None
    drive(cache.set("first", Encoded(b"1"), ttl=60))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
    found = []
    try:
        for number in range(100):
            drive(cache.set(f"big{number}", Encoded(b"x" * 20_000), ttl=60))
    except BackendError as error:
        found.append(str(error))
        found.append(str(error.transient))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    drive(cache.set("last", Encoded(b"2"), ttl=60))
    for key in ("first", "last"):
        entry = drive(cache.get(key))
        found.append(entry.value.decode() if entry else "lost")
    backend.close()
    return found


@pytest.mark.process
def test_no_room_left(path: Path) -> None:
    """A write that finds no room is a `BackendError` that names the file; later ones work again."""
    ((message, transient, *values),) = run_all(fill_the_disk, [(str(path),)])
    assert str(path) in message
    assert transient == "False"
    assert values == ["1", "2"]


def test_removed_while_open(backend: SqliteBackend, path: Path) -> None:
    """When the file is removed, everybody begins anew in the next one: nobody keeps the old."""
    other = SqliteBackend(path)
    assert isinstance(acquire(backend, "k"), Grant)
    assert isinstance(acquire(other, "k", "bob"), Held)
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        path.with_name(name).unlink()
    assert isinstance(acquire(other, "k", "bob"), Grant)
    assert isinstance(acquire(backend, "k"), Held)
    other.close()


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
