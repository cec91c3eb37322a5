"""The cached call, as a plan: what the one caller does for whom all others in its process wait.

It asks the backend for the value or for the right to compute it, in one round trip. The right is
a lease: so one process computes and the others wait, woken by its end. The value is stored under
the lease, which an invalidation takes away: so nothing that was computed before an invalidation
is served after it. A stale value is served to all at once, and the flight goes on to replace it.
A backend that is away is asked nothing, and the function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resilient import events
from resilient.engine.budget import within
from resilient.engine.failure import Failure
from resilient.engine.flights import Returned
from resilient.engine.guard import guarded
from resilient.engine.identity import describe
from resilient.engine.lease import Lease
from resilient.engine.persistence import asked_again
from resilient.engine.plan import NEW_OWNER, NOW, Ask, Body, Plan
from resilient.engine.waiting import obtained
from resilient.errors import BackendError, CallInProgress, CodecError, LeaseLost
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
    "budget_of",
    "computed",
    "insisted",
    "leased",
    "life_of",
    "loaded",
    "raised_or",
    "read",
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


async def read(settings: Settings, near: Near, call: Call, nothing: Any) -> Any:
    """The stored value, where one look is enough and nothing is kept at hand; else `nothing`.

    The way of most calls without a layer in the process: it needs no flight, for whoever looks at
    the same moment has its question in the same trip.
    """
    if near.backend.outage.is_on:
        return nothing
    store: CacheStore = near.backend.require("cache")
    budget = settings.asking.hard
    assert budget is not None
    began = await NOW
    try:
        data = await within(budget, store.look(call.key, tags=call.tags))
        if data is None:
            return nothing
        value = near.records.decode(call.key, data)
    except CodecError:
        return nothing  # the flight says what becomes of it
    except BackendError as error:
        if await NOW - began >= budget / 2:
            troubled(settings, near, call, error)
        return nothing  # the flight asks again, or does without
    near.counters.hits += 1
    return raised_or(value)


async def loaded(settings: Settings, near: Near, call: Call, flight: Flight) -> Any:
    """The stored value; else the function's, stored for others."""
    near.counters.misses += 1
    if settings.unguarded and near.backend.outage.is_on:
        return await without_backend(settings, near, call)
    if call.context is not None:
        call.context.tell(flight.tag)
    owner = await NEW_OWNER
    try:
        if near.wants_to_watch:
            await watched(near, budget_of(settings, near, [call]))
        began, answer, stale = await asked(settings, near, call, owner, flight)
    except CallInProgress:  # it would wait too long, with others waiting for it
        return await computed(near, call)
    except BackendError as error:
        troubled(settings, near, call, error)
        return await without_backend(settings, near, call)
    if isinstance(answer, Stored):
        near.counters.misses -= 1
        near.counters.hits += 1
        call.add_tags(answer.entry.tags)
        flight.tag(call.tags)
        born = answer.entry.born
        unless = partial(flight.is_stale, born)
        near.keep(call, answer.value, life_of(answer.entry), born=born, began=began, unless=unless)
        return raised_or(answer.value)
    if stale is not None:
        flight.tag(stale.entry.tags)
        if flight.is_outdated:  # some who wait came after it was invalidated
            stale = None
    if stale is None:
        near.values.drop(call.key)
    else:
        call.remember(stale.value)
        if stale.entry.ttl > 0:
            near.counters.stale += 1
            flight.serve(stale.value, until=began + stale.entry.ttl)
        if settings.freshness.stale:
            flight.fallback = Returned(stale.value)
    lease = leased(near, call, owner, answer.fence, began)
    return await filled(settings, near, call, lease, stale, flight)


async def computed(near: Near, call: Call) -> Any:
    """Call the function."""
    near.counters.computed += 1
    try:
        return await Body(call.context)
    except Exception:
        near.counters.errors += 1
        raise


async def without_backend(settings: Settings, near: Near, call: Call) -> Any:
    """What is at hand to fall back on; else the function's value, which is not kept."""
    if settings.freshness.stale and (kept := near.kept(call.key)) is not None:
        near.counters.stale += 1
        return near.given(kept)
    return await computed(near, call)


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


async def filled(
    settings: Settings, near: Near, call: Call, lease: Lease, stale: Stored | None, flight: Flight
) -> Any:
    """Call the function under a lease, and store what it returns, or what stands for that."""
    outcome: Any
    try:
        lease.keep()
        began = await NOW
        try:
            outcome = await computed(near, call)
        except Exception as error:
            outcome, life = Failure(error), settings.freshness.of_error(error)
            encoded = encoded_error(near, call, outcome) if life is not None else None
            if encoded is None and stale is not None and type(stale.value) is not Failure:
                life = settings.freshness.of_fallback(stale.entry.ttl, stale.entry.kept)
                if life is not None:
                    outcome, encoded = stale.value, stale.entry.value
                    call.add_tags(stale.entry.tags)
                    near.counters.stale += 1
                    events.emit(events.StaleServed(call.key, error))
            if encoded is None:
                raise
        else:
            ctx = call.context
            life = await settings.freshness.of_value(
                outcome,
                await NOW - began,
                ttl=None if ctx is None else ctx.ttl,
                no_store=ctx is not None and not ctx.is_stored,
            )
            encoded = None if life is None else near.records.encode(call.key, outcome)
    except BaseException:
        outcome = None  # the error's traceback holds this frame: a cycle, if that holds the error
        await abandoned(near, call, lease)
        raise
    if life is None or encoded is None:
        await abandoned(near, call, lease)
        return outcome
    lease.drop()
    if not lease.inherited:  # in a forked child: the parent's to store
        await stored(settings, near, call, lease, outcome, encoded, life, flight)
    return raised_or(outcome)


def encoded_error(near: Near, call: Call, failure: Failure) -> Any:
    """The record of an exception; `None` if it has no stored form, and so is no result."""
    with suppress(CodecError):
        return near.records.encode(call.key, failure)
    return None


async def abandoned(near: Near, call: Call, lease: Lease) -> None:
    """Give the right to compute back."""
    store: CacheStore = near.backend.require("cache")
    lease.drop()
    if not lease.inherited:
        with suppress(BackendError):
            await store.abandon(call.key, owner=lease.owner)


async def stored(
    settings: Settings,
    near: Near,
    call: Call,
    lease: Lease,
    outcome: Any,
    encoded: Any,
    life: Life,
    flight: Flight,
) -> None:
    """Store a value under its lease, and have it at hand."""
    store: CacheStore = near.backend.require("cache")
    budget = settings.asking.hard
    assert budget is not None
    if call.context is not None:
        call.add_tags(call.context.tags)
    fill = partial(
        store.fill,
        call.key,
        encoded,
        owner=lease.owner,
        ttl=life.ttl,
        fresh=life.fresh,
        stale=life.stale,
        tags=call.tags,
    )
    born = lease.fence
    if near.local is not None:
        flight.heed()  # what was changed before is replaced by this
    began = await NOW
    try:
        if await guarded(insisted, fill, budget):
            unless = partial(flight.is_stale, born)
            near.keep(call, outcome, life, born=born, began=began, unless=unless)
    except BackendError as error:
        troubled(settings, near, call, error)
    except LeaseLost:  # of a lock around this: what was computed is not to be relied on
        await abandoned(near, call, lease)


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


def troubled(settings: Settings, near: Near, call: Call, error: BackendError) -> None:
    """Do without the backend until it is back; raise its error if that is not wanted."""
    near.counters.backend_errors += 1
    if not settings.unguarded:
        raise error
    store: CacheStore = near.backend.require("cache")
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
        return self.store.abandon(self.call.key, owner=owner)

    async def withdraw(self, waiter: str | None) -> None:
        """Give back the lease that may have been won; not where that failed in any case."""
        if not self.failed:
            await self.store.abandon(self.call.key, owner=self.owner)

    def refusal(self, answer: Entry | Leased | Busy, waited: float) -> CallInProgress:
        """What ends a wait that may never end; no caller sees it."""
        assert isinstance(answer, Busy)
        return CallInProgress(
            f"{self.call.key!r} is being computed by {describe(answer.owner)}",
            policy=POLICY,
            key=self.call.key,
        )
