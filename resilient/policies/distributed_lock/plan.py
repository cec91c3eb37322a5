"""The lock, as a plan: take it or wait for it, run the body, give it back, report its loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from resilient import events
from resilient.engine import clock, identity
from resilient.engine.guard import current
from resilient.engine.identity import describe
from resilient.engine.persistence import BUDGET, asked_until
from resilient.engine.plan import NOW, Body, Plan, Together
from resilient.engine.waiting import obtained
from resilient.errors import BackendError, LeaseLost, LockNotAcquired
from resilient.policies.distributed_lock.leases import HeldLock
from resilient.policies.distributed_lock.settings import POLICY, Settings
from resilient.protocols.locks import HANDED_OVER, Grant, Held, LockStore

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["acquired", "adopted", "guarded", "note_of", "refused", "told", "unprotected"]


async def guarded(
    settings: Settings,
    key: str,
    take: Callable[[Settings, Backend, str], Plan[HeldLock]] | None = None,
) -> Any:
    """Run the body while holding the lock, give it back, and report its loss.

    In one piece: each coroutine around the body is gone through twice in every call.

    Args:
        settings: The options.
        key: The lock.
        take: How it is taken; `acquired` by default.
    """
    backend = settings.source.backend()
    if backend is None:
        return await unprotected(settings, key)
    try:
        lease = await (take or acquired)(settings, backend, key)
    except LockNotAcquired:
        if settings.skip:
            return settings.skipped
        raise
    except BackendError as error:
        if not settings.unguarded:
            raise
        events.emit(events.BackendTrouble(POLICY, key, error))
        return await unprotected(settings, key)
    if lease.is_entered:
        return await Body(lease)
    outer = lease.outer = current.get()
    on_lost, kept = settings.on_lost, lease.heartbeat.leases
    try:
        try:
            lease.keep()
            if callable(on_lost):
                lease.when_lost(partial(told, on_lost, ref(lease)))
            current.set(lease)
            lease.is_entered = True
            answer = await Body(lease, lease, on_lost == "cancel")
        except BaseException as error:
            current.set(outer)
            report(error, await lease.releasing())
            raise
        current.set(outer)
        lost = await lease.releasing()
    except BaseException:
        kept.discard(lease)  # wherever this is interrupted, nothing renews it for ever
        raise
    if lost is not None:
        raise lost
    return answer


async def unprotected(settings: Settings, key: str) -> Any:
    """Run the body without the lock, under a lease that holds nothing and is never lost."""
    lease = settings.lease.pretended(key)
    outer = lease.outer = current.get()
    current.set(lease)
    try:
        return await Body(lease)
    finally:
        current.set(outer)


def told(on_lost: Callable[[Any], object], lease: ref[Any]) -> None:
    """Call a user's function with what was lost, unless its block has just ended."""
    held = lease()
    if held is not None:
        on_lost(held)


def report(error: BaseException, lost: LeaseLost | None) -> None:
    """Tell of a loss beneath the body's own exception, which goes on."""
    if lost is None or isinstance(error, LeaseLost):
        return
    error.add_note(str(lost))
    errors, causes = beneath(error), beneath(lost)
    if not {id(each) for each in errors}.intersection(id(each) for each in causes):
        errors[-1].__context__ = lost
    # Else other locks were lost by the same trouble, and one that tells of it is there already:
    # with a second one above it the chain would have no end.


def beneath(error: BaseException) -> list[BaseException]:
    """An exception, and those that are told beneath it, each once."""
    chain, seen = [error], {id(error)}
    while (below := error.__cause__ or error.__context__) is not None and id(below) not in seen:
        chain.append(below)
        seen.add(id(below))
        error = below
    return chain


async def acquired(settings: Settings, backend: Backend, key: str) -> HeldLock:
    """Take the lock, or wait for it; the holder's own lease, if it may enter it again."""
    store = backend.locks
    assert store is not None  # its source has looked
    began, owner, caller = clock.now(), identity.new_owner(), identity.caller()
    if settings.reentrant and (mine := entered(settings, store, key, caller)) is not None:
        return mine
    contest = LockContest(settings, store, key, owner, note_of(caller))
    outlasts = not settings.unguarded
    began, grant = await obtained(contest, backend.hub, settings.wait, began, outlasts=outlasts)
    assert type(grant) is Grant
    return settings.lease(settings, backend, key, grant, began, caller)


def entered(settings: Settings, store: LockStore, key: str, caller: object) -> HeldLock | None:
    """The lease under which this thread or task holds the lock already."""
    lease: HeldLock | None = current.get()
    while lease is not None:
        if (
            lease.key == key
            and lease.caller is caller
            and lease.store is store
            and lease.settings.mode == settings.mode
            and not lease.released
        ):
            lease.check()
            return lease
        lease = lease.outer
    return None


def adopted(settings: Settings, key: str, token: str) -> Plan[Any]:
    """Run the body under a hold that another lease has handed on."""
    return guarded(settings, key, partial(taken_over, token))


async def taken_over(token: str, settings: Settings, backend: Backend, key: str) -> HeldLock:
    """The lease of a hold that another one has handed on."""
    store = backend.locks
    assert store is not None  # its source has looked
    began, owner, caller = clock.now(), identity.new_owner(), identity.caller()

    async def ask() -> tuple[float, Grant | None]:
        return await NOW, await store.transfer(key, owner=token, to=owner, ttl=settings.ttl)

    try:
        began, grant = await asked_until(began + BUDGET, ask)
    except BaseException:
        await Together([store.release(key, owner=owner)])  # nobody has a token for it any more
        raise
    if grant is None:
        raise LeaseLost(
            f"the lock {key!r} cannot be taken over: the hold that was handed on has expired, or "
            "somebody else has taken it",
            key=key,
            fence=0,
        )
    return settings.lease(settings, backend, key, grant, began, caller)


def note_of(caller: Any) -> str:
    """What a holder says of itself: its thread or task."""
    name = getattr(caller, "name", None)
    return f"thread {name}" if name is not None else f"task {caller.get_name()}"


class LockContest:
    """One caller's attempt to take one lock."""

    __slots__ = ("key", "note", "owner", "settings", "store")

    glance = 0.2

    def __init__(
        self, settings: Settings, store: LockStore, key: str, owner: str, note: str
    ) -> None:
        self.settings = settings
        self.store = store
        self.key = key
        self.owner = owner
        self.note = note

    @property
    def patience(self) -> float:
        """Seconds from one attempt to the next: what is handed over lives for twice that."""
        return min(self.settings.ttl, HANDED_OVER) / 2

    def ask(self, waiter: str | None) -> Plan[Grant | Held]:
        """Try once."""
        settings = self.settings
        return self.store.acquire(
            self.key,
            ttl=settings.ttl,
            owner=self.owner,
            waiter=waiter,
            mode=settings.mode,
            fair=settings.fair,
            note=self.note,
            replicas=settings.replicas,
        )

    def is_busy(self, answer: Grant | Held) -> bool:
        """Whether somebody else holds the lock."""
        return type(answer) is Held

    def received(self, gift: str, answer: Grant | Held) -> Grant | None:
        """The lock that was handed over after this answer: for a short while, until renewed."""
        if self.settings.replicas:  # nobody has waited for them: it is asked for, as our own
            return None
        fence = int(gift)
        if fence <= answer.fence:  # it took so long that somebody else has held the lock since
            return None
        return Grant(self.owner, fence, min(self.settings.ttl, HANDED_OVER))

    def evict(self, owner: str) -> Plan[object]:
        """Release the lock of a dead holder."""
        return self.store.release(self.key, owner=owner, mode=self.settings.mode)

    def withdraw(self, waiter: str | None) -> Plan[object]:
        """Release what may have been granted, and wait no longer."""
        mode = self.settings.mode
        if waiter is None:
            return self.store.release(self.key, owner=self.owner, mode=mode)
        return self.store.withdraw(self.key, owner=self.owner, waiter=waiter, mode=mode)

    def refusal(self, answer: Grant | Held, waited: float) -> LockNotAcquired:
        """The error that says who holds the lock, and for how long."""
        assert isinstance(answer, Held)
        return refused(self.key, answer, waited)


def refused(key: str, held: Held, waited: float) -> LockNotAcquired:
    """The error that says who holds a lock, and for how long."""
    if held.holders == 0:
        whose = "was about to be taken by others who have waited longer"
    else:
        others = f" and {held.holders - 1} others" if held.holders > 1 else ""
        whose = (
            f"is held by {describe(held.owner)}{others} for {held.age:.1f} s "
            f"(fence {held.fence}, {held.ttl:.1f} s left unless renewed)"
        )
    return LockNotAcquired(
        f"the lock {key!r} {whose}; waited {waited:.1f} s",
        policy=POLICY,
        key=key,
        retry_after=held.ttl,
    )
