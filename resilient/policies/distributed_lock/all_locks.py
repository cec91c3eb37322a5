"""`resilient.lock_all("a", "b")`: several locks at once, or none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack
from weakref import ref

from resilient.engine import clock, identity
from resilient.engine.block import Block
from resilient.engine.guard import current
from resilient.engine.persistence import BUDGET, asked_until
from resilient.engine.plan import NOW, Body, Plan, Together
from resilient.engine.waiting import obtained
from resilient.errors import ConfigurationError, LeaseLost
from resilient.policies.distributed_lock.leases import AsyncLease, HeldLock, LockLease
from resilient.policies.distributed_lock.lock import named
from resilient.policies.distributed_lock.plan import LockContest, note_of, report, told
from resilient.policies.distributed_lock.settings import LockOptions, Settings, settings_of

if TYPE_CHECKING:
    from resilient.engine.backend import Backend, Mode
    from resilient.protocols.locks import Grant, Held

__all__ = ["AllLocks", "HeldLocks", "lock_all"]


class HeldLocks:
    """The holds on several locks, lost as soon as one of them is."""

    __slots__ = ("__weakref__", "_leases")

    def __init__(self, leases: list[HeldLock]) -> None:
        self._leases = leases

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._leases!r}>"

    @property
    def fences(self) -> dict[str, int]:
        """The fence of each lock, by its key."""
        return {lease.key: lease.fence for lease in self._leases}

    @property
    def lost(self) -> bool:
        """Whether somebody else may hold one of them now."""
        return any(lease.lost for lease in self._leases)

    @property
    def is_missing(self) -> bool:
        """Whether one of them is lost, and was not given back by its holder."""
        return any(lease.is_missing for lease in self._leases)

    def remaining(self) -> float:
        """Seconds for which all are certainly held; 0 once one is lost."""
        return min(lease.remaining() for lease in self._leases)

    def check(self) -> None:
        """Raise `LeaseLost` if one is lost; call it before a write that must not be stale."""
        for lease in self._leases:
            lease.check()

    def when_lost(self, callback: Callable[[], object]) -> None:
        """Have a function called when one is lost, on the heartbeat's thread; at once if one is."""
        for lease in self._leases:
            lease.when_lost(callback)

    def error(self) -> LeaseLost:
        """The exception that tells of the first loss."""
        return next((each for each in self._leases if each.lost), self._leases[0]).error()


class AllLocks(Block[HeldLocks, HeldLocks]):
    """Several locks: `with lock_all("a", "b") as leases:` or `async with`."""

    def __init__(self, keys: tuple[str, ...], options: LockOptions) -> None:
        super().__init__()
        if not keys:
            raise ConfigurationError("lock_all(): name at least one lock")
        # In one order for everybody, so that no two wait for each other.
        self.keys = tuple(sorted({named(key, "lock_all()") for key in keys}))
        for name in ("reentrant", "min_hold"):
            if options.get(name):
                raise ConfigurationError(f"lock_all() has no {name}=: take the locks one by one")
        settings = settings_of("lock_all()", None, options, lease=LockLease)
        self._settings = {
            "sync": settings,
            "async": settings.held_by(AsyncLease, options.get("on_lost")),
        }

    def _plan(self, mode: Mode) -> Plan[object]:
        return all_guarded(self._settings[mode], self.keys)

    def __repr__(self) -> str:
        return f"lock_all({', '.join(map(repr, self.keys))})"


def lock_all(*keys: str, **options: Unpack[LockOptions]) -> AllLocks:
    """Several locks at once, or none of them, whatever the order in which others want theirs.

    They are taken in one operation where the server can do that and all are free; else one by one,
    in the order of their names, waiting for each: so no two callers wait for each other.

    Args:
        *keys: The locks' names, the same as for `lock`.
        **options: As for `lock`; `wait` is for all of them together.

    Raises:
        LockNotAcquired: On entry: one of them was held for as long as `wait`; none is held.
        LeaseLost: On exit: one was lost while the body ran. On entry: one was lost while another
            was waited for; none is held.
        ConfigurationError: An option is wrong, or there is no key.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"):
        ...     with resilient.lock_all("account:7", "account:9") as leases:
        ...         sorted(leases.fences), leases.lost
        (['account:7', 'account:9'], False)
    """
    return AllLocks(keys, options)


async def all_guarded(settings: Settings, keys: tuple[str, ...]) -> Any:
    """Run the body while holding all of the locks."""
    backend = settings.source.backend()
    if backend is None:
        return await Body(HeldLocks([settings.lease.pretended(key) for key in keys]))
    on_lost, kept = settings.on_lost, backend.heartbeat.leases
    leases: list[HeldLock] = []
    try:
        leases += await at_once(settings, backend, keys) or ()
        if not leases:
            await in_turn(settings, backend, keys, leases)
        outer = current.get()
        held: Any = HeldLocks(leases)
        try:
            for lease in leases:
                lease.outer = current.get()
                lease.keep()
                current.set(lease)
            if callable(on_lost):
                held.when_lost(partial(told, on_lost, ref(held)))
            held.check()  # the first may have been lost while the last was waited for
            answer = await Body(held, held, cancel=on_lost == "cancel")
        except BaseException as error:
            current.set(outer)
            report(error, await given_back(leases))
            raise
        current.set(outer)
        lost = await given_back(leases)
    finally:
        kept.difference_update(leases)  # wherever this is interrupted
    if lost is not None:
        raise lost
    return answer


async def at_once(
    settings: Settings, backend: Backend, keys: tuple[str, ...]
) -> list[HeldLock] | None:
    """All of them in one operation; `None` if that cannot be done now."""
    store = backend.locks
    assert store is not None  # its source has looked
    if settings.replicas:
        return None
    began, owner, note = clock.now(), identity.new_owner(), note_of(identity.caller())

    async def ask() -> tuple[float, list[Grant] | Held | None]:
        return await NOW, await store.acquire_all(keys, ttl=settings.ttl, owner=owner, note=note)

    try:
        began, answer = await asked_until(began + BUDGET, ask)
    except BaseException:
        await Together([store.release(key, owner=owner) for key in keys])
        raise
    if not isinstance(answer, list):
        return None
    return [
        settings.lease(settings, backend, key, grant, began, identity.caller())
        for key, grant in zip(keys, answer, strict=True)
    ]


async def in_turn(
    settings: Settings, backend: Backend, keys: tuple[str, ...], leases: list[HeldLock]
) -> None:
    """One by one, in the order of their names; none of them if one cannot be had."""
    began = await NOW
    for_each = settings
    try:
        for key in keys:
            if settings.wait is not None:
                left = max(0.0, settings.wait - (await NOW - began))
                for_each = replace(settings, wait=left)
            contest = LockContest(for_each, backend, key)
            sent, grant = await obtained(contest, backend.hub, for_each.wait, contest.began)
            lease = contest.lease(sent, grant)
            leases.append(lease)  # first: wherever this is interrupted, nothing renews it for ever
            lease.keep()
    except BaseException:
        await given_back(leases)
        raise


async def given_back(leases: list[HeldLock]) -> LeaseLost | None:
    """Give all of them back; what the first one that was lost was lost by."""
    for lease in leases:
        lease.drop()  # whatever becomes of the releases, nothing renews one for ever
    answers = await Together([lease.releasing() for lease in leases])
    for answer in answers:
        if isinstance(answer, LeaseLost):
            return answer
        if isinstance(answer, BaseException):
            raise answer
    return None
