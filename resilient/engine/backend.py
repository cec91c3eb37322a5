"""A backend as the policies see it: up to five capabilities, a hub for signals, a heartbeat.

An adapter subclasses `Backend` or hands its stores to the constructor. An object that merely has
the attributes (`locks`, `circuits`, ...; `close`, `aclose`) is adopted as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    Self,
    TypeVar,
    get_args,
    overload,
)

from resilient.engine.crew import aside
from resilient.engine.nearby import Nearby
from resilient.engine.signals import Hub
from resilient.errors import CapabilityMissing, ConfigurationError
from resilient.protocols.cache import CacheStore
from resilient.protocols.checkpoints import CheckpointStore
from resilient.protocols.circuits import CircuitStore
from resilient.protocols.idempotency import IdempotencyStore
from resilient.protocols.locks import LockStore
from resilient.protocols.signals import SignalSource

if TYPE_CHECKING:
    from resilient.engine.background import Worker
    from resilient.engine.joining import Parties
    from resilient.engine.lease import Heartbeat
    from resilient.engine.outage import Outage
    from resilient.engine.views import AsyncView, SyncView

__all__ = ["BOTH_MODES", "Backend", "Capability", "Mode", "ServerBackend", "Traits", "adopt"]

Capability = Literal["locks", "circuits", "cache", "idempotency", "checkpoints"]
Mode = Literal["sync", "async"]

CAPABILITIES: tuple[Capability, ...] = get_args(Capability)
BOTH_MODES: frozenset[Mode] = frozenset({"sync", "async"})
DEFAULT_MAX_TTL = 30 * 86400.0


T = TypeVar("T")


class Traits(NamedTuple):
    """What tells one backend from another, beside its capabilities, for those who choose.

    The table in `docs/backends.md` is made of it.

    Attributes:
        shared_by: Who finds the same state there.
        survives: What the state outlives.
        waking: How those who wait learn that their turn has come.
        several_locks: How `lock_all` takes several locks.
        replicas: Whether a lock may ask how many replicas have it (`replicas=`).
    """

    shared_by: str
    survives: str
    waking: str
    several_locks: str = "one operation"
    replicas: bool = False


class made_once(Generic[T]):  # noqa: N801 - a decorator
    """A part of an object that is made when it is first asked for, and never twice.

    `functools.cached_property` may make two, for two threads that ask first at the same moment: and
    a heartbeat that nobody uses would remain among the worker's chores.
    """

    _turn = threading.RLock()
    """For all parts of all objects: so that none that needs another waits for it in a circle."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, whole: None, owner: type) -> Self: ...

    @overload
    def __get__(self, whole: object, owner: type) -> T: ...

    def __get__(self, whole: object | None, owner: type) -> T | Self:
        if whole is None:
            return self
        name, parts = self._make.__name__, whole.__dict__
        with made_once._turn:  # but for the first few, Python finds the part and comes not here
            if name not in parts:
                parts[name] = self._make(whole)
            part: T = parts[name]
        return part

    @classmethod
    def forget(cls) -> None:
        """Begin anew: whoever had the turn is not there (a fork)."""
        cls._turn = threading.RLock()


os.register_at_fork(after_in_child=made_once.forget)


class Backend:
    """Where policies keep what they share.

    Args:
        name: What error messages call it; no password in it.
        locks: The store of this capability, or `None` if the backend lacks it; so are the others.
        source: Where signals come from. Without one, waiters look every 50 ms.
        modes: The kinds of callers that it serves. A store whose methods really suspend on an
            event loop serves `"async"` only.
    """

    traits: ClassVar[Traits | None] = None
    """What is to be known of it by those who choose a backend; nothing of somebody else's."""
    prefix: str = ""
    """What stands before every key: the tenant."""
    max_ttl: float = DEFAULT_MAX_TTL
    """Seconds for which a record is kept whose own TTL is `None`."""

    def __init__(
        self,
        name: str,
        *,
        locks: LockStore | None = None,
        circuits: CircuitStore | None = None,
        cache: CacheStore | None = None,
        idempotency: IdempotencyStore | None = None,
        checkpoints: CheckpointStore | None = None,
        source: SignalSource | None = None,
        modes: frozenset[Mode] = BOTH_MODES,
    ) -> None:
        self.name = name
        self.locks = locks
        self.circuits = circuits
        self.cache = cache
        self.idempotency = idempotency
        self.checkpoints = checkpoints
        self.modes = modes
        self.hub = Hub(source)
        self.nearby = Nearby(self.hub)

    def require(self, capability: Capability, mode: Mode | None = None) -> Any:
        """The store of a capability; `CapabilityMissing` if the backend lacks it or the mode."""
        store = getattr(self, capability)
        if store is None:
            have = ", ".join(c for c in CAPABILITIES if getattr(self, c) is not None) or "nothing"
            raise CapabilityMissing(f"{self.name} offers no {capability}; it offers {have}")
        if mode is not None and mode not in self.modes:
            raise CapabilityMissing(
                f"{self.name} serves {' and '.join(sorted(self.modes))} callers only, "
                f"and this function is {mode}"
            )
        return store

    @made_once
    def worker(self) -> Worker:
        """What does the background work; its thread starts with the first thing to do."""
        from resilient.engine.background import Worker

        return Worker(self)

    @made_once
    def heartbeat(self) -> Heartbeat:
        """What renews every lease held on this backend."""
        from resilient.engine.lease import Heartbeat

        return Heartbeat(self)

    @made_once
    def parties(self) -> Parties:
        """Who in this process waits for what others make."""
        from resilient.engine.joining import Parties

        return Parties()

    @made_once
    def outage(self) -> Outage:
        """Whether this backend is known to be away."""
        from resilient.engine.outage import Outage

        return Outage(self)

    @made_once
    def sync(self) -> SyncView:
        """The stores by hand, blocking: `backend.sync.cache.get("k")`."""
        from resilient.engine.views import SyncView

        return SyncView(self)

    @made_once
    def aio(self) -> AsyncView:
        """The stores by hand, awaitable: `await backend.aio.cache.get("k")`."""
        from resilient.engine.views import AsyncView

        return AsyncView(self)

    def close(self) -> None:
        """Give back connections and end the background threads. The backend may be used again."""
        self._rest()

    async def aclose(self) -> None:
        """The same for callers in an event loop, whose own connections are closed too."""
        await aside(self._rest)  # threads are waited for

    def relax(self) -> None:
        """Nothing was done in the background for some seconds: give back what it alone needs."""

    def _rest(self) -> None:
        if "worker" in self.__dict__:
            self.worker.stop()
        self.hub.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Connections(Protocol):
    """A transport with connections to close."""

    def close(self) -> None:
        """Close those of blocking callers that are idle."""
        ...

    async def aclose(self) -> None:
        """Close those and the running loop's own."""
        ...


C = TypeVar("C", bound=Connections)


class ServerBackend(Backend, Generic[C]):
    """A backend whose stores reach a server by one transport, which is `_transport`."""

    _transport: C

    def close(self) -> None:
        """Give back connections and end the background threads. The backend may be used again."""
        super().close()
        self._transport.close()

    async def aclose(self) -> None:
        """The same for callers in an event loop, whose own connections are closed too."""
        try:
            await super().aclose()
        finally:  # also if that is cancelled
            await self._transport.aclose()

    def _longest(self) -> float:
        return self.max_ttl  # may be configured later


class _Adopted(Backend):
    """An object of somebody else's that has a backend's attributes."""

    def __init__(self, original: Any, option: str) -> None:
        stores = {name: getattr(original, name, None) for name in CAPABILITIES}
        if not any(stores.values()):
            raise ConfigurationError(
                f"{option}={original!r} is neither a URL, a client nor a backend: "
                f"it has none of {', '.join(CAPABILITIES)}"
            )
        super().__init__(
            getattr(original, "name", type(original).__name__),
            **stores,
            source=getattr(original, "signals", None),
            modes=frozenset(getattr(original, "modes", BOTH_MODES)),
        )
        self._original = original
        self.prefix = getattr(original, "prefix", "")

    def close(self) -> None:
        super().close()
        if close := getattr(self._original, "close", None):
            close()

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            if aclose := getattr(self._original, "aclose", None):
                await aclose()


def adopt(candidate: Any, option: str = "backend") -> Backend:
    """The candidate itself if it is a `Backend`, else a backend around its stores.

    Args:
        candidate: What was given
        option: as this.

    Raises:
        ConfigurationError: It has none of a backend's attributes.
    """
    return candidate if isinstance(candidate, Backend) else _Adopted(candidate, option)
