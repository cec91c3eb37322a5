"""Forked children of a process that uses SQLite: they inherit nothing of it that is open."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend
from resilient.engine.drivers.sync import drive
from resilient.engine.transactional import Transaction
from resilient.protocols.locks import Grant, Held
from tests.support.forks import in_child
from tests.support.sqlite import acquire, change, count, open_files, release
from tests.support.waiting import until


@pytest.mark.process
def test_a_child_inherits_no_connection(path: Path) -> None:
    """Nothing of the file is open in a child until it opens it itself; both go on."""
    backend = SqliteBackend(path)
    acquire(backend, "k")
    backend.hub.listen("cache", lambda message: None)

    def child() -> bool:
        if open_files(path) or backend.hub.is_listening:
            return False
        taken = isinstance(acquire(backend, "child", "bob"), Grant)
        refused = isinstance(acquire(backend, "k", "bob"), Held)
        backend.close()
        return taken and refused

    assert in_child(child) == 0
    assert isinstance(acquire(backend, "child"), Held)
    assert isinstance(acquire(backend, "k", "bob"), Held)
    backend.close()


@pytest.mark.process
def test_a_fork_lets_transactions_end_first(path: Path) -> None:
    """A fork waits for what other threads have begun: neither side is left with half of it."""
    backend = SqliteBackend(path)
    acquire(backend, "k")
    inside = threading.Event()

    def slow(tx: Transaction) -> None:
        inside.set()
        time.sleep(0.1)
        tx.publish("cache", "x")

    thread = threading.Thread(target=change, args=(backend, slow))
    thread.start()
    inside.wait()
    assert in_child(lambda: count(path, "event") == 1 and acquire(backend, "c") is not None) == 0
    thread.join()
    assert isinstance(acquire(backend, "k", "bob"), Held)
    backend.close()


@pytest.mark.process
def test_forks_amid_traffic(path: Path) -> None:
    """Children forked while other threads write all can write themselves, and none is stuck."""
    backend = SqliteBackend(path)
    ended = threading.Event()
    failures: list[BaseException] = []

    def traffic(owner: str) -> None:
        try:
            while not ended.is_set():
                acquire(backend, owner, owner)
                release(backend, owner, owner)
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=traffic, args=(f"t{n}",)) for n in range(4)]
    for thread in running:
        thread.start()
    codes = [in_child(lambda: isinstance(acquire(backend, "c", "c"), Grant)) for _ in range(10)]
    ended.set()
    for thread in running:
        thread.join()
    assert codes == [0] * 10
    assert failures == []
    backend.close()


@pytest.mark.process
def test_the_parent_goes_on_listening(pair: tuple[SqliteBackend, SqliteBackend]) -> None:
    """A fork makes no gap for the parent's listeners; a child's are told of theirs."""
    here, there = pair
    heard: list[str | None] = []
    here.hub.listen("cache", heard.append)
    caches: list[Any] = [there.cache]

    def child() -> bool:
        here.hub.start()
        drive(caches[0].delete("from the child"))
        until(lambda: heard == [None, "from the child"])
        return True

    assert in_child(child) == 0
    drive(caches[0].delete("a"))
    until(lambda: heard == ["from the child", "a"])
