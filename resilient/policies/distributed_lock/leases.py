"""What the holder of a lock holds."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from resilient.engine.drivers.sync import drive
from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.guard import Guard, current
from resilient.engine.lease import RENEW_AFTER, Lease, safe_until
from resilient.engine.persistence import BUDGET, asked_again, asked_until
from resilient.engine.plan import NOW, Plan, shielded
from resilient.errors import BackendError, ConfigurationError, LeaseLost
from resilient.protocols.locks import LOCK, Grant, LockStore

if TYPE_CHECKING:
    from resilient.engine.backend import Backend, Mode
    from resilient.policies.distributed_lock.settings import Settings

__all__ = ["AsyncLease", "HeldLock", "LockLease", "current_lease"]


class HeldLock(Lease):
    """A hold on a lock: the plans behind what a lease can do."""

    is_async = False
    released = False
    outer: HeldLock | None = None
    ends = math.inf

    store: LockStore

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        key: str,
        grant: Grant,
        began: float,
        caller: object,
    ) -> None:
        owner, fence, ttl = grant
        kind, store, heartbeat = settings.mode.family, backend.locks, backend.heartbeat
        Lease.__init__(self, kind, key, owner, fence, ttl, began, store, heartbeat)
        self.ttl = settings.ttl  # from the first renewal on: it may have been handed over
        self.settings = settings
        self.since = began
        if settings.max_hold is not None:
            self.ends = began + settings.max_hold
            self._cap()
        self.caller = caller

    def renewed(self, began: float, ttl: float | None = None) -> None:
        """A request sent at `began` made it live for `ttl` seconds, but not for longer than it may
        be held.
        """
        super().renewed(began, ttl)
        self._cap()

    def _cap(self) -> None:
        if self.deadline > self.ends:
            self.deadline = self.ends
            self.due = min(self.due, self.ends)

    @property
    def overdue(self) -> str:
        """Why it is lost when its deadline is over."""
        if self.deadline >= self.ends:
            return f"it was held for longer than max_hold={self.settings.max_hold:g} s"
        return super().overdue

    def renew(self, ttl: float) -> Plan[bool]:
        """Keep it for so many seconds, but not for longer than it may be held."""
        if self.settings.max_hold is None:
            return self._renew(ttl)
        return self._renew_until(ttl)

    def _renew(self, ttl: float) -> Plan[bool]:
        return self.store.renew(self.key, owner=self.owner, ttl=ttl, mode=self.settings.mode)

    async def _renew_until(self, ttl: float) -> bool:
        # So that the next holder has it then, too.
        return await self._renew(max(0.001, min(ttl, self.ends - await NOW)))

    @classmethod
    def pretended(cls, key: str) -> Self:
        """A lease of fence 0 that holds nothing: of a call that runs without its lock."""
        lease = cls.__new__(cls)
        lease.kind, lease.key, lease.owner, lease.fence = "lock", key, "", 0
        lease.ttl = lease.deadline = lease.due = math.inf
        lease.released, lease.caller = True, None
        return lease

    @property
    def state(self) -> str:
        """Whether it is held, in words."""
        return "given back" if self.released else super().state

    @property
    def is_missing(self) -> bool:
        """Whether it is lost, and was not given back by its holder."""
        return self.lost and not self.released

    @property
    def is_given_away(self) -> bool:
        """Whether its holder has given it back, or handed it on; not so a pretended one."""
        return self.released and self.fence > 0

    def remaining(self) -> float:
        """Seconds for which it is certainly held; 0 once it is lost, given back or handed on."""
        return 0.0 if self.is_given_away else super().remaining()

    def check(self) -> None:
        """Raise `LeaseLost` if it is lost; call it before a write that must not be stale.

        So it does once the lock was given back by `release()`, or handed on by `transfer()`.
        """
        if self.is_given_away:
            raise LeaseLost(
                f"the {self.kind} {self.key!r} (fence {self.fence}) is held no more: its holder "
                "has given it back, or handed it on",
                key=self.key,
                fence=self.fence,
            )
        super().check()

    @property
    def is_exclusive(self) -> bool:
        """Whether nobody else holds it at the same time; a pretended one may write all the same."""
        return not self.fence or not self.settings.mode.shared

    def guard(self) -> Guard | None:
        """How the lock's own server makes a write depend on it; `None` where it cannot."""
        make = getattr(self.store, "guard", None)
        if make is None or not self.is_exclusive:
            return None
        guard: Guard = make(self.key, owner=self.owner, mode=self.settings.mode)
        return guard

    async def extending(self, ttl: float) -> None:
        """Live for `ttl` seconds from now, and renew by that TTL from now on."""
        if not self.fence:  # a pretended one
            return
        self.check()
        began = await NOW
        # At once, so that the heartbeat knows a renewal that is under way for an older one.
        before, self.ttl = self.ttl, ttl
        self.changes += 1
        deadline = safe_until(began, ttl)
        if deadline < self.deadline:
            # A shorter TTL may count at the server long before its answer is here.
            self.deadline, self.due = deadline, began + ttl * RENEW_AFTER
            self.keep()
        try:
            held = await self._extended(ttl)
        except BaseException:
            self.ttl = before
            self.changes += 1
            raise
        if not held:
            self.lose("the server says that it has expired or was taken over")
        if self.is_known_lost:  # or its deadline was over before the answer came, and all were told
            raise self.error()
        self.renewed(began, ttl)

    async def _extended(self, ttl: float) -> bool:
        return await asked_until(self.deadline, partial(self.renew, ttl))

    async def binding(self, connection: Any, mode: Mode) -> None:
        """Have the open transaction of a connection committed only if nobody came after."""
        from resilient.connections import bound, recognised  # few need it

        own = recognised(connection, mode=mode, what="lease.bind()")
        if not self.is_exclusive:
            raise ConfigurationError(
                f"lease.bind(): several may hold the {self.kind} {self.key!r} at once, so that no "
                "fence tells which of their writes comes too late"
            )
        if self.fence:  # not a pretended one
            await bound(own, self, f"{self.kind}:{self.heartbeat.prefix}{self.key}")

    async def releasing(self) -> LeaseLost | None:
        """Give the lock back; what it was lost by, if it was.

        Where the server cannot be told, the lock frees itself when its TTL is over: the body has
        run, and what it did stands. Where a reply is lost, the server knows from the fence, asked
        again, whether it was this holder who gave the lock back. After that the lease neither holds
        nor loses anything.
        """
        if self.released:
            return None
        self.drop()  # first, so that no renewal outlives the release
        self.released, self.caller = True, None
        if self.inherited:
            return self.error()
        try:
            held = await (self._kept_on() if self.settings.min_hold else self._freed())
        except BackendError as error:
            held = await shielded(self._released_later(error))
        except BaseException:  # cancelled: was it done, or did the connection break?
            await self._surely_given_back()
            raise
        if not held:
            gone = "the server says that it has expired or was taken over"
            self.lose(self.overdue if self.lost else gone)
        return None if self.reason is None else self.error()

    def _given_back(self) -> Plan[bool]:
        return self._kept_on() if self.settings.min_hold else self._freed()

    def _freed(self) -> Plan[bool]:
        settings = self.settings
        return self.store.release(
            self.key,
            owner=self.owner,
            fence=self.fence,
            mode=settings.mode,
            fair=settings.fair,
        )

    async def _kept_on(self) -> bool:
        left = self.since + self.settings.min_hold - await NOW
        return await (self._renew(left) if left > 0 else self._freed())  # it frees itself then

    async def _surely_given_back(self) -> bool:
        try:
            return await self._given_back()
        except BackendError as error:
            return await self._released_later(error)

    async def _released_later(self, error: BackendError) -> bool:
        was_held = not self.lost
        until = min(self.deadline, await NOW + BUDGET)
        try:
            held = await asked_again(error, self._given_back, until=until)
        except BackendError:
            return was_held
        # One that is kept for a while after its end frees itself: no answer tells that from a loss.
        return held or (was_held and self.settings.min_hold > 0)

    async def transferring(self, ttl: float | None) -> str:
        """Keep the lock no longer, but for somebody who has the token that this answers."""
        if not self.fence or self.settings.mode != LOCK:
            raise ConfigurationError(
                f"transfer(): only a lock that is held can be handed on, and {self.key!r} is a "
                f"{self.kind}" + ("" if self.fence else " that nobody holds")
            )
        await self.extending(self.ttl if ttl is None else ttl)
        self.drop()
        self.released = True
        return self.owner


class LockLease(HeldLock):
    """A hold on a lock, for sync callers: what `with resilient.lock(...) as lease` binds."""

    def extend(self, ttl: Duration) -> None:
        """Hold the lock for `ttl` from now (seconds, or as `"1m"`), renewed by that TTL.

        Raises:
            LeaseLost: Somebody else may hold it already.
        """
        drive(self.extending(seconds(ttl, option="ttl")))

    def bind(self, connection: Any) -> None:
        """Have the transaction of your own database commit only if no later holder has written.

        Call it first in each transaction: it begins one if none is open, and the end of it is
        yours. It keeps a fence for this lock in a table `resilient_fences` of the same database,
        which it makes if need be, and holds its row until the end of the transaction: what you read
        and write after it is exactly fenced.

        Args:
            connection: Of `sqlite3` or psycopg 3, or SQLAlchemy's `Connection` or `Session` on one.

        Raises:
            LeaseLost: A later holder has written; nothing of this transaction is committed.
            ConfigurationError: The connection is of another kind, or commits every statement.

        Example:
            >>> import sqlite3, resilient
            >>> with resilient.using("memory://"), resilient.lock("account:7") as lease:
            ...     with sqlite3.connect(":memory:") as connection:
            ...         lease.bind(connection)
            ...         _ = connection.execute("CREATE TABLE accounts (id, balance)")
        """
        drive(self.binding(connection, "sync"))

    def transfer(self, ttl: Duration | None = None) -> str:
        """Hand the lock on to another process: it is this one's no longer, and nobody else's.

        Args:
            ttl: For how long it waits to be taken over: seconds, or as `"1m"`; the lock's own TTL
                by default.

        Returns:
            A token for `resilient.lock(key).adopted(token)`, there.

        Raises:
            LeaseLost: Somebody else may hold it already.

        Example:
            >>> import resilient
            >>> with resilient.using("memory://"):
            ...     with resilient.lock("upload:7") as lease:
            ...         token = lease.transfer()
            ...     with resilient.lock("upload:7").adopted(token) as lease:
            ...         lease.lost
            False
        """
        return drive(self.transferring(optional_seconds(ttl, option="ttl")))

    def release(self) -> None:
        """Give the lock back before the block ends.

        Raises:
            LeaseLost: Somebody else may have held it meanwhile.
        """
        if lost := drive(self.releasing()):
            raise lost


class AsyncLease(HeldLock):
    """A hold on a lock, for async callers: what `async with resilient.lock(...) as lease` binds."""

    is_async = True

    async def extend(self, ttl: Duration) -> None:
        """Hold the lock for `ttl` from now (seconds, or as `"1m"`), renewed by that TTL.

        Raises:
            LeaseLost: Somebody else may hold it already.
        """
        from resilient.engine.drivers.aio import adrive

        await adrive(self.extending(seconds(ttl, option="ttl")))

    async def bind(self, connection: Any) -> None:
        """Have the transaction of your own database commit only if no later holder has written.

        As `LockLease.bind`, for psycopg's `AsyncConnection` and SQLAlchemy's `AsyncConnection` and
        `AsyncSession` as well.
        """
        from resilient.engine.drivers.aio import adrive

        await adrive(self.binding(connection, "async"))

    async def transfer(self, ttl: Duration | None = None) -> str:
        """Hand the lock on to another process: see `LockLease.transfer`."""
        from resilient.engine.drivers.aio import adrive

        return await adrive(self.transferring(optional_seconds(ttl, option="ttl")))

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
    lease: HeldLock | None = current.get()
    if lease is None:
        raise ConfigurationError("current_lease(): no lock is held here")
    assert isinstance(lease, LockLease | AsyncLease)
    return lease
