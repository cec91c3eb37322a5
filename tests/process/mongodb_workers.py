"""What the processes of `test_mongodb_processes.py` do; a nursery forks them."""

from __future__ import annotations

import multiprocessing
from functools import partial
from typing import Any

from resilient.backends.mongodb import from_url
from resilient.engine.drivers.sync import drive
from resilient.protocols.idempotency import Claimed
from resilient.protocols.locks import Grant
from tests.process.lock_crowd_workers import warmed
from tests.support.forks import forked


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
