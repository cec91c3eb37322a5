"""Measures several ways to do one thing in turns, and compares them with the first of them.

A `Group` is one question; its first case is the baseline. A case's function sets it up and answers
what is measured: a function of one number. All cases of a group take turns, batch by batch, so that
what disturbs the machine disturbs them alike. What is not installed, or does not work, says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import redis
import redis.asyncio

import resilient
from resilient.resolving import resolve
from tests.support.servers import RedisAt

Mode = Literal["sync", "async"]
Call = Callable[[int], Any]
BATCH_SECONDS = 0.02
ARGUMENT = 7


class NotHere(Exception):
    """A case cannot run here; the message says why."""


class Place:
    """Where one case runs, and what it has to clean up."""

    def __init__(self, mode: Mode, server: RedisAt, directory: Path, prefix: str) -> None:
        self.mode: Mode = mode
        self.server = server
        self.directory = directory
        self.prefix = prefix
        self.exits = contextlib.AsyncExitStack()
        self._numbers = itertools.count()

    @property
    def body(self) -> Call:
        """What is decorated: it does nothing."""
        return bare if self.mode == "sync" else abare

    def fresh(self) -> int:
        """Another number each time."""
        return next(self._numbers)

    @cached_property
    def client(self) -> Any:
        """A client of the server, blocking or async, as redis-py makes it."""
        if self.mode == "sync":
            client = redis.Redis.from_url(self.server.url)
            self.exits.callback(client.close)
            return client
        aclient = redis.asyncio.Redis.from_url(self.server.url)
        self.exits.push_async_callback(aclient.aclose)
        return aclient

    def backend(self, kind: str) -> resilient.Backend:
        """One of our backends, empty."""
        file = f"sqlite:///{self.directory / 'state.db'}"
        urls = {
            "sqlite": file,
            "sqlite-full": f"{file}?synchronous=full",
            "redis": self.server.url,
        }
        backend = resolve(urls.get(kind, "memory://"), self.prefix)
        if self.mode == "sync":
            self.exits.callback(backend.close)
        else:
            self.exits.push_async_callback(backend.aclose)
        return backend


def bare(n: int) -> int:
    """The function that is decorated."""
    return n


async def abare(n: int) -> int:
    """The same as an async function."""
    return n


@dataclass
class Case:
    """One way to do it, and what was measured."""

    name: str
    make: Callable[[Place], Any]
    per: int = 1
    seconds: list[float] = field(default_factory=list)
    trips: float | None = None
    error: str | None = None

    @property
    def best(self) -> float:
        """The fastest batch's time for one of it, in seconds."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median batch's."""
        return statistics.median(self.seconds)


class Group:
    """One question, asked of several.

    Args:
        title: What is done.
        mode: Whether callers block or await.
    """

    def __init__(self, title: str, mode: Mode) -> None:
        self.title = title
        self.mode: Mode = mode
        self.cases: list[Case] = []

    def case(
        self, name: str, *, per: int = 1
    ) -> Callable[[Callable[[Place], Any]], Callable[[Place], Any]]:
        """Add a case: a function that sets it up and answers what to measure.

        Args:
            name: What it is called in the table.
            per: How often one call does the thing that is measured.
        """

        def add(make: Callable[[Place], Any]) -> Callable[[Place], Any]:
            self.cases.append(Case(name, make, per))
            return make

        return add

    def run(self, server: RedisAt, directory: Path, rounds: int) -> None:
        """Set all cases up, let them take turns, and count their round trips."""
        with asyncio.Runner() as runner:
            runner.run(self._run(server, directory, rounds))

    async def _run(self, server: RedisAt, directory: Path, rounds: int) -> None:
        async with contextlib.AsyncExitStack() as exits:
            ready = [
                (case, call, await self._calibrated(case, call))
                for case in self.cases
                if (call := await self._set_up(case, server, directory, exits)) is not None
            ]
            gc.collect()
            gc.disable()
            try:
                for number in range(rounds):
                    turn = number % max(1, len(ready))
                    for case, call, count in ready[turn:] + ready[:turn]:
                        case.seconds.append(await self._batch(call, count) / count / case.per)
            finally:
                gc.enable()
            for case, call, count in ready:
                case.trips = await self._trips(server, call, min(count, 50)) / case.per

    async def _set_up(
        self, case: Case, server: RedisAt, directory: Path, exits: contextlib.AsyncExitStack
    ) -> Call | None:
        number = f"{id(self):x}-{self.cases.index(case)}"
        own = directory / number
        own.mkdir()
        place = Place(self.mode, server, own, f"bench-{number}:")
        try:
            call = case.make(place)
            call = await call if inspect.isawaitable(call) else call
            for _ in range(2):
                await self._batch(call, 1)
        except ModuleNotFoundError as missing:
            case.error = f"not installed: {missing.name}"
        except NotHere as reason:
            case.error = str(reason)
        except Exception as error:
            case.error = f"fails: {type(error).__name__}: {error}".splitlines()[0]
        else:
            await exits.enter_async_context(place.exits)
            made: Call = call
            return made
        await place.exits.aclose()
        return None

    async def _batch(self, call: Call, count: int) -> float:
        numbers = itertools.repeat(ARGUMENT, count)
        if self.mode == "sync":
            began = time.perf_counter()
            for n in numbers:
                call(n)
            return time.perf_counter() - began
        began = time.perf_counter()
        for n in numbers:
            await call(n)
        return time.perf_counter() - began

    async def _calibrated(self, case: Case, call: Call) -> int:
        """How many calls make a batch."""
        count = 1
        while (took := await self._batch(call, count)) < BATCH_SECONDS / 4:
            count *= 4
        return max(1, int(count * BATCH_SECONDS / took))

    async def _trips(self, server: RedisAt, call: Call, count: int) -> float:
        """Round trips of a call: the least of some counts, since background work has its own."""
        counts = []
        for _ in range(3):
            with server.round_trips() as trips:
                await self._batch(call, count)
            counts.append(trips.count / count)
        return min(counts)


def rows(groups: Iterable[Group]) -> list[dict[str, Any]]:
    """What was measured, for machines. Times are microseconds; ratios are to the group's first."""
    found = []
    for group in groups:
        base = group.cases[0]
        for case in group.cases:
            row: dict[str, Any] = {"title": group.title, "mode": group.mode, "case": case.name}
            if case.error is not None:
                row["error"] = case.error
            else:
                row |= {
                    "best_us": case.best * 1e6,
                    "median_us": case.median * 1e6,
                    "round_trips": case.trips,
                }
                if base.error is None:
                    row["best_ratio"] = case.best / base.best
                    row["median_ratio"] = case.median / base.median
            found.append(row)
    return found


def table(group: Group) -> str:
    """What was measured, for people."""
    lines = [
        f"{group.title} ({group.mode})",
        f"  {'':44}{'best µs':>9}{'× best':>9}{'× median':>10}{'trips':>7}",
    ]
    for row in rows([group]):
        if "error" in row:
            lines.append(f"  {row['case']:44}{row['error']}")
            continue
        ratios = f"{_short(row.get('best_ratio')):>9}{_short(row.get('median_ratio')):>10}"
        trips = row["round_trips"]
        trips = "" if trips is None else f"{trips:.2f}".rstrip("0").rstrip(".")
        lines.append(f"  {row['case']:44}{_short(row['best_us']):>9}{ratios}{trips:>7}")
    return "\n".join(lines)


def _short(number: float | None) -> str:
    """Three digits that mean something."""
    if number is None:
        return "-"
    return (
        f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
    )
