"""SQLite between processes: many that start at once, contend, hand over, and are killed."""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import pytest

from resilient.backends.sqlite import SqliteBackend
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Listen, Wait
from resilient.protocols.locks import Grant
from resilient.protocols.values import Encoded
from tests.support.lateness import Lateness
from tests.support.processes import group, receive, run_all, tell

pytestmark = pytest.mark.process


def connect(path: str) -> SqliteBackend:
    """The backend of a worker; the machine may be busy."""
    return SqliteBackend(path, prefix="test:", timeout=30)


async def take(backend: SqliteBackend, key: str, owner: str, ttl: float = 30) -> Grant:
    """A plan that waits for a lock like the policies do."""
    assert backend.locks is not None
    granted = await backend.locks.acquire(key, ttl=ttl, owner=owner)
    if isinstance(granted, Grant):
        return granted
    waiter = await Listen(backend.hub)
    address = backend.hub.address(waiter)
    while True:
        granted = await backend.locks.acquire(key, ttl=ttl, owner=owner, waiter=address)
        if isinstance(granted, Grant):
            return granted
        await Wait(waiter, min(granted.ttl, backend.hub.recheck))


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> str:
    return str(tmp_path / "deep" / "er" / "state.db")


def integrity(path: str) -> Any:
    """What SQLite itself thinks of the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall()
    finally:
        connection.close()


# --- many at once


def first_use(path: str, number: int) -> int:
    """Use a file that may not be there yet."""
    backend = connect(path)
    assert backend.locks is not None
    grant = drive(backend.locks.acquire(f"k{number}", ttl=30, owner=f"o{number}"))
    assert isinstance(grant, Grant)
    backend.close()
    return grant.fence


def test_twenty_make_the_file(path: str) -> None:
    """Twenty processes that start at once on a file and directories that are not there yet."""
    fences = run_all(first_use, [(path, number) for number in range(20)])
    assert len(set(fences)) == 20
    assert integrity(path) == [("ok",)]


def increment(path: str, counter: str, number: int, times: int) -> list[int]:
    """Locked read-modify-writes of a file, which would lose some without the lock."""
    backend = connect(path)
    assert backend.locks is not None
    fences = []
    for turn in range(times):
        owner = f"{number}.{turn}"
        grant = drive(take(backend, "counter", owner))
        value, last = map(int, Path(counter).read_text().split())
        assert grant.fence > last
        Path(counter).write_text(f"{value + 1} {grant.fence}")
        assert drive(backend.locks.release("counter", owner=owner))
        fences.append(grant.fence)
    backend.close()
    return fences


@pytest.mark.slow
def test_exact_total(path: str, tmp_path: Path) -> None:
    """Six processes that increment a number under a lock: none is lost, and fences grow."""
    times = 100
    counter = tmp_path / "counter"
    counter.write_text("0 0")
    results = run_all(increment, [(path, str(counter), number, times) for number in range(6)])
    total, last = map(int, counter.read_text().split())
    assert total == 6 * times
    fences = [fence for own in results for fence in own]
    assert len(set(fences)) == total
    assert max(fences) == last


def busy_writer(path: str, seconds: float) -> tuple[int, float]:
    """Write as fast as it goes: how many writes, and how long the longest took."""
    backend = connect(path)
    assert backend.cache is not None
    end, writes, longest = time.monotonic() + seconds, 0, 0.0
    while (began := time.monotonic()) < end:
        drive(backend.cache.set(f"{os.getpid()}", Encoded(b"x"), ttl=30))
        longest = max(longest, time.monotonic() - began)
        writes += 1
    backend.close()
    return writes, longest


def test_no_writer_starves(path: str) -> None:
    """Of six that write without a pause, none waits long for its turn."""
    results = run_all(busy_writer, [(path, 2.0)] * 6)
    assert min(writes for writes, _ in results) > 20
    assert max(longest for _, longest in results) < 1.0


# --- handing over


def holder(path: str, rounds: int) -> list[float]:
    """Release a lock a while after the other one has begun to wait for it; when that was."""
    backend = connect(path)
    assert backend.locks is not None
    released = []
    for turn in range(rounds):
        drive(take(backend, "baton", f"holder{turn}"))
        tell("held")
        receive()
        time.sleep(random.uniform(0.02, 0.06))
        released.append(time.monotonic())
        drive(backend.locks.release("baton", owner=f"holder{turn}"))
        receive()
    backend.close()
    return released


def follower(path: str, rounds: int) -> list[float]:
    """Wait for the lock each time; when it was there."""
    backend = connect(path)
    assert backend.locks is not None
    got = []
    for turn in range(rounds):
        receive()
        tell("waits")
        drive(take(backend, "baton", f"follower{turn}"))
        got.append(time.monotonic())
        drive(backend.locks.release("baton", owner=f"follower{turn}"))
        tell("done")
    backend.close()
    return got


def test_hand_over_to_another_process(path: str) -> None:
    """A waiter in another process has the lock some milliseconds after its release."""
    rounds = 40
    with group(holder, [(path, rounds)]) as (one,), group(follower, [(path, rounds)]) as (other,):
        for _ in range(rounds):
            one.wait_for("held")
            other.send()
            other.wait_for("waits")
            one.send()
            other.wait_for("done")
            one.send()
        latencies = [
            got - released for released, got in zip(one.result(), other.result(), strict=True)
        ]
    # 5 ms on an idle machine; tests share theirs.
    assert statistics.median(latencies) < 0.015


def listener(path: str, count: int) -> list[str | None]:
    """What is heard of a channel, until so many messages were."""
    backend = connect(path)
    heard: list[str | None] = []
    backend.hub.listen("cache", heard.append)
    tell("listening")
    end = time.monotonic() + 20
    while len(heard) < count and time.monotonic() < end:
        time.sleep(0.005)
    backend.close()
    return heard


def publisher(path: str, prefix: str, count: int) -> None:
    """Remove so many keys, one after the other."""
    backend = SqliteBackend(path, prefix=prefix)
    assert backend.cache is not None
    for number in range(count):
        drive(backend.cache.delete(f"{prefix}{number}"))
    backend.close()


def test_broadcasts_arrive_in_order_once_and_at_their_tenant(path: str) -> None:
    """Every listening process hears what one tenant's others publish, in order, and no more."""
    count = 200
    with group(listener, [(path, count)] * 2) as listeners:
        for each in listeners:
            each.wait_for("listening")
        run_all(publisher, [(path, "other:", count), (path, "test:", count)])
        expected = [f"test:{number}" for number in range(count)]
        assert [each.result() for each in listeners] == [expected] * 2


# --- being killed


def saver(path: str, task: str, acknowledged: str) -> None:
    """Save checkpoint after checkpoint; write down the last one whose saving was answered."""
    backend = connect(path)
    jobs, cache = backend.checkpoints, backend.cache
    assert jobs is not None
    assert cache is not None
    started: Any = drive(jobs.start(task, owner=f"{os.getpid()}", lease=0.001, ttl=600))
    sequence = 0 if started.checkpoint is None else started.checkpoint.sequence
    report = os.open(acknowledged, os.O_WRONLY | os.O_CREAT)
    tell("at work")
    while True:
        sequence += 1
        data = Encoded(b"%d" % sequence * 500)
        saved = drive(
            jobs.save(task, data, fence=started.fence, sequence=sequence, keep=3, ttl=600)
        )
        assert saved is not None
        os.pwrite(report, b"%12d" % sequence, 0)
        drive(cache.set(f"{task}.{sequence % 50}", data, ttl=0.05, tags=(task,)))


@pytest.mark.slow
def test_killed_at_random(path: str, tmp_path: Path) -> None:
    """Writers killed at random moments: the file stays sound, and what was answered is there."""
    backend = connect(path)
    jobs = backend.checkpoints
    assert jobs is not None
    tasks = [f"job{number}" for number in range(3)]
    for _ in range(8):
        args = [(path, task, str(tmp_path / task)) for task in tasks]
        with group(saver, args) as workers:
            for worker in workers:
                worker.wait_for("at work")
            for worker in random.sample(workers, len(workers)):
                time.sleep(random.uniform(0.0, 0.15))
                worker.kill()
        for task in tasks:
            history = drive(jobs.list(task))
            if not history:
                continue
            answered = int((tmp_path / task).read_bytes() or b"0")
            newest = history[-1].sequence
            assert newest in (answered, answered + 1)
            assert [each.sequence for each in history] == list(
                range(max(1, newest - 2), newest + 1)
            )
            assert all(each.data == b"%d" % each.sequence * 500 for each in history)
    backend.close()
    assert integrity(path) == [("ok",)]


def hold(path: str) -> None:
    """Hold a lock until killed."""
    backend = connect(path)
    drive(take(backend, "k", "first", ttl=1.0))
    tell("held")
    receive()


def test_a_killed_holder_is_followed_after_its_ttl(path: str) -> None:
    """The next in line has the lock when the TTL of a killed holder is over, and half a second."""
    backend = connect(path)
    with group(hold, [(path,)]) as (worker,), Lateness() as late:
        worker.wait_for("held")
        worker.kill()
        began = time.monotonic()
        grant = drive(take(backend, "k", "second"))
        waited = time.monotonic() - began
    assert waited < 1.5 + 5 * late.seconds
    assert grant.owner == "second"
    backend.close()
