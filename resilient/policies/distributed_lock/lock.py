"""`resilient.lock("k")` and its relatives: locks on literal keys, as blocks and by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, Unpack

from resilient.engine.block import Block
from resilient.engine.controls import awaitable, control
from resilient.engine.identity import describe, parse
from resilient.engine.plan import Plan
from resilient.errors import ConfigurationError, KeyMissing
from resilient.events import LockForceReleased, emit
from resilient.policies.distributed_lock.leases import AsyncLease, LockLease
from resilient.policies.distributed_lock.plan import guarded
from resilient.policies.distributed_lock.settings import LockOptions, Settings, settings_of
from resilient.protocols.locks import LOCK, READ, WRITE, LockMode, LockStore, semaphore_of

if TYPE_CHECKING:
    from resilient.engine.backend import Mode
from resilient.engine.options import check_whole_number

__all__ = ["Lock", "LockInfo", "lock", "named", "read_lock", "semaphore", "write_lock"]


@dataclass(frozen=True, slots=True)
class LockInfo:
    """Who holds a lock; of several holders, the one whose hold ends first.

    Attributes:
        key: The lock.
        holder: The process, such as `pid 812 on host-3`, or the owner token that was given.
        host: Its host; `""` if the token does not tell.
        pid: Its process id; 0 if the token does not tell.
        caller: Its thread or task, such as `thread MainThread`.
        owner: The owner token.
        fence: The newest fence of the lock.
        held_for: Seconds since it was granted.
        ttl: Seconds until it frees itself unless renewed.
        holders: How many hold it.
        waiters: How many wait for it.
    """

    key: str
    holder: str
    host: str
    pid: int
    caller: str
    owner: str
    fence: int
    held_for: float
    ttl: float
    holders: int
    waiters: int


class Lock(Block[LockLease, AsyncLease]):
    """A distributed lock: `with lock as lease:` or `async with lock as lease:`.

    It holds no ownership itself, so that any number of threads and tasks may enter it.
    """

    def __init__(self, key: str, *, mode: LockMode = LOCK, **options: Unpack[LockOptions]) -> None:
        super().__init__()
        self.key = named(key, "lock()")
        # One that is made for one `with` needs the other ones never.
        self._settings: dict[Mode, Settings] = {
            "sync": settings_of("lock()", None, options, mode=mode, lease=LockLease)
        }
        self._options = options
        if options.get("on_lost") == "cancel":
            self._refuse_sync = True
        self._mode = mode
        self._token: str | None = None

    _refuse_sync = False

    def _plan(self, mode: Mode) -> Plan[object]:
        if mode == "sync" and self._refuse_sync:
            raise ConfigurationError(
                f'{self!r}: on_lost="cancel" can stop an `async with` only: a `with` block looks '
                "at lease.lost, or calls lease.check(), by itself"
            )
        settings = self._settings.get(mode)
        if settings is None:
            settings = self._settings[mode] = self._settings["sync"].held_by(
                AsyncLease, self._options.get("on_lost")
            )
        return guarded(settings, self.key, self._token)

    def adopted(self, token: str) -> Self:
        """The same lock, entered under the hold that another lease has handed on.

        It is there or it is not: `wait` and `replicas` play no part in taking it over.

        Args:
            token: What that `lease.transfer()` answered.

        Raises:
            LeaseLost: On entry: nobody took it over in time, or somebody else has it.
        """
        if self._mode != LOCK:
            raise ConfigurationError(f"{self!r}: only a lock can be handed on")
        given: object = token
        if not isinstance(given, str) or not given:
            raise ConfigurationError(f"{self!r}: {token!r} is no token of lease.transfer()")
        other = object.__new__(type(self))
        vars(other).update(vars(self), _entries={}, _token=token)
        return other

    @control
    async def info(self) -> LockInfo | None:
        """Who holds the lock now; `None` if nobody does."""
        store = self._store()
        held = None if store is None else await store.holder(self.key, mode=self._mode)
        if held is None:
            return None
        identity = parse(held.owner)
        return LockInfo(
            key=self.key,
            holder=describe(held.owner),
            host="" if identity is None else identity.host,
            pid=0 if identity is None else identity.pid,
            caller=held.note,
            owner=held.owner,
            fence=held.fence,
            held_for=held.age,
            ttl=held.ttl,
            holders=held.holders,
            waiters=held.waiters,
        )

    ainfo = awaitable(info)

    @control
    async def force_release(self, *, reason: str) -> bool:
        """Take the lock from whoever holds it; false if nobody did.

        The holder is told with its next renewal, and the next fence is larger, so that its fenced
        writes are refused from now on.

        Args:
            reason: Why, for the log of whoever operates this.
        """
        store = self._store()
        if store is None:
            return False
        held = await store.holder(self.key, mode=self._mode)
        released = await store.force_release(self.key, mode=self._mode)
        if released:
            whose = "nobody" if held is None else describe(held.owner)
            emit(LockForceReleased(self.key, whose, reason))
        return released

    aforce_release = awaitable(force_release)

    def _store(self) -> LockStore | None:
        backend = self._settings["sync"].source.backend()
        if backend is None:
            return None
        store: LockStore = backend.require("locks")
        return store

    def __repr__(self) -> str:
        return f"{CALLED[self._mode.family, self._mode.shared]}({self.key!r})"


CALLED = {
    ("lock", False): "lock",
    ("semaphore", True): "semaphore",
    ("rwlock", True): "read_lock",
    ("rwlock", False): "write_lock",
}


def named(key: object, where: str) -> str:
    """The key, if it is one."""
    if not isinstance(key, str):
        raise ConfigurationError(f"{where}: key={key!r} is not a string")
    if not key:
        raise KeyMissing(f"{where}: the key is empty")
    return key


def lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A lock on a literal key, to be entered with `with` or `async with`.

    Args:
        key: The lock's name, taken as it is.
        **options: `ttl` (30 s): after how long the lock of a dead holder frees itself, as seconds
            or `"30s"`; a live one renews it at a third of that, so that it rides out pauses and
            short outages.
            `wait` (10 s): how long to wait for another holder; 0: try once; `None`: no limit.
            `fair` (true): whoever has waited longest is next, and the lock is handed over to it;
            false keeps no order, for more throughput.
            `reentrant` (false): the thread or task that holds it may enter it again.
            `min_hold` (none): for how long nobody else gets it, even if it is released sooner: a
            job that takes no time then runs once for all whose clocks differ by less.
            `max_hold` (none): after how long it is lost, however alive its holder is.
            `on_lost`: what becomes of the body when the lock is lost: `"cancel"` it (an async one,
            by default), `"flag"` it in `lease.lost` (a sync one, by default), or a function that is
            called with the lease, on the thread that renews it.
            `replicas` (0): how many replicas of a Redis server must have the grant.
            `backend`: a URL, client or backend of its own instead of the configured one.

    Raises:
        LockNotAcquired: On entry: somebody else held it for as long as `wait`.
        LeaseLost: On exit: it was lost while the body ran, even if the body returned.
        BackendError: On entry: the backend is away, or too few replicas had the grant.
        ConfigurationError: An option is wrong.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"):
        ...     with resilient.lock("invoice:7", ttl=30, wait=5) as lease:
        ...         lease.fence > 0, lease.lost
        (True, False)
    """
    return Lock(key, **options)


def semaphore(key: str, *, limit: int, **options: Unpack[LockOptions]) -> Lock:
    """A lock that so many may hold at once, over all processes.

    Args:
        key: Its name; it has nothing to do with a lock of that name.
        limit: How many may hold it. Callers with different limits each judge by their own.
        **options: As for `lock`.

    Raises:
        LockNotAcquired: On entry: so many held it for as long as `wait`.
        LeaseLost: On exit: the hold was lost while the body ran.
        ConfigurationError: An option is wrong.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"):
        ...     places = resilient.semaphore("reports", limit=2)
        ...     with places, places:
        ...         places.info().holders
        2
    """
    check_whole_number("semaphore()", "limit", limit)
    return Lock(key, mode=semaphore_of(limit), **options)


def read_lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A lock that any number of readers hold at once, and no writer beside them.

    A writer that waits is not overtaken: readers that come after it wait for it.

    Args:
        key: Its name, the same for `write_lock`.
        **options: As for `lock`.

    Raises:
        LockNotAcquired: On entry: a writer held it, or waited for it, for as long as `wait`.
        LeaseLost: On exit: the hold was lost while the body ran.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"):
        ...     with resilient.read_lock("prices"), resilient.read_lock("prices"):
        ...         resilient.read_lock("prices").info().holders
        2
    """
    return Lock(key, mode=READ, **options)


def write_lock(key: str, **options: Unpack[LockOptions]) -> Lock:
    """A lock that one writer holds, and no reader beside it: see `read_lock`.

    Args:
        key: Its name, the same for `read_lock`.
        **options: As for `lock`.

    Raises:
        LockNotAcquired: On entry: others held it for as long as `wait`.
        LeaseLost: On exit: the hold was lost while the body ran.

    Example:
        >>> import resilient
        >>> with resilient.using("memory://"):
        ...     with resilient.write_lock("prices") as lease:
        ...         lease.fence > 0
        True
    """
    return Lock(key, mode=WRITE, **options)
