"""A batch of cached calls, as a plan: one request for all values, one call for what is missing.

Each missing value has its lease, as that of a single call has: of all batches and calls that want
it, in all processes, one computes it. A batch computes and stores what it has the leases of before
it waits for the rest: so no two wait for one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from resilient import events
from resilient.engine import identity
from resilient.engine.budget import within
from resilient.engine.failure import Failure
from resilient.engine.flights import Returned
from resilient.engine.guard import guarded
from resilient.engine.plan import NOW, Body, IsDead, Sleep, Wait
from resilient.engine.signals import POLL
from resilient.engine.waiting import EXPIRY_SLACK, listening
from resilient.errors import BackendError, ConfigurationError, LeaseLost
from resilient.policies.cached.asking import (
    LEASE,
    PATIENCE,
    Stored,
    budget_of,
    given_back,
    insisted,
    leased,
    life_of,
    raised_or,
    readable,
    troubled,
    watched,
)
from resilient.policies.cached.near import Call, Near
from resilient.policies.cached.settings import POLICY, Settings
from resilient.protocols.cache import Busy, CacheStore, Entry, Filling, Leased
from resilient.protocols.values import Encoded

if TYPE_CHECKING:
    from resilient.engine.flights import Flight
    from resilient.engine.lease import Lease
    from resilient.engine.signals import GiftedWaiter
    from resilient.policies.cached.freshness import Life

__all__ = ["Calls", "gathered"]

Calls = dict[Any, Call]
"""The call of each item of a batch."""


async def gathered(
    settings: Settings, near: Near, calls: Calls, flight: Flight | None
) -> dict[Any, Any]:
    """The values of all calls that have one, in their order.

    Args:
        settings: The options.
        near: Where the values are.
        calls: What is wanted.
        flight: Through which the callers can have stale values while they are computed anew.
    """
    gathering = Gathering(settings, near, calls, flight)
    gathering.at_hand()
    if gathering.wanted and settings.unguarded and near.backend.outage.is_on:
        await gathering.alone()
    elif gathering.wanted:
        await gathering.run(identity.new_owner())
    return gathering.answer({})


class Owned(NamedTuple):
    """The right to compute a value, and what there is of it: a former one."""

    lease: Lease
    stale: Stored | None


class Outcome(NamedTuple):
    """What is stored for an item, and for how long."""

    value: Any
    record: Encoded
    life: Life


class Gathering:
    """One batch on its way.

    Attributes:
        found: The values that are there.
        wanted: The calls of the others.
    """

    def __init__(self, settings: Settings, near: Near, calls: Calls, flight: Flight | None) -> None:
        self.found: dict[Any, Any] = {}
        self.wanted = dict(calls)
        self._calls = calls
        self._flight = flight
        self._settings = settings
        self._near = near
        self._store: CacheStore = near.backend.require("cache")
        self._waiter: GiftedWaiter | None = None
        self._owner = ""
        self._began = 0.0
        self._trouble: BackendError | None = None
        self._read(())
        budget = settings.asking.hard
        assert budget is not None
        self._budget = budget

    def answer(self, besides: Mapping[Any, Any]) -> dict[Any, Any]:
        """What was found, and besides, in the order of the calls."""
        found = {**besides, **self.found}
        return {item: found[item] for item in self._calls if item in found}

    def at_hand(self) -> None:
        """Take what is at hand in this process."""
        for item, call in list(self.wanted.items()):
            entry = self._near.find(call.key, None)
            if entry is not None:
                self._take(item, self._near.given(entry))

    async def run(self, owner: str) -> None:
        """Ask, compute what is ours to compute, wait for what others do, until all is there."""
        self._owner, start = owner, await NOW
        while self.wanted:
            keys = [call.key for call in self.wanted.values()]
            self._read(keys)
            self._began = await NOW
            try:
                if self._near.wants_to_watch:
                    await watched(
                        self._near, budget_of(self._settings, self._near, self.wanted.values())
                    )
                answers = await self._asked()
            except BackendError as error:
                self._troubled(error)
                await self.alone()
                return
            ours, theirs = await self._sorted(answers)
            self._read(())
            if ours:
                await self._filled(ours)
            if self._trouble is not None and self.wanted:
                self._troubled(self._trouble)
                await self.alone()
            elif self.wanted and (
                not self._settings.waits
                or await NOW - start > PATIENCE  # it may be waited for itself
            ):
                await self.alone()
            elif theirs:
                await self._rested(theirs)

    async def alone(self) -> None:
        """Compute what is wanted, for nobody else; not what there is something to fall back on."""
        if self._settings.freshness.stale:
            for item, call in list(self.wanted.items()):
                kept = self._near.kept(call.key)
                if kept is not None:
                    self._near.counters.stale += 1
                    self._take(item, self._near.given(kept))
        if self.wanted:
            self.found |= await self._computed(list(self.wanted))
            self.wanted.clear()

    def _troubled(self, error: BackendError) -> None:
        troubled(self._settings, self._near, next(iter(self.wanted.values())), error)

    # --- asking

    async def _asked(self) -> list[Entry | Leased | Busy]:
        calls, waiter = self.wanted.values(), self._waiter
        ask = partial(
            self._store.fetch_many,
            [call.key for call in calls],
            owner=self._owner,
            lease=LEASE,
            tags=[call.tags for call in calls],
            waiter=None if waiter is None else self._near.backend.hub.address(waiter),
        )
        try:
            return await insisted(ask, budget_of(self._settings, self._near, calls))
        except BackendError:
            raise
        except BaseException:  # cancelled: some leases may have been won
            await self._withdrawn(calls)
            raise

    async def _sorted(
        self, answers: Sequence[Entry | Leased | Busy]
    ) -> tuple[dict[Any, Owned], list[tuple[Call, Busy]]]:
        """Take what there is; the leases that are ours, and what others compute."""
        ours: dict[Any, Owned] = {}
        theirs: list[tuple[Call, Busy]] = []
        asked = list(self.wanted.items())
        try:
            for (item, call), answer in zip(asked, answers, strict=True):
                if isinstance(answer, Leased):
                    ours[item] = self._owned(call, answer)
                elif isinstance(answer, Entry):
                    await self._received(item, call, answer)
                elif answer.stale is not None and answer.stale.ttl > 0:
                    self._near.counters.stale += 1
                    await self._received(item, call, answer.stale)
                else:
                    theirs.append((call, answer))
        except BaseException:  # the value of one of them is an exception, or it is cancelled
            pairs = zip(asked, answers, strict=True)
            await self._withdrawn([call for (_, call), got in pairs if isinstance(got, Leased)])
            raise
        return ours, theirs

    def _owned(self, call: Call, answer: Leased) -> Owned:
        stale = readable(self._near, call, answer.stale)
        if stale is None or type(stale.value) is Failure:
            self._near.values.drop(call.key)
            stale = None
        return Owned(leased(self._near, call, self._owner, answer.fence, self._began), stale)

    async def _served(self, ours: dict[Any, Owned]) -> None:
        """Let the callers have stale values, where nothing is missing."""
        stale = {item: its.stale for item, its in ours.items() if its.stale is not None}
        if self._flight is None or len(stale) < len(self.wanted):
            return
        values = self.answer({item: its.value for item, its in stale.items()})
        left = min(its.entry.ttl for its in stale.values())
        if left > 0 and self._settings.freshness.serves_stale:
            self._near.counters.stale += len(stale)
            self._flight.serve(values, until=self._began + left)
        if self._settings.freshness.stale:
            self._flight.fallback = Returned(values)
        await Sleep(0)  # who waits for them goes on before they are computed anew

    async def _received(self, item: Any, call: Call, entry: Entry) -> None:
        stored = readable(self._near, call, entry)
        if stored is None:  # a miss; the next round asks for it again
            try:
                await within(self._budget, self._store.delete(call.key))
            except BackendError as error:  # the next round would find it once more
                self._trouble = error
            return
        self._near.counters.hits += 1
        call.add_tags(entry.tags)
        self._keep(call, stored.value, life_of(entry), entry.born)
        self._take(item, raised_or(stored.value))

    async def _rested(self, theirs: list[tuple[Call, Busy]]) -> None:
        """Wait until one of the others may be there; the first time, only to be registered."""
        for call, busy in theirs:
            if await IsDead(busy.owner):
                with suppress(BackendError):
                    await within(self._budget, self._store.abandon(call.key, owner=busy.owner))
                return
        hub, left = self._near.backend.hub, min(busy.ttl for _, busy in theirs) + EXPIRY_SLACK
        if self._waiter is not None:
            await Wait(self._waiter, min(left, hub.recheck))
            return
        self._waiter = await within(self._budget, listening(hub))
        if self._waiter is None:  # nothing is heard: it looks by itself
            await Sleep(min(left, POLL))

    # --- computing

    async def _computed(self, items: list[Any]) -> dict[Any, Any]:
        """Call the function with the items."""
        counters = self._near.counters
        counters.misses += len(items)
        counters.computed += 1
        try:
            values = await Body(items)
        except Exception:
            counters.errors += 1
            raise
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"@{POLICY}.batch: the function returned {type(values).__name__!r}, "
                "not a mapping of its items to their values"
            )
        return {item: values[item] for item in items if item in values}

    async def _filled(self, ours: dict[Any, Owned]) -> None:
        """Compute what we have the leases of, and store it, or what stands for that."""
        calls = {item: self.wanted[item] for item in ours}
        failed: Exception | None = None
        try:
            await self._served(ours)
            for its in ours.values():
                its.lease.keep()
            start = await NOW
            try:
                values = await self._computed(list(ours))
            except Exception as error:
                failed = error
                outcomes = self._fallbacks(ours, error)
                values = {item: each.value for item, each in outcomes.items()}
            else:
                outcomes = await self._outcomes(values, await NOW - start)
        except BaseException:
            await self._dropped(ours, calls.values())
            raise
        await self._dropped(ours, [calls[item] for item in calls if item not in outcomes])
        if outcomes and not any(its.lease.inherited for its in ours.values()):
            await self._stored(outcomes, ours)
        try:
            if failed is not None and len(values) < len(ours):
                raise failed
        finally:
            del failed  # or this frame and its traceback hold one another
        for item in calls:
            self.wanted.pop(item)
        self.found.update(values)

    async def _outcomes(self, values: dict[Any, Any], took: float) -> dict[Any, Outcome]:
        """What is to be stored of computed values."""
        outcomes = {}
        for item, value in values.items():
            life = await self._settings.freshness.of_value(
                value, took, ttl=None, no_store=False, longest=self._near.backend.max_ttl
            )
            if life is not None:
                record = self._near.records.encode(self.wanted[item].key, value)
                outcomes[item] = Outcome(value, record, life)
        return outcomes

    def _fallbacks(self, ours: dict[Any, Owned], error: Exception) -> dict[Any, Outcome]:
        """What stands, for a while, for what could not be computed."""
        outcomes = {}
        for item, (_, stale) in ours.items():
            if stale is None:
                continue
            life = self._settings.freshness.of_fallback(stale.entry.ttl, stale.entry.kept)
            if life is not None:
                call = self.wanted[item]
                call.add_tags(stale.entry.tags)
                outcomes[item] = Outcome(stale.value, stale.entry.value, life)
                self._near.counters.stale += 1
                events.emit(events.StaleServed(call.key, error))
        return outcomes

    async def _stored(self, outcomes: dict[Any, Outcome], ours: dict[Any, Owned]) -> None:
        calls = {item: self.wanted[item] for item in outcomes}
        fillings = [
            Filling(calls[item].key, each.record, *each.life, calls[item].tags)
            for item, each in outcomes.items()
        ]
        # What was changed before this is replaced by it.
        self._read(each.key for each in fillings)
        fill = partial(self._store.fill_many, fillings, owner=self._owner)
        try:
            kept = await guarded(partial(insisted, fill, self._budget))
        except BackendError as error:
            troubled(self._settings, self._near, next(iter(calls.values())), error)
        except LeaseLost:  # of a lock around this: what was computed is not to be relied on
            await self._withdrawn(calls.values())
        else:
            for (item, each), is_kept in zip(outcomes.items(), kept, strict=True):
                if is_kept:
                    self._keep(calls[item], each.value, each.life, ours[item].lease.fence)

    async def _dropped(self, ours: dict[Any, Owned], calls: Iterable[Call]) -> None:
        """Renew none of the leases any more, and give some of them back."""
        for its in ours.values():
            its.lease.drop()
        calls = list(calls)
        if calls and not any(its.lease.inherited for its in ours.values()):
            await self._withdrawn(calls)

    async def _withdrawn(self, calls: Iterable[Call]) -> None:
        await given_back(self._settings, self._near, calls, self._owner)

    def _read(self, keys: Iterable[str]) -> None:
        """Heed what the backend is heard to have of these from now on, if they are to be kept."""
        self._reading = self._near.nearby.reading(() if self._near.local is None else keys)

    def _keep(self, call: Call, value: Any, life: Life, born: int) -> None:
        unless = partial(self._reading.is_stale, call.key, born)
        self._near.keep(call, value, life, born=born, began=self._began, unless=unless)

    def _take(self, item: Any, value: Any) -> None:
        self.found[item] = value
        self.wanted.pop(item, None)
