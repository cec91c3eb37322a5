"""What the processes of the lock tests do while they are stopped, cut off and told wrong times."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from typing import Any

import redis

import resilient
from tests.support.processes import receive, tell


class Ledger:
    """Where holders write, fenced: a key of Redis, or a table of a SQLite file of the user's."""

    def __init__(self, where: str) -> None:
        self.where = where

    def write(self, lease: Any, text: str) -> bool:
        """Write under a lease; whether that was not refused."""
        try:
            if self.where.startswith("redis://"):
                url, _, key = self.where.rpartition("#")
                with redis.Redis.from_url(url) as client:
                    resilient.fenced(client, key, lease).set(text)
            else:
                with sqlite3.connect(self.where, timeout=20) as connection:
                    _bind(lease, connection)
                    connection.execute("CREATE TABLE IF NOT EXISTS ledger (text)")
                    connection.execute("DELETE FROM ledger")
                    connection.execute("INSERT INTO ledger VALUES (?)", [text])
        except resilient.LeaseLost:
            return False
        return True

    def read(self) -> str:
        """What was written last."""
        if self.where.startswith("redis://"):
            url, _, key = self.where.rpartition("#")
            with redis.Redis.from_url(url, decode_responses=True) as client:
                return str(client.get(key))
        with sqlite3.connect(self.where) as connection:
            return str(connection.execute("SELECT text FROM ledger").fetchone()[0])


def _bind(lease: Any, connection: sqlite3.Connection) -> None:
    if isinstance(lease, resilient.LockLease):
        lease.bind(connection)
        return
    bind = lease.bind(connection)  # on sqlite3 it never suspends
    try:
        bind.send(None)
    except StopIteration:
        return


def sleeper(url: str, prefix: str, mode: str, ttl: float, ledger: str, rounds: int) -> Any:
    """Take the lock, be stopped, and write late: what became of each round."""
    resilient.configure(url, prefix=prefix)
    if mode == "async":
        return asyncio.run(_asleeper(ttl, Ledger(ledger), rounds))
    outcomes = []
    for number in range(rounds):
        written = False
        try:
            with resilient.lock("k", ttl=ttl, wait=60) as lease:
                written = _late(lease, Ledger(ledger), number)
            lost = False
        except resilient.LeaseLost:
            lost = True
        outcomes.append({"written": written, "lost": lost})
        tell("over")
    return outcomes


def _late(lease: Any, ledger: Ledger, number: int) -> bool:
    if number % 2:
        # It knows nothing of time or of renewals: nothing but the fence is left.
        lease.drop()
        lease.deadline = math.inf
    tell("holding", lease.fence)
    receive(60)
    return ledger.write(lease, f"stale {number}")


async def _asleeper(ttl: float, ledger: Ledger, rounds: int) -> Any:
    outcomes = []
    for number in range(rounds):
        outcome: dict[str, Any] = {"written": False, "lost": False, "cancelled": None}
        try:
            async with resilient.lock("k", ttl=ttl, wait=60) as lease:
                if number % 2:
                    outcome["written"] = _late(lease, ledger, number)  # the loop stands still
                    continue
                tell("holding", lease.fence)
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    outcome["cancelled"] = time.monotonic()
                    outcome["written"] = ledger.write(lease, f"stale {number}")
                    raise
        except resilient.LeaseLost:
            outcome["lost"] = True
        finally:
            outcomes.append(outcome)
            tell("over")
            if not number % 2:
                receive(60)
    return outcomes


def wait_in_line(url: str, prefix: str, ttl: float) -> float:
    """Wait for the lock: when it came."""
    resilient.configure(url, prefix=prefix)
    tell("waiting")
    with resilient.lock("k", ttl=ttl, wait=60):
        came = time.monotonic()
        tell("holding")
        return came


def watch(url: str, prefix: str, mode: str, ttl: float) -> dict[str, Any]:
    """Hold the lock until it is lost or the test says so: when that was, and the fence."""
    resilient.configure(url, prefix=prefix)
    report: dict[str, Any] = {"lost": None, "fence": 0}

    def until_told(lease: Any) -> None:
        report["fence"] = lease.fence
        tell("holding", lease.fence)

    try:
        if mode == "sync":
            with resilient.lock("k", ttl=ttl, wait=60) as lease:
                until_told(lease)
                lease.when_lost(lambda: report.update(lost=time.monotonic()))
                while report["lost"] is None and not _told():
                    time.sleep(0.005)
        else:
            asyncio.run(_awatch(ttl, report, until_told))
    except resilient.LeaseLost:
        report["lost"] = report["lost"] or time.monotonic()
    return report


async def _awatch(ttl: float, report: dict[str, Any], until_told: Any) -> None:
    async with resilient.lock("k", ttl=ttl, wait=60) as lease:
        until_told(lease)
        try:
            while not _told():  # noqa: ASYNC110 - what tells is a pipe
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            report.update(lost=time.monotonic(), deadline=lease.deadline)
            raise


def _told() -> bool:
    import queue

    try:
        receive(0)
    except queue.Empty:
        return False
    return True


def in_another_time(url: str, prefix: str, hours: float, rounds: int) -> list[list[float]]:
    """Take the lock again and again under a wall clock that is wrong: when, until when, fences."""
    honest = time.time
    time.time = lambda: honest() + 3600 * hours
    resilient.configure(url, prefix=prefix)
    held = []
    for _ in range(rounds):
        with resilient.lock("k", ttl=2, wait=60) as lease:
            taken = time.monotonic()
            time.sleep(0.002)
            held.append([taken, time.monotonic(), lease.fence])
    return held


def of_kind(kind: str, ttl: float) -> resilient.Lock:
    """A lock, or a semaphore of one permit."""
    options: Any = {"ttl": ttl, "wait": 30}
    return (
        resilient.lock("k", **options)
        if kind == "lock"
        else resilient.semaphore("k", limit=1, **options)
    )


def hold_one(url: str, prefix: str, kind: str, ttl: float) -> None:
    """Hold one of a kind until killed."""
    resilient.configure(url, prefix=prefix)
    with of_kind(kind, ttl) as lease:
        tell("holding", lease.fence)
        receive(60)
