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

__all__ = ["LockContest", "guarded", "note_of", "refused", "told", "unprotected"]


async def guarded(settings: Settings, key: str, token: str | None = None) -> Any:
    """Run the body while holding the lock, give it back, and report its loss.

    In one piece: each coroutine around the body is gone through twice in every call.

    Args:
        settings: The options.
        key: The lock.
        token: Of a hold that another lease has handed on, under which it runs then.
    """
    backend = settings.source.backend()
    if backend is None:
        return await unprotected(settings, key)
    if settings.reentrant and token is None and (mine := entered(settings, backend, key)):
        return await Body(mine)
    try:
        if token is None:
            contest = LockContest(settings, backend, key)
            began, grant = await obtained(contest, backend.hub, settings.wait, contest.began)
            lease = contest.lease(began, grant)
        else:
            lease = await taken_over(settings, backend, key, token)
    except LockNotAcquired:
        if settings.skip:
            return settings.skipped
        raise
    except BackendError as error:
        if not settings.unguarded:
            raise
        events.emit(events.BackendTrouble(POLICY, key, error))
        return await unprotected(settings, key)
    outer = lease.outer = current.get()
    on_lost, kept = settings.on_lost, lease.heartbeat.leases
    try:
        try:
            lease.keep()
            if callable(on_lost):
                lease.when_lost(partial(told, on_lost, ref(lease)))
            current.set(lease)
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


def entered(settings: Settings, backend: Backend, key: str) -> HeldLock | None:
    """The lease under which this thread or task holds the lock already."""
    store, caller = backend.locks, identity.caller()
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


async def taken_over(settings: Settings, backend: Backend, key: str, token: str) -> HeldLock:
    """The lease of a hold that another one has handed on."""
    store = backend.locks
    assert store is not None  # its source has looked
    began, owner = clock.now(), identity.new_owner()

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
    return settings.lease(settings, backend, key, grant, began, identity.caller())


def note_of(caller: Any) -> str:
    """What a holder says of itself: its thread or task."""
    name = getattr(caller, "name", None)
    return f"thread {name}" if name is not None else f"task {caller.get_name()}"


class LockContest:
    """One caller's attempt to take one lock, which begins now."""

    __slots__ = ("backend", "began", "key", "note", "owner", "settings", "store")

    glance = 0.2

    def __init__(self, settings: Settings, backend: Backend, key: str) -> None:
        assert backend.locks is not None  # its source has looked
        self.settings = settings
        self.backend = backend
        self.store: LockStore = backend.locks
        self.key = key
        self.began = clock.now()
        self.owner = identity.new_owner()
        # A task's exception knows the frame that has this contest: a cycle, if that knew the task.
        self.note = note_of(identity.caller())

    def lease(self, began: float, answer: Grant | Held) -> HeldLock:
        """What this caller holds, by an answer to what it has asked at `began`."""
        assert type(answer) is Grant
        settings = self.settings
        return settings.lease(settings, self.backend, self.key, answer, began, identity.caller())

    @property
    def outlasts(self) -> bool:
        """Whether it goes on through an outage while it waits."""
        return not self.settings.unguarded

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
