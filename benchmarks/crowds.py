"""Locks that several processes want: a hand-off from one to the next, and crowds.

The baseline is a token in a list, `BLPOP` and `RPUSH`: the least that a lock can be, lost for ever
with whoever has it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Group
from tests.process import lock_crowd_workers, lock_workers
from tests.support.processes import group
from tests.support.servers import RedisAt

PROCESSES = 8
CASES = {
    "blpop": "redis-py: BLPOP, RPUSH",
    "resilient": "resilient, redis",
    "barging": "resilient, redis, fair=False",
    "sqlite": "resilient, sqlite",
    "redis-py": "redis-py Lock",
    "python-redis-lock": "python-redis-lock",
}
IN_LOOPS = {
    "async blpop": "redis-py: BLPOP, RPUSH, in an event loop each",
    "async": "resilient, redis, in an event loop each",
}
Measured = dict[str, list[float]]


def groups() -> list[Group]:
    """What one waits, and what many get done."""
    return [
        Contended(
            "lock: from a release to the grant of another process that waits", CASES, hand_offs
        ),
        Contended(
            f"lock: 1 ms each of {PROCESSES} processes, time for one of them",
            CASES | IN_LOOPS,
            crowds,
        ),
    ]


class Contended(Group):
    """A group whose cases are measured by processes of their own.

    Args:
        title: What is done.
        cases: What each kind is called.
        measure: Measures all kinds, in turns: seconds of each, many times.
    """

    def __init__(
        self,
        title: str,
        cases: dict[str, str],
        measure: Callable[[list[str], RedisAt, Path, int], Measured],
    ) -> None:
        super().__init__(title, "sync")
        self._kinds = list(cases)
        self._measure = measure
        for name in cases.values():
            self.case(name)(lambda place: None)

    def run(self, server: RedisAt, directory: Path, rounds: int) -> None:
        """Have them measured."""
        kinds = dict(zip(self._kinds, self.cases, strict=True))
        if importlib.util.find_spec("redis_lock") is None:
            kinds.pop("python-redis-lock").error = "not installed: redis_lock"
        kinds[f"sqlite:///{directory / 'crowd.db'}"] = kinds.pop("sqlite")
        for kind, seconds in self._measure(list(kinds), server, directory, rounds).items():
            kinds[kind].seconds = seconds


@contextmanager
def a_token(server: RedisAt, prefix: str) -> Iterator[None]:
    """What `BLPOP` waits for."""
    with server.client() as client:
        client.rpush(f"{prefix}token", "token")
        yield
        client.delete(f"{prefix}token")


def hand_offs(kinds: list[str], server: RedisAt, directory: Path, rounds: int) -> Measured:
    """From the release in one process to the grant in another, back and forth."""
    found: Measured = {kind: [] for kind in kinds}
    prefix = "bench-hand-off:"
    arguments: list[Any] = [kinds, server.url, prefix]
    with (
        a_token(server, prefix),
        group(lock_workers.hand_over, [arguments] * 2) as (holder, waiter),
    ):
        for turn in range(-1, 4 * rounds):
            for kind in kinds:
                held = 0.02 + 0.037 * turn % 0.1  # whoever polls looks at another moment each time
                seconds = lock_workers.handed_over(kind, holder, waiter, held)
                if turn >= 0:
                    found[kind].append(seconds)
            holder, waiter = waiter, holder
    return found


def crowds(kinds: list[str], server: RedisAt, directory: Path, rounds: int) -> Measured:
    """The time for one turn, in rounds of a second."""
    prefix, times, path = "bench-crowd:", max(1, rounds // 5), directory / "crowd"
    arguments: list[Any] = [kinds, server.url, prefix, PROCESSES, 1.0, times, str(path)]
    with a_token(server, prefix), group(lock_crowd_workers.hammer, [arguments]) as (nursery,):
        reports = nursery.result(60 + 2 * times * len(kinds))
    return {
        kind: [
            1.0 / max(1, sum(len(waits) for waits in of_round))
            for of_round in zip(*(report[kind] for report in reports), strict=True)
        ]
        for kind in kinds
    }
