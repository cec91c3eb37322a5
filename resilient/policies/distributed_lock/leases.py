"""What the holder of a lock holds."""

from __future__ import annotations

import math
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Self

from resilient.engine.drivers.sync import drive
from resilient.engine.durations import Duration, seconds
from resilient.engine.lease import Lease
from resilient.engine.persistence import BUDGET, asked_again
from resilient.engine.plan import NOW, Plan
from resilient.errors import BackendError, ConfigurationError, LeaseLost
from resilient.protocols.locks import LockStore

if TYPE_CHECKING:
    from resilient.engine.backend import Backend

__all__ = ["AsyncLease", "HeldLock", "LockLease", "current_lease"]

current: ContextVar[HeldLock | None] = ContextVar("resilient.current_lease", default=None)


class HeldLock(Lease):
    """A hold on a lock: the plans behind what a lease can do."""

    __slots__ = ("released", "store")

    def __init__(
        self,
        key: str,
        *,
        owner: str,
        fence: int,
        ttl: float,
        began: float,
        backend: Backend,
        store: LockStore,
    ) -> None:
        super().__init__(
            "lock",
            key,
            owner=owner,
            fence=fence,
            ttl=ttl,
            began=began,
            renew=self._renew,
            heartbeat=backend.heartbeat,
        )
        self.store = store
        self.released = False

    def _renew(self, ttl: float) -> Plan[bool]:
        return self.store.renew(self.key, owner=self.owner, ttl=ttl)

    @classmethod
    def pretended(cls, key: str) -> Self:
        """A lease of fence 0 that holds nothing: of a call that runs without its lock."""
        lease = cls.__new__(cls)
        lease.kind, lease.key, lease.owner, lease.fence = "lock", key, "", 0
        lease.ttl = lease.deadline = lease.due = math.inf
        lease.inherited, lease.released = False, True
        lease._reason, lease._callbacks = None, None
        return lease

    async def extending(self, ttl: float) -> None:
        """Live for `ttl` seconds from now, and renew by that TTL from now on."""
        if not self.fence:  # a pretended one
            return
        self.check()
        began = await NOW
        ask = partial(self.store.renew, self.key, owner=self.owner, ttl=ttl)
        try:
            held = await ask()
        except BackendError as error:
            held = await asked_again(error, ask, until=self.deadline)
        if held:
            self.renewed(began, ttl)
        else:
            self.lose("the server says that it has expired or was taken over")
            raise self.error()

    async def releasing(self) -> LeaseLost | None:
        """Give the lock back; what it was lost by, if it was.

        Where the server cannot be told, the lock frees itself when its TTL is over: the body has
        run, and what it did stands. After that the lease neither holds nor loses anything.
        """
        if self.released:
            return None
        self.drop()  # first, so that no renewal outlives the release
        self.released = True
        if self.inherited:
            return self.error()
        try:
            held = await self.store.release(self.key, owner=self.owner)
        except BackendError as error:
            held = await self._released_later(error)
        if not held:
            self.lose("the server says that it has expired or was taken over")
        return self.error() if self.is_known_lost else None

    async def _released_later(self, error: BackendError) -> bool:
        ask = partial(self.store.release, self.key, owner=self.owner)
        try:
            return await asked_again(error, ask, until=min(self.deadline, await NOW + BUDGET))
        except BackendError:
            return not self.lost


class LockLease(HeldLock):
    """A hold on a lock, for sync callers: what `with resilient.lock(...) as lease` binds."""

    __slots__ = ()

    def extend(self, ttl: Duration) -> None:
        """Hold the lock for `ttl` from now (seconds, or as `"1m"`), renewed by that TTL.

        Raises:
            LeaseLost: Somebody else may hold it already.
        """
        drive(self.extending(seconds(ttl, option="ttl")))

    def release(self) -> None:
        """Give the lock back before the block ends.

        Raises:
            LeaseLost: Somebody else may have held it meanwhile.
        """
        if lost := drive(self.releasing()):
            raise lost


class AsyncLease(HeldLock):
    """A hold on a lock, for async callers: what `async with resilient.lock(...) as lease` binds."""

    __slots__ = ()

    async def extend(self, ttl: Duration) -> None:
        """Hold the lock for `ttl` from now (seconds, or as `"1m"`), renewed by that TTL.

        Raises:
            LeaseLost: Somebody else may hold it already.
        """
        from resilient.engine.drivers.aio import adrive

        await adrive(self.extending(seconds(ttl, option="ttl")))

    async def release(self) -> None:
        """Give the lock back before the block ends.

        Raises:
            LeaseLost: Somebody else may have held it meanwhile.
        """
        from resilient.engine.drivers.aio import adrive

        if lost := await adrive(self.releasing()):
            raise lost


def current_lease() -> LockLease | AsyncLease:
    """The lease of the innermost lock that is held here: inside a locked function or block.

    Raises:
        ConfigurationError: Nothing is locked here.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"), resilient.lock("k") as lease:
        ...     resilient.current_lease() is lease
        True
    """
    lease = current.get()
    if lease is None:
        raise ConfigurationError("current_lease(): no lock is held here")
    assert isinstance(lease, LockLease | AsyncLease)
    return lease
