"""What this process keeps of one function's values on one backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from resilient.engine.durations import Duration, seconds
from resilient.engine.failure import Failure
from resilient.engine.local_store import Alias, Entry, LocalStore
from resilient.engine.options import check_whole_number

if TYPE_CHECKING:
    from resilient.engine.backend import Backend
    from resilient.policies.cached.context import CacheContext
    from resilient.policies.cached.freshness import Life
    from resilient.policies.cached.records import Records

__all__ = ["Call", "Counters", "LocalCache", "Near"]

DEAF = 2.0
"""Seconds within which a process notices that it hears nothing any more of what others do."""


LOOK_AGAIN = 0.1
"""Seconds for which a stale value is served from here before the backend is asked again."""


@dataclass(frozen=True)
class LocalCache:
    """A layer in this process in front of the backend: hits in it cost no round trip.

    Args:
        maxsize: How many values it holds, for one function; the least useful go first (SIEVE).
        ttl: For how long one may be served without asking the backend, seconds or as `"30s"`: the
            bound of staleness where invalidations by other processes are not heard of.
        copy: Whether each hit gives a copy of its own. Without it all callers get the very same
            object, which they must not change.

    Raises:
        ConfigurationError: `maxsize` is no positive integer, or `ttl` no duration.
    """

    maxsize: int = 10_000
    ttl: Duration = 30
    copy: bool = False

    def __post_init__(self) -> None:
        check_whole_number("LocalCache", "maxsize", self.maxsize)
        object.__setattr__(self, "ttl", seconds(self.ttl, option="LocalCache: ttl"))

    @property
    def seconds(self) -> float:
        """The TTL in seconds."""
        assert isinstance(self.ttl, float | int)
        return float(self.ttl)


class Call:
    """One call: its key, its alias in this process if it has one, its tags, and its context."""

    __slots__ = ("alias", "context", "key", "tags")

    def __init__(
        self,
        key: str,
        alias: Alias | None,
        tags: tuple[str, ...],
        context: CacheContext | None = None,
    ) -> None:
        self.key = key
        self.alias = alias
        self.tags = tags
        self.context = context

    def add_tags(self, tags: Iterable[str]) -> None:
        """Its value has these tags, too."""
        new = [tag for tag in tags if tag not in self.tags]
        if new:
            self.tags = (*self.tags, *new)

    def remember(self, stale: Any) -> None:
        """There is a value that is to be replaced."""
        if self.context is not None:
            self.context.stale, self.context.has_stale = stale, True


class Counters:
    """What happened in this process; approximate where threads count at the same moment."""

    __slots__ = (
        "backend_errors",
        "computed",
        "errors",
        "hits",
        "misses",
        "stale",
        "unreadable",
    )

    def __init__(self) -> None:
        self.hits = 0
        self.misses = 0
        self.computed = 0
        self.errors = 0
        self.backend_errors = 0
        self.stale = 0
        self.unreadable = 0


class Near:
    """What this process keeps of one function's values on one backend.

    Attributes:
        backend: The backend.
        local: The layer in front of it, or `None`.
        trusts: Whether the layer is there only because it is heard what others make stale.
        values: What is in it; nothing, ever, without a layer.
        counters: What happened.
    """

    __slots__ = ("backend", "counters", "local", "nearby", "records", "trusts", "values")

    def __init__(
        self,
        backend: Backend,
        owner: object,
        local: LocalCache | None,
        records: Records,
        *,
        trusts: bool,
    ) -> None:
        self.backend = backend
        self.nearby = backend.nearby
        self.local = local
        self.trusts = trusts
        self.records = records
        self.counters = Counters()
        self.nearby.keeps |= local is not None
        maxsize = 1 if local is None else local.maxsize
        self.values = self.nearby.store(owner, lambda: LocalStore(maxsize))

    def find(self, key: str, alias: Alias | None) -> Entry | None:
        """A value at hand, by its key; from now on by this alias too."""
        entry = self.values.find(key)
        if entry is not None:
            entry.hits += 1
            if alias is not None:
                self.values.name(entry, alias)
        return entry

    @property
    def wants_to_watch(self) -> bool:
        """Whether it can listen to what others make stale, and does not yet.

        Before that it keeps nothing. Without any layer too it listens: nobody shall wait for a
        computation that began before another process's invalidation.
        """
        return self.backend.hub.has_source and not self.nearby.is_watching

    def stale(self, key: str) -> Entry | None:
        """A value at hand that may be served while it is computed anew."""
        entry = self.values.find_stale(key)
        if entry is not None:
            self.counters.stale += 1
        return entry

    def kept(self, key: str) -> Entry | None:
        """A value at hand to fall back on in trouble."""
        return self.values.find_kept(key)

    def keep(
        self,
        call: Call,
        value: Any,
        life: Life,
        *,
        born: int,
        began: float,
        unless: Callable[[], bool],
    ) -> None:
        """Have a value at hand from now on, unless it has become stale meanwhile.

        Args:
            call: What it is the value of.
            value: The value.
            life: For how long the backend has it.
            born: Its birth at the backend.
            began: When the request was sent to which the backend answered that, on the local clock.
            unless: Whether it has become stale.
        """
        if self.trusts and not self.backend.hub.has_source:
            self.local = None  # it has turned out that nothing is heard through this server
        if self.local is None or self.wants_to_watch or type(value) is Failure:
            return
        if self.local.copy:
            value = self.records.encode(call.key, value)
        # While somebody else computes it anew nobody needs to ask at every call.
        fresh = life.fresh if life.fresh > 0 else min(life.ttl, LOOK_AGAIN)
        self.values.put(
            call.key,
            value,
            began + min(fresh, self.local.seconds),
            stale_until=began + min(life.ttl, self.local.seconds),
            kept_until=began + life.ttl + life.stale if life.stale else None,
            tags=call.tags,
            alias=call.alias,
            born=born,
            unless=unless,
        )

    def given(self, entry: Entry) -> Any:
        """What a caller gets of a value at hand."""
        copies = self.local is not None and self.local.copy
        return self.records.decode(entry.key, entry.value) if copies else entry.value

    def own(self, key: str, value: Any) -> Any:
        """What a caller gets of another caller's value."""
        copies = self.local is not None and self.local.copy
        return self.records.decode(key, self.records.encode(key, value)) if copies else value

    @property
    def coherence(self) -> Literal["tracking", "broadcast", "ttl", "none"]:
        """How values at hand are kept from being stale."""
        return "none" if self.local is None else self.nearby.coherence

    @property
    def max_staleness(self) -> float:
        """Seconds for which a value may be served here after another process invalidated it.

        Where that is heard, it is as long as it takes to notice that nothing is heard any more.
        """
        if self.local is None:
            return 0.0
        is_deaf = self.coherence == "ttl"
        return self.local.seconds if is_deaf else min(self.local.seconds, DEAF)
