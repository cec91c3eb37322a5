"""The lock, as a plan.

A first try takes one round trip. Whoever finds the lock held registers as a waiter in the same
operation in which it tries again, and is woken by the release; a slow look by itself covers a
signal that was missed. A holder that was a process of this host and is gone is released at once.

Every operation names its owner, so all of them may be asked again when a reply is lost, and what an
interrupted acquire may have won is always given back.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from resilient import events
from resilient.config import Source
from resilient.engine.identity import describe
from resilient.engine.persistence import BUDGET, asked_again
from resilient.engine.plan import NEW_OWNER, NOW, Body, IsDead, Keep, Listen, Wait
from resilient.errors import BackendError, LeaseLost, LockNotAcquired
from resilient.policies.distributed_lock.leases import HeldLock, current
from resilient.protocols.locks import Grant, Held, LockStore

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["Settings", "guarded"]

EXPIRY_SLACK = 0.002
"""Seconds past a holder's TTL at which to look, so that the look is not a moment too early."""


class Settings:
    """The options of one lock.

    Attributes:
        source: Where its backend comes from.
        ttl: Seconds after which it frees itself unless renewed.
        wait: Seconds to wait for another holder; 0: try once; `None`: no limit.
        lease: The kind of lease that its holder gets.
        skip: Whether a busy lock skips the call, which then answers `skipped`.
        unguarded: Whether the call runs without the lock when the backend is away.
    """

    __slots__ = ("lease", "skip", "skipped", "source", "ttl", "unguarded", "wait")

    def __init__(
        self,
        source: Source,
        *,
        ttl: float,
        wait: float | None,
        lease: type[HeldLock],
        skip: bool = False,
        skipped: Any = None,
        unguarded: bool = False,
    ) -> None:
        self.source = source
        self.ttl = ttl
        self.wait = wait
        self.lease = lease
        self.skip = skip
        self.skipped = skipped
        self.unguarded = unguarded


async def guarded(settings: Settings, key: str) -> Any:
    """Run the body while holding the lock."""
    backend = settings.source.backend()
    if backend is None:
        return await Body()
    try:
        lease = await acquired(settings, backend, key)
    except LockNotAcquired:
        if settings.skip:
            return settings.skipped
        raise
    except BackendError as error:
        if not settings.unguarded:
            raise
        events.emit(events.BackendTrouble("distributed_lock", key, error))
        return await Body()
    return await held(lease)


async def held(lease: HeldLock) -> Any:
    """Run the body under a lease, give the lease back, and report its loss."""
    outer = current.get()
    try:
        await Keep(lease)
        current.set(lease)
        answer = await Body(lease, lease, cancel=True)
    except BaseException as error:
        current.set(outer)
        lost = await lease.releasing()
        if lost is not None and not isinstance(error, LeaseLost):
            error.add_note(str(lost))
        raise
    current.set(outer)
    lost = await lease.releasing()
    if lost is not None:
        raise lost
    return answer


async def acquired(settings: Settings, backend: Backend, key: str) -> HeldLock:
    """Take the lock, or wait for it."""
    store: LockStore = backend.require("locks")
    owner = await NEW_OWNER
    try:
        began, answer = await asked(store, key, settings.ttl, owner)
    except BaseException:
        await undone(store.release(key, owner=owner))
        raise
    if isinstance(answer, Held):
        if settings.wait == 0:
            raise busy(key, answer, waited=0.0)
        began, answer = await queued(settings, backend, key, owner)
    return settings.lease(
        key,
        owner=owner,
        fence=answer.fence,
        ttl=settings.ttl,
        began=began,
        backend=backend,
        store=store,
    )


async def queued(settings: Settings, backend: Backend, key: str, owner: str) -> tuple[float, Grant]:
    """Wait for the lock among others; whoever gives up leaves nothing behind."""
    store: LockStore = backend.require("locks")
    start = await NOW
    waiter = await Listen(backend.hub)
    address = backend.hub.address(waiter)
    try:
        while True:
            began, answer = await asked(store, key, settings.ttl, owner, address)
            if isinstance(answer, Grant):
                return began, answer
            waited = await NOW - start
            left = math.inf if settings.wait is None else settings.wait - waited
            if left <= 0:
                raise busy(key, answer, waited)
            await Wait(waiter, min(left, answer.ttl + EXPIRY_SLACK, backend.hub.recheck))
    except BaseException:
        await undone(store.withdraw(key, owner=owner, waiter=address))
        raise


async def asked(
    store: LockStore, key: str, ttl: float, owner: str, waiter: str | None = None
) -> tuple[float, Grant | Held]:
    """Try once: when that was, for the deadline, and the answer. A dead holder is released."""

    async def attempt() -> tuple[float, Grant | Held]:
        return await NOW, await store.acquire(key, ttl=ttl, owner=owner, waiter=waiter)

    began = await NOW
    try:
        answer = await store.acquire(key, ttl=ttl, owner=owner, waiter=waiter)
    except BackendError as error:
        began, answer = await asked_again(error, attempt, until=began + BUDGET)
    while isinstance(answer, Held) and await IsDead(answer.owner):
        await store.release(key, owner=answer.owner)
        began, answer = await attempt()
    return began, answer


async def undone(compensation: Awaitable[object]) -> None:
    """Undo what an interrupted operation may have done; failing that, its TTL undoes it."""
    with suppress(BackendError):
        await compensation


def busy(key: str, holder: Held, waited: float) -> LockNotAcquired:
    """The error that says who holds the lock, and for how long."""
    return LockNotAcquired(
        f"the lock {key!r} is held by {describe(holder.owner)} for {holder.age:.1f} s "
        f"(fence {holder.fence}, {holder.ttl:.1f} s left unless renewed); "
        f"waited {waited:.1f} s",
        policy="distributed_lock",
        key=key,
        retry_after=holder.ttl,
    )
