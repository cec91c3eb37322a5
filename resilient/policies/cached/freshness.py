"""How long a result is fresh, served and kept: the options that say so, and what they amount to."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.plan import RANDOM
from resilient.errors import ConfigurationError

__all__ = ["Freshness", "Life"]

Ttl = Duration | Callable[[Any], Duration | None] | None


class Life(NamedTuple):
    """How long one value is kept, in seconds.

    Attributes:
        ttl: For how long it is served.
        fresh: For how long nobody needs to compute it anew; at most as long.
        stale: For how long after its TTL it is kept to fall back on.
    """

    ttl: float
    fresh: float
    stale: float


class Freshness:
    """The options of `@cached` about time.

    Args:
        ttl: A duration; a function of the result that answers one, or `None` for "not at all"; or
            `None`: as long as the backend keeps anything.
        soft_ttl: See `@cached`; so are the others.

    Raises:
        ConfigurationError: One of them is wrong, or they contradict each other.
    """

    __slots__ = ("_errors", "_jitter", "_keep_if", "_soft", "_ttl", "early", "stale", "throttle")

    def __init__(
        self,
        where: str,
        *,
        ttl: Ttl,
        soft_ttl: Duration | None = None,
        stale_if_error: Duration | None = None,
        throttle: Duration = 5,
        early: bool = False,
        jitter: float = 0.0,
        error_ttl: Mapping[type[Exception], Duration] | None = None,
        cache_if: Callable[[Any], bool] | None = None,
    ) -> None:
        self._ttl = ttl if callable(ttl) else optional_seconds(ttl, option=f"{where}: ttl")
        self._soft = optional_seconds(soft_ttl, option=f"{where}: soft_ttl")
        stale = optional_seconds(stale_if_error, option=f"{where}: stale_if_error")
        self.stale = stale or 0.0
        self.throttle = seconds(throttle, option=f"{where}: throttle")
        if not isinstance(early, bool):
            raise ConfigurationError(f"{where}: early={early!r}: expected True or False")
        self.early = early
        share: object = jitter
        if type(share) not in (int, float) or not 0 <= jitter < 1:
            raise ConfigurationError(f"{where}: jitter={jitter!r}: expected a share, 0 to below 1")
        self._jitter = float(jitter)
        self._errors = _by_type(where, error_ttl)
        _check_plain(where, "ttl", ttl if callable(ttl) else None)
        _check_plain(where, "cache_if", cache_if)
        self._keep_if = cache_if
        if isinstance(self._ttl, float) and self._soft is not None and self._soft >= self._ttl:
            raise ConfigurationError(
                f"{where}: soft_ttl={soft_ttl!r} is not shorter than ttl={ttl!r}: nothing would "
                "ever be refreshed"
            )

    @property
    def serves_stale(self) -> bool:
        """Whether values are served while they are computed anew."""
        return self._soft is not None or self.early

    async def of_value(
        self, value: Any, took: float, *, ttl: float | None, no_store: bool, longest: float
    ) -> Life | None:
        """How long a result is kept; `None`: not at all.

        Args:
            value: The result.
            took: Seconds that it took to compute.
            ttl: What the call itself asked for, instead of the options.
            no_store: Whether it asked for nothing to be kept.
            longest: How long the backend keeps what has no TTL of its own.
        """
        if no_store or (self._keep_if is not None and not self._keep_if(value)):
            return None
        lives = self._ttl if ttl is None else ttl
        if callable(lives):
            answered = lives(value)
            if answered is None:
                return None
            lives = seconds(answered, option="what ttl= answered")
        if lives is None:
            lives = longest
        if self._jitter:
            lives *= 1 - self._jitter * await RANDOM  # shorter only: the TTL is a promise
        fresh = lives if self._soft is None else min(self._soft, lives)
        if self.early:
            # The moment at which one caller computes it ahead of time, drawn once for all: A.
            # Vattani et al., "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015.
            fresh -= took * -math.log(1.0 - await RANDOM)
        return Life(lives, max(fresh, 0.0), self.stale)

    def of_error(self, error: Exception) -> Life | None:
        """How long an exception is kept; `None`: it is no result."""
        for kind, lives in self._errors:
            if isinstance(error, kind):
                return Life(lives, lives, 0.0)
        return None

    def of_fallback(self, left: float, kept: float) -> Life | None:
        """For how long what is left of a value is served in place of a computation that failed.

        Args:
            left: Seconds for which the value may be served without that; less than nothing if
                its TTL is over.
            kept: Seconds for which it is kept.
        """
        if kept <= 0 or (left <= 0 and not self.stale):
            return None
        lives = max(left, min(self.throttle, kept))
        return Life(lives, min(self.throttle, lives), kept - lives)


def _by_type(
    where: str, given: Mapping[type[Exception], Duration] | None
) -> tuple[tuple[type[Exception], float], ...]:
    if given is None:
        return ()
    mapping: object = given
    if not isinstance(mapping, Mapping):
        raise ConfigurationError(
            f"{where}: error_ttl={mapping!r}: expected a mapping, such as {{LookupError: 5}}"
        )
    found = []
    for kind, lives in given.items():
        named: object = kind
        if not (isinstance(named, type) and issubclass(named, Exception)):
            raise ConfigurationError(f"{where}: error_ttl names {named!r}, which is no exception")
        found.append((kind, seconds(lives, option=f"{where}: error_ttl[{kind.__name__}]")))
    # The most special first, in whatever order they were written.
    return tuple(sorted(found, key=lambda pair: -len(pair[0].__mro__)))


def _check_plain(where: str, option: str, function: Callable[..., Any] | None) -> None:
    if function is None:
        return
    given: object = function
    if not callable(given) or inspect.iscoroutinefunction(given):
        raise ConfigurationError(
            f"{where}: {option}={function!r}: expected a plain function of the result"
        )
