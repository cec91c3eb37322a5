"""The lock, as a plan: take it or wait for it, run the body, give it back, report its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient import events
from resilient.config import Source
from resilient.engine.guard import current
from resilient.engine.identity import describe
from resilient.engine.plan import ATTEMPT, Body, Plan
from resilient.engine.waiting import obtained
from resilient.errors import BackendError, LeaseLost, LockNotAcquired
from resilient.policies.distributed_lock.leases import HeldLock
from resilient.protocols.locks import Grant, Held, LockStore

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["Settings", "guarded"]


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
        return await unprotected(settings, key)
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
        return await unprotected(settings, key)
    return await held(lease)


async def unprotected(settings: Settings, key: str) -> Any:
    """Run the body without the lock, under a lease that holds nothing and is never lost."""
    lease = settings.lease.pretended(key)
    outer = lease.outer = current.get()
    current.set(lease)
    try:
        return await Body(lease)
    finally:
        current.set(outer)


async def held(lease: HeldLock) -> Any:
    """Run the body under a lease, give the lease back, and report its loss."""
    outer = lease.outer = current.get()
    try:
        lease.keep()
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
    store = backend.locks
    assert store is not None  # its source has looked
    began, owner = await ATTEMPT
    contest = LockContest(store, key, owner, settings.ttl)
    began, grant = await obtained(contest, backend.hub, settings.wait, began)
    return settings.lease(
        key,
        owner=owner,
        fence=grant.fence,
        ttl=settings.ttl,
        began=began,
        backend=backend,
        store=store,
    )


class LockContest:
    """One caller's attempt to take one lock."""

    __slots__ = ("key", "owner", "store", "ttl")

    def __init__(self, store: LockStore, key: str, owner: str, ttl: float) -> None:
        self.store = store
        self.key = key
        self.owner = owner
        self.ttl = ttl

    def ask(self, waiter: str | None) -> Plan[Grant | Held]:
        """Try once."""
        return self.store.acquire(self.key, ttl=self.ttl, owner=self.owner, waiter=waiter)

    def is_busy(self, answer: Grant | Held) -> bool:
        """Whether somebody else holds the lock."""
        return type(answer) is Held

    def evict(self, owner: str) -> Plan[object]:
        """Release the lock of a dead holder."""
        return self.store.release(self.key, owner=owner)

    def withdraw(self, waiter: str | None) -> Plan[object]:
        """Release what may have been granted, and wait no longer."""
        if waiter is None:
            return self.store.release(self.key, owner=self.owner)
        return self.store.withdraw(self.key, owner=self.owner, waiter=waiter)

    def refusal(self, answer: Grant | Held, waited: float) -> LockNotAcquired:
        """The error that says who holds the lock, and for how long."""
        assert isinstance(answer, Held)
        return LockNotAcquired(
            f"the lock {self.key!r} is held by {describe(answer.owner)} for {answer.age:.1f} s "
            f"(fence {answer.fence}, {answer.ttl:.1f} s left unless renewed); "
            f"waited {waited:.1f} s",
            policy="distributed_lock",
            key=self.key,
            retry_after=answer.ttl,
        )
