"""What the plans of `@cached` ask of the backend: for a value, or for the right to compute it.

Each request has a budget. One that takes longer, or fails, is trouble: the backend is left alone
until it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resilient import events
from resilient.engine.budget import NotAsked, within
from resilient.engine.failure import Failure
from resilient.engine.identity import describe
from resilient.engine.lease import Lease
from resilient.engine.persistence import asked_again
from resilient.engine.plan import NOW, Ask, Plan, all_of
from resilient.engine.waiting import obtained
from resilient.errors import BackendError, CallInProgress, CodecError
from resilient.policies.cached.near import Call, Near
from resilient.policies.cached.settings import POLICY, Settings
from resilient.protocols.cache import Busy, CacheStore, Entry, Leased

if TYPE_CHECKING:
    from resilient.engine.flights import Flight
    from resilient.policies.cached.freshness import Life

__all__ = [
    "LEASE",
    "PATIENCE",
    "Stored",
    "asked",
    "budget_of",
    "given_back",
    "insisted",
    "leased",
    "life_of",
    "raised_or",
    "readable",
    "troubled",
    "watched",
]

T = TypeVar("T")

LEASE = 5.0
"""Seconds after which somebody else computes the value if its computation's process died."""
PATIENCE = 30.0
"""Seconds for which a computation waits for another process's: each may want the other's value."""


class Stored(NamedTuple):
    """A value that the backend had, as it had it, and for how long it may be used."""

    value: Any
    entry: Entry


async def watched(near: Near, budget: float) -> None:
    """Listen to what others make stale, so that values can be at hand; if not, they are not.

    Raises:
        BackendError: That took the whole budget: there is no time left to ask for anything.
    """

    async def listened() -> None:
        await Ask(near.nearby, None)

    began = await NOW
    try:
        await within(budget, listened())
    except BackendError:
        if await NOW - began >= budget:
            raise


def budget_of(settings: Settings, near: Near, calls: Iterable[Call]) -> float:
    """How long a request may take: less where there is something to fall back on, for all."""
    soft, hard = settings.asking
    assert hard is not None
    if soft is not None and settings.freshness.stale:
        return soft if all(near.kept(call.key) is not None for call in calls) else hard
    return hard


async def asked(
    settings: Settings, near: Near, call: Call, owner: str, flight: Flight
) -> tuple[float, Stored | Leased, Stored | None]:
    """When it was asked for: the stored value, or the right to compute it and what was there."""
    budget = budget_of(settings, near, [call])
    contest = FetchContest(near, call, owner, budget, flight)
    patience = PATIENCE if flight.is_nested else None
    if not settings.waits:
        patience = 0.0
    while True:
        began, answer = await obtained(
            contest, near.backend.hub, patience, await NOW, budget=budget
        )
        if isinstance(answer, Leased):
            return began, answer, readable(near, call, answer.stale)
        entry = answer.stale if isinstance(answer, Busy) else answer
        found = readable(near, call, entry)
        if found is not None:
            return began, found, None
        # Written by other code than this, damaged or forged: a miss.
        await within(budget, contest.store.delete(call.key))


def readable(near: Near, call: Call, entry: Entry | None) -> Stored | None:
    """What is stored, if it is one of this function's records."""
    if entry is None:
        return None
    try:
        return Stored(near.records.decode(call.key, entry.value), entry)
    except CodecError:
        near.counters.unreadable += 1
        return None


def raised_or(value: Any) -> Any:
    """A stored value, or the exception that is one."""
    if type(value) is Failure:
        raise value.taken()
    return value


def life_of(entry: Entry) -> Life:
    """For how long a stored value may be used from now on."""
    from resilient.policies.cached.freshness import Life

    return Life(entry.ttl, entry.fresh, entry.kept - entry.ttl)


def leased(near: Near, call: Call, owner: str, fence: int, began: float) -> Lease:
    """The right to compute, as something that the heartbeat renews."""
    return Lease(
        "computation",
        call.key,
        owner,
        fence,
        ttl=LEASE,
        began=began,
        store=near.backend.require("cache"),
        heartbeat=near.backend.heartbeat,
    )


async def insisted(ask: Callable[[], Plan[T]], budget: float) -> T:
    """Ask, and again after transient errors for so many seconds."""
    began = await NOW
    try:
        return await within(budget, ask())
    except BackendError as error:
        # What is left of the time is for errors that came at once.
        again = partial(_asked_within, budget, ask)
        return await asked_again(error, again, until=began + budget)


async def _asked_within(budget: float, ask: Callable[[], Plan[T]]) -> T:
    return await within(budget, ask())


async def given_back(settings: Settings, near: Near, calls: Iterable[Call], owner: str) -> None:
    """Give rights to compute back; where the backend cannot be told in time, their TTL does it."""
    if settings.unguarded and near.backend.outage.is_on:
        return
    store: CacheStore = near.backend.require("cache")
    budget = settings.asking.hard
    assert budget is not None
    ends = {call: store.abandon(call.key, owner=owner) for call in calls}
    try:
        await within(budget, all_of(list(ends.values())))
    except BackendError as error:
        near.counters.backend_errors += 1
        if settings.unguarded:
            left_alone(near, next(iter(ends)), error)


def troubled(settings: Settings, near: Near, call: Call, error: BackendError) -> None:
    """Do without the backend until it is back; raise its error if that is not wanted."""
    near.counters.backend_errors += 1
    if not settings.unguarded:
        raise error
    left_alone(near, call, error)


def left_alone(near: Near, call: Call, error: BackendError) -> None:
    """Ask the backend for nothing until it is back."""
    store: CacheStore = near.backend.require("cache")
    if not isinstance(error, NotAsked):
        near.backend.outage.begin(partial(store.has, call.key))
    events.emit(events.BackendTrouble(POLICY, call.key, error))


class FetchContest:
    """One caller's attempt to get a value, or the right to compute it."""

    __slots__ = ("budget", "call", "failed", "flight", "keeps", "owner", "store")

    def __init__(self, near: Near, call: Call, owner: str, budget: float, flight: Flight) -> None:
        self.store: CacheStore = near.backend.require("cache")
        self.call = call
        self.owner = owner
        self.budget = budget
        self.flight = flight
        self.keeps = near.local is not None
        self.failed = False

    async def ask(self, waiter: str | None) -> Entry | Leased | Busy:
        """Ask once."""
        key, tags = self.call.key, self.call.tags
        self.failed = False
        if self.keeps:
            self.flight.heed()
        try:
            ask = self.store.fetch(key, owner=self.owner, lease=LEASE, tags=tags, waiter=waiter)
            answer = await within(self.budget, ask)
        except BackendError:
            self.failed = True
            raise
        if isinstance(answer, Leased) or self.is_busy(answer):
            self.flight.heeds = False
        return answer

    def is_busy(self, answer: Entry | Leased | Busy) -> bool:
        """Whether somebody else computes it, and there is nothing to be served meanwhile."""
        return isinstance(answer, Busy) and (answer.stale is None or answer.stale.ttl <= 0)

    def evict(self, owner: str) -> Plan[object]:
        """End the lease of a dead process."""
        return within(self.budget, self.store.abandon(self.call.key, owner=owner))

    async def withdraw(self, waiter: str | None) -> None:
        """Give back the lease that may have been won; not where that failed in any case."""
        if not self.failed:
            await within(self.budget, self.store.abandon(self.call.key, owner=self.owner))

    def refusal(self, answer: Entry | Leased | Busy, waited: float) -> CallInProgress:
        """What ends a wait that may never end, or is not wanted; no caller sees it."""
        assert isinstance(answer, Busy)
        return CallInProgress(
            f"{self.call.key!r} is being computed by {describe(answer.owner)}",
            policy=POLICY,
            key=self.call.key,
        )
