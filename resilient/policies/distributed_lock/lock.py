"""`resilient.lock("k")`: a lock on a literal key, as a block and by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resilient.config import BackendLike, Source
from resilient.engine.block import Block, warn_if_in_loop
from resilient.engine.drivers.sync import drive
from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.identity import describe
from resilient.engine.plan import Plan
from resilient.errors import ConfigurationError, KeyMissing
from resilient.events import LockForceReleased, emit
from resilient.policies.distributed_lock.leases import AsyncLease, LockLease
from resilient.policies.distributed_lock.plan import Settings, guarded
from resilient.protocols.locks import LockStore

if TYPE_CHECKING:
    from resilient.engine.backend import Mode

__all__ = ["Lock", "LockInfo", "lock"]


@dataclass(frozen=True, slots=True)
class LockInfo:
    """Who holds a lock.

    Attributes:
        key: The lock.
        holder: The process, such as `pid 812 on host-3`, or the owner token that was given.
        owner: The owner token.
        fence: The holder's fence.
        held_for: Seconds since it was granted.
        ttl: Seconds until it frees itself unless renewed.
    """

    key: str
    holder: str
    owner: str
    fence: int
    held_for: float
    ttl: float


class Lock(Block[LockLease, AsyncLease]):
    """A distributed lock: `with lock as lease:` or `async with lock as lease:`.

    It holds no ownership itself, so that any number of threads and tasks may enter it.
    """

    def __init__(
        self,
        key: str,
        *,
        ttl: Duration = 30,
        wait: Duration | None = 10,
        backend: BackendLike | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(key, str):
            raise ConfigurationError(f"lock(): key={key!r} is not a string")
        if not key:
            raise KeyMissing("lock(): the key is empty")
        self.key = key
        self._ttl = seconds(ttl, option="ttl")
        self._wait = optional_seconds(wait, option="wait", allow_zero=True)
        self._source = Source("locks", "distributed_lock", backend=backend)

    def _plan(self, mode: Mode) -> Plan[object]:
        lease = LockLease if mode == "sync" else AsyncLease
        return guarded(
            Settings(self._source, ttl=self._ttl, wait=self._wait, lease=lease), self.key
        )

    def info(self) -> LockInfo | None:
        """Who holds the lock now; `None` if nobody does."""
        warn_if_in_loop("lock.info()", "await lock.ainfo()")
        return drive(self._info())

    async def ainfo(self) -> LockInfo | None:
        """Who holds the lock now; `None` if nobody does."""
        from resilient.engine.drivers.aio import adrive

        return await adrive(self._info())

    def force_release(self, *, reason: str) -> bool:
        """Take the lock from whoever holds it; false if nobody did.

        The holder is told with its next renewal, and the next fence is larger, so that its fenced
        writes are refused from now on.

        Args:
            reason: Why, for the log of whoever operates this.
        """
        warn_if_in_loop("lock.force_release()", "await lock.aforce_release()")
        return drive(self._force_release(reason))

    async def aforce_release(self, *, reason: str) -> bool:
        """Take the lock from whoever holds it; false if nobody did: see `force_release`."""
        from resilient.engine.drivers.aio import adrive

        return await adrive(self._force_release(reason))

    async def _info(self) -> LockInfo | None:
        store = self._store()
        holder = None if store is None else await store.holder(self.key)
        if holder is None:
            return None
        return LockInfo(
            key=self.key,
            holder=describe(holder.owner),
            owner=holder.owner,
            fence=holder.fence,
            held_for=holder.age,
            ttl=holder.ttl,
        )

    async def _force_release(self, reason: str) -> bool:
        store = self._store()
        if store is None:
            return False
        holder = await store.holder(self.key)
        released = await store.force_release(self.key)
        if released:
            whose = "nobody" if holder is None else describe(holder.owner)
            emit(LockForceReleased(self.key, whose, reason))
        return released

    def _store(self) -> LockStore | None:
        backend = self._source.backend()
        if backend is None:
            return None
        store: LockStore = backend.require("locks")
        return store

    def __repr__(self) -> str:
        return f"lock({self.key!r})"


def lock(
    key: str,
    *,
    ttl: Duration = 30,
    wait: Duration | None = 10,
    backend: BackendLike | None = None,
) -> Lock:
    """A lock on a literal key, to be entered with `with` or `async with`.

    Args:
        key: The lock's name, taken as it is.
        ttl: After how long the lock of a dead holder frees itself: seconds, or as `"30s"`. A live
            one renews it at a third of that. The default rides out pauses and short outages.
        wait: How long to wait for another holder: seconds, or as `"1m"`; 0: try once; `None`: no
            limit.
        backend: A URL, client or backend of its own instead of the configured one.

    Raises:
        LockNotAcquired: On entry: somebody else held it for as long as `wait`.
        LeaseLost: On exit: it was lost while the body ran, even if the body returned. An async
            body is cancelled as soon as that is known.
        BackendError: On entry: the backend is away.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"):
        ...     with resilient.lock("invoice:7", ttl=30, wait=5) as lease:
        ...         lease.fence > 0, lease.lost
        (True, False)
    """
    return Lock(key, ttl=ttl, wait=wait, backend=backend)
