"""The options that a cached function and a cached batch have in common, and what they amount to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from resilient.config import Source
from resilient.engine.durations import Duration, optional_seconds
from resilient.engine.names import label
from resilient.engine.options import check_choice
from resilient.engine.wrap import Shape
from resilient.errors import ConfigurationError
from resilient.policies.cached.layer import namespace_for, versioned
from resilient.policies.cached.near import LocalCache
from resilient.policies.cached.settings import Budget, Settings, limits_of
from resilient.policies.cached.tags import namespace_tag
from resilient.resolving import BackendLike

if TYPE_CHECKING:
    from resilient.engine.codecs import Codec
    from resilient.policies.cached.freshness import Ttl

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a decorator was given; `policy` is its name, and the others are those of `@cached`.

    Raises:
        ConfigurationError: One of them is wrong, whatever function will be decorated.
    """

    policy: str
    ttl: Ttl
    soft_ttl: Duration | None
    stale_if_error: Duration | None
    throttle: Duration
    early: bool
    jitter: float
    error_ttl: Mapping[type[Exception], Duration] | None = None
    cache_if: Callable[[Any], bool] | None
    local: LocalCache | Literal["auto"] | None
    single_flight: Literal["cluster", "local"]
    codec: Codec | Literal["json"] | None
    compute_timeout: Budget | None
    backend_timeout: Budget
    namespace: str | None
    version: str | int | None
    on_backend_error: Literal["run", "raise"]
    backend: BackendLike | None

    def __post_init__(self) -> None:
        check_choice(f"@{self.policy}", "on_backend_error", self.on_backend_error, "run", "raise")
        if not (self.local is None or self.local == "auto" or isinstance(self.local, LocalCache)):
            raise ConfigurationError(
                f'@{self.policy}: local={self.local!r} is neither a LocalCache nor None nor "auto"'
            )
        if self.single_flight not in ("cluster", "local"):
            raise ConfigurationError(
                f'@{self.policy}: single_flight={self.single_flight!r} is not "cluster" or "local"'
            )
        if not callable(self.ttl):
            optional_seconds(self.ttl, option="ttl")
        limits_of(self.compute_timeout, "compute_timeout")
        if limits_of(self.backend_timeout, "backend_timeout").hard is None:
            raise ConfigurationError(
                f"@{self.policy}: backend_timeout=None: a request needs a limit"
            )

    def key_start(self, function: Callable[..., Any]) -> str:
        """What the keys of a function start with."""
        return versioned(function, self._space(function), self.version, policy=self.policy)

    def _space(self, function: Callable[..., Any]) -> str:
        return namespace_for(function, self.namespace, policy=self.policy)

    def settings(
        self,
        function: Callable[..., Any],
        shape: Shape,
        part: Callable[[Any], Any] = lambda annotation: annotation,
    ) -> Settings:
        """The settings of a function.

        Args:
            function: The function.
            shape: What kind of function it is.
            part: What is stored of what it returns, by its annotation.
        """
        # With the first decorated function, not with the package: it brings the serialiser.
        from resilient.policies.cached.freshness import Freshness
        from resilient.policies.cached.records import records_for

        where = label(self.policy, function)
        return Settings(
            Source("cache", self.policy, shape.mode, self.backend),
            namespace=namespace_tag(self._space(function)),
            records=records_for(
                function, self.codec, where, with_errors=bool(self.error_ttl), part=part
            ),
            freshness=Freshness(
                where,
                ttl=self.ttl,
                soft_ttl=self.soft_ttl,
                stale_if_error=self.stale_if_error,
                throttle=self.throttle,
                early=self.early,
                jitter=self.jitter,
                error_ttl=self.error_ttl,
                cache_if=self.cache_if,
            ),
            local=self.local,
            waits=self.single_flight == "cluster",
            unguarded=self.on_backend_error == "run",
            computing=limits_of(self.compute_timeout, "compute_timeout"),
            asking=limits_of(self.backend_timeout, "backend_timeout"),
        )
