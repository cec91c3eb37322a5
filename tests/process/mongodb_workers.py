"""What the processes of `test_mongodb_processes.py` do; a nursery forks them."""

from __future__ import annotations

import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

import resilient
from resilient.backends.mongodb import from_url
from resilient.engine.drivers.sync import drive
from resilient.protocols.idempotency import Claimed
from resilient.protocols.locks import Grant
from tests.process.lock_crowd_workers import forked, warmed
from tests.support.processes import tell


def contenders(url: str, prefix: str, members: int, turns: int) -> list[list[int]]:
    """Who wins, in each turn, a lock and a call that nobody has ever had."""
    warmed(url)
    ready = multiprocessing.Barrier(members)
    won: Any = multiprocessing.SimpleQueue()

    def child(number: int) -> None:
        backend = from_url(url, prefix=prefix)
        locks, calls = backend.require("locks"), backend.require("idempotency")
        drive(locks.holder("warm"))
        for turn in range(turns):
            ready.wait(60)
            who = f"{number}"
            if isinstance(drive(locks.acquire(f"k{turn}", ttl=60, owner=who)), Grant):
                won.put((turn, "lock", number))
            if isinstance(drive(calls.claim(f"k{turn}", owner=who, lease=60, ttl=60)), Claimed):
                won.put((turn, "call", number))
        won.put(None)

    for number in range(members):
        forked(partial(child, number))
    winners: list[list[int]] = [[0, 0] for _ in range(turns)]
    ended = 0
    while ended < members:
        item = won.get()
        if item is None:
            ended += 1
        else:
            winners[item[0]][item[1] == "call"] += 1
    return winners


def increase(url: str, prefix: str, path: str, seconds: float) -> list[int]:
    """Increase a number in a file under a lock, again and again, whatever becomes of the server.

    Returns:
        The fences under which it was done.
    """
    file, fences = Path(path), []
    until = time.monotonic() + seconds
    with resilient.using(url, prefix=prefix):
        tell("began")
        while time.monotonic() < until:
            try:
                with resilient.lock("k", ttl=5, wait=8) as lease:
                    file.write_text(str(int(file.read_text()) + 1))
                    fences.append(lease.fence)
            except (resilient.BackendError, resilient.LockNotAcquired, resilient.LeaseLost):
                pass  # the server is away; a release that was not heard is told so, too
    return fences
