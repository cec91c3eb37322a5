"""The options of one cached function, as its plans need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient.config import Source
from resilient.engine.durations import Duration, seconds
from resilient.engine.flights import Limits
from resilient.errors import ConfigurationError
from resilient.policies.cached.near import LocalCache

if TYPE_CHECKING:
    from resilient.policies.cached.freshness import Freshness
    from resilient.policies.cached.records import Records

__all__ = ["POLICY", "Budget", "Settings", "limits_of"]

POLICY = "cached"

Budget = Duration | tuple[Duration, Duration]
"""One duration: the hard limit. Two: the soft one, where there is something to fall back on, and
the hard one."""


class Settings:
    """The options of one cached function.

    Attributes:
        source: Where its backend comes from.
        namespace: The tag of all its entries.
        records: Turns its results into their stored form and back.
        freshness: How long they are fresh, served and kept.
        local: The layer in this process, `None` for none, `"auto"` where it can be trusted.
        waits: Whether what another process computes is waited for.
        unguarded: Whether the function is called when the backend is away.
        computing: How long callers wait for a computation.
        asking: How long one request to the backend may take.
    """

    __slots__ = (
        "asking",
        "computing",
        "freshness",
        "local",
        "namespace",
        "records",
        "source",
        "unguarded",
        "waits",
    )

    def __init__(
        self,
        source: Source,
        *,
        namespace: str,
        records: Records,
        freshness: Freshness,
        local: LocalCache | str | None,
        waits: bool,
        unguarded: bool,
        computing: Limits,
        asking: Limits,
    ) -> None:
        self.source = source
        self.namespace = namespace
        self.records = records
        self.freshness = freshness
        self.local = local
        self.waits = waits
        self.unguarded = unguarded
        self.computing = computing
        self.asking = asking


def limits_of(given: Budget | None, option: str) -> Limits:
    """A soft and a hard limit from what a user writes.

    Raises:
        ConfigurationError: It is neither a duration nor two of them, the shorter one first.
    """
    if given is None:
        return Limits()
    if not isinstance(given, tuple):
        return Limits(None, seconds(given, option=option))
    if len(given) != 2:
        raise ConfigurationError(
            f"{option}={given!r}: expected a duration, or a soft and a hard one"
        )
    soft, hard = (seconds(each, option=option) for each in given)
    if soft >= hard:
        raise ConfigurationError(f"{option}={given!r}: the soft limit is not the shorter one")
    return Limits(soft, hard)
