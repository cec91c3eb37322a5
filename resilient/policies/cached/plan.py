"""The cached call, as a plan: what the one caller does for whom all others in its process wait.

It asks the backend for the value or for the right to compute it, in one round trip. The right is
a lease: so one process computes and the others wait, woken by its end. The value is stored under
the lease, which an invalidation takes away: so nothing that was computed before an invalidation
is served after it. A stale value is served to all at once, and the flight goes on to replace it.
A backend that is away is asked nothing, and the function is called.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from resilient import events
from resilient.engine import identity
from resilient.engine.budget import within
from resilient.engine.failure import Failure
from resilient.engine.flights import Returned
from resilient.engine.guard import guarded
from resilient.engine.lease import Lease
from resilient.engine.plan import NOW, Body
from resilient.errors import BackendError, CallInProgress, CodecError, LeaseLost
from resilient.policies.cached.asking import (
    Stored,
    asked,
    budget_of,
    given_back,
    insisted,
    leased,
    life_of,
    raised_or,
    troubled,
    watched,
)
from resilient.policies.cached.near import Call, Near
from resilient.policies.cached.settings import Settings
from resilient.protocols.cache import CacheStore

if TYPE_CHECKING:
    from resilient.engine.flights import Flight
    from resilient.policies.cached.freshness import Life

__all__ = ["computed", "loaded", "read"]


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
    owner = identity.new_owner()
    try:
        if near.wants_to_watch:
            await watched(near, budget_of(settings, near, [call]))
        began, answer, stale = await asked(settings, near, call, owner, flight)
    except CallInProgress:  # not to be waited for, or for too long with others waiting for it
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
                longest=near.backend.max_ttl,
            )
            encoded = None if life is None else near.records.encode(call.key, outcome)
    except BaseException:
        outcome = None  # the error's traceback holds this frame: a cycle, if that holds the error
        await abandoned(settings, near, call, lease)
        raise
    if life is None or encoded is None:
        await abandoned(settings, near, call, lease)
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


async def abandoned(settings: Settings, near: Near, call: Call, lease: Lease) -> None:
    """Give the right to compute back."""
    lease.drop()
    if not lease.inherited:
        await given_back(settings, near, [call], lease.owner)


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
        if await guarded(partial(insisted, fill, budget)):
            unless = partial(flight.is_stale, born)
            near.keep(call, outcome, life, born=born, began=began, unless=unless)
    except BackendError as error:
        troubled(settings, near, call, error)
    except LeaseLost:  # of a lock around this: what was computed is not to be relied on
        await abandoned(settings, near, call, lease)
