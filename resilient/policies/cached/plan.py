"""The cached call, as a plan: what the one caller does for whom all others in its process wait.

It asks the backend for the value or for the right to compute it, in one round trip. The right is
a lease: so one process computes and the others wait, woken by its end. The value is stored under
the lease, which an invalidation takes away: so nothing that was computed before an invalidation
is served after it. A backend that is away is left alone for a while, and the function is called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resilient import events
from resilient.config import Source
from resilient.engine.budget import within
from resilient.engine.guard import guarded
from resilient.engine.identity import describe
from resilient.engine.lease import Lease
from resilient.engine.persistence import BUDGET, asked_again
from resilient.engine.plan import NEW_OWNER, NOW, Ask, Body, Plan
from resilient.engine.waiting import obtained
from resilient.errors import BackendError, CallInProgress, CodecError, LeaseLost
from resilient.policies.cached.near import Call, LocalCache, Near
from resilient.protocols.cache import Busy, CacheStore, Entry, Leased

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.engine.codecs import Codec
    from resilient.engine.flights import Flight

__all__ = ["Settings", "computed", "invalidated", "invalidated_tags", "loaded", "peeked"]

T = TypeVar("T")

POLICY = "cached"

LEASE = 5.0
"""Seconds after which somebody else computes the value if its computation's process died."""
PATIENCE = 30.0
"""Seconds for which a computation waits for another process's: each may want the other's value."""
QUICK = 0.25
"""Seconds for which a request is sent again after a transient error: here the function can help."""


class Settings:
    """The options of one cached function.

    Attributes:
        source: Where its backend comes from.
        namespace: The tag of all its entries.
        codec: Turns its results into their stored form and back.
        ttl: Seconds for which a value is served.
        local: The layer in this process, `None` for none, `"auto"` where it can be trusted.
        unguarded: Whether the function is called when the backend is away.
    """

    __slots__ = ("codec", "local", "namespace", "source", "ttl", "unguarded")

    def __init__(
        self,
        source: Source,
        *,
        namespace: str,
        codec: Codec,
        ttl: float,
        local: Any,
        unguarded: bool,
    ) -> None:
        self.source = source
        self.namespace = namespace
        self.codec = codec
        self.ttl = ttl
        self.local: LocalCache | str | None = local
        self.unguarded = unguarded


class Stored(NamedTuple):
    """A value that the backend had, and for how many seconds it may be served."""

    value: Any
    ttl: float


async def loaded(settings: Settings, near: Near, call: Call, flight: Flight) -> Any:
    """The stored value; else the function's, stored for others."""
    near.counters.misses += 1
    began = await NOW
    if settings.unguarded and near.backend.outage.is_on:
        return await computed(near)
    if near.wants_to_watch:
        await watched(near)
    owner = await NEW_OWNER
    try:
        began, answer = await asked(near, call, owner, flight)
    except CallInProgress:  # it would wait too long, with others waiting for it
        return await computed(near)
    except BackendError as error:
        troubled(settings, near, call, error)
        return await computed(near)
    if isinstance(answer, Stored):
        near.counters.misses -= 1
        near.counters.hits += 1
        near.keep(call, answer.value, answer.ttl, began=began, flight=flight)
        return answer.value
    lease = leased(near, call, owner, answer.fence, began)
    return await filled(settings, near, call, lease, flight)


async def computed(near: Near) -> Any:
    """Call the function."""
    near.counters.computed += 1
    try:
        return await Body()
    except Exception:
        near.counters.errors += 1
        raise


async def watched(near: Near) -> None:
    """Listen to what others make stale, so that values can be at hand; if not, they are not."""
    with suppress(BackendError):
        await Ask(near.nearby, None)


async def asked(
    near: Near, call: Call, owner: str, flight: Flight
) -> tuple[float, Stored | Leased]:
    """The stored value or the right to compute it, and when that was asked for."""
    contest = FetchContest(near, call, owner)
    patience = PATIENCE if flight.is_nested else None
    while True:
        began, answer = await obtained(contest, near.backend.hub, patience, await NOW, budget=QUICK)
        if isinstance(answer, Leased):
            return began, answer
        assert isinstance(answer, Entry)
        with suppress(CodecError):
            return began, Stored(near.codec.decode(answer.value), answer.ttl)
        # Written by other code than this, or damaged: a miss.
        await contest.store.delete(call.key)


def leased(near: Near, call: Call, owner: str, fence: int, began: float) -> Lease:
    """The right to compute, as something that the heartbeat renews."""
    store: CacheStore = near.backend.require("cache")

    def renew(ttl: float) -> Plan[bool]:
        return store.renew(call.key, owner=owner, lease=ttl)

    return Lease(
        "computation",
        call.key,
        owner=owner,
        fence=fence,
        ttl=LEASE,
        began=began,
        renew=renew,
        heartbeat=near.backend.heartbeat,
    )


async def filled(settings: Settings, near: Near, call: Call, lease: Lease, flight: Flight) -> Any:
    """Call the function under a lease, and store what it returns."""
    store: CacheStore = near.backend.require("cache")
    try:
        lease.keep()
        value = await computed(near)
        encoded = near.codec.encode(value)
    except BaseException:
        lease.drop()
        if not lease.inherited:
            with suppress(BackendError):
                await store.abandon(call.key, owner=lease.owner)
        raise
    lease.drop()
    if lease.inherited:  # in a forked child: the parent's to store
        return value
    began = await NOW
    fill = partial(
        store.fill, call.key, encoded, owner=lease.owner, ttl=settings.ttl, tags=call.tags
    )
    try:
        stored = await guarded(insisted, fill, QUICK)
    except BackendError as error:
        troubled(settings, near, call, error)
        return value
    except LeaseLost:  # of a lock around this: what was computed is not to be relied on
        stored = False
        with suppress(BackendError):
            await store.abandon(call.key, owner=lease.owner)
    if stored:
        near.keep(call, value, settings.ttl, began=began, flight=flight)
    return value


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

    __slots__ = ("call", "failed", "owner", "store")

    def __init__(self, near: Near, call: Call, owner: str) -> None:
        self.store: CacheStore = near.backend.require("cache")
        self.call = call
        self.owner = owner
        self.failed = False

    async def ask(self, waiter: str | None) -> Entry | Leased | Busy:
        """Ask once."""
        key, tags = self.call.key, self.call.tags
        self.failed = False
        try:
            ask = self.store.fetch(key, owner=self.owner, lease=LEASE, tags=tags, waiter=waiter)
            return await within(QUICK, ask)
        except BackendError:
            self.failed = True
            raise

    def is_busy(self, answer: Entry | Leased | Busy) -> bool:
        """Whether somebody else computes it."""
        return isinstance(answer, Busy)

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


# --- controls ----------------------------------------------------------------------------------


async def invalidated(near: Near, key: str) -> bool:
    """Remove a value everywhere, and have what computes it now come to nothing."""
    store: CacheStore = near.backend.require("cache")
    near.nearby.hear(key)
    try:
        return await insisted(partial(store.delete, key), BUDGET)
    finally:
        near.nearby.hear(key)  # again: it may have been read meanwhile


async def invalidated_tags(backend: Backend, tags: tuple[str, ...]) -> None:
    """Make everything that has one of the tags a miss, everywhere."""
    store: CacheStore = backend.require("cache")
    try:
        await insisted(partial(store.invalidate_tags, tags), BUDGET)
    finally:
        for tag in tags:
            backend.nearby.hear(f"#{tag}")


async def peeked(near: Near, key: str, missing: Any) -> Any:
    """What is stored; nothing is computed, kept or counted."""
    found = near.values.find(key)
    if found is not None:
        return near.given(found.value)
    store: CacheStore = near.backend.require("cache")
    entry = await store.get(key)
    if entry is not None:
        with suppress(CodecError):
            return near.codec.decode(entry.value)
    return missing
