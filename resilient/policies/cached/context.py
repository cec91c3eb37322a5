"""What a cached function can say about the call that computes: its `ctx` parameter."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from resilient.engine.durations import Duration, seconds
from resilient.errors import ConfigurationError
from resilient.policies.cached.tags import storable

__all__ = ["CacheContext", "context_parameter", "without"]


class CacheContext:
    """One computation, as its function sees it: a parameter `ctx` of the function.

    It is no part of the key, and callers leave it out: `ctx: CacheContext = CacheContext()`. The
    cache passes one in; what is asked of the default has no effect.

    Attributes:
        ttl: Seconds for which the result is served, instead of the decorator's `ttl`.
        tags: Further tags of the result, known only now.
        stale: The value that is being replaced, if there is one to fall back on; else `None`.
        has_stale: Whether there is.

    Example:
        >>> import resilient
        >>> from resilient import CacheContext
        >>> @resilient.cached("{city}", ttl="1h")
        ... def weather(city: str, ctx: CacheContext = CacheContext()) -> str:
        ...     ctx.keep_for("5m")
        ...     ctx.tag(f"country:{city[:2]}")
        ...     return f"sunny in {city}"
        >>> with resilient.using("memory://"):
        ...     weather("Bern")
        'sunny in Bern'
    """

    __slots__ = ("_learn", "has_stale", "is_stored", "stale", "tags", "ttl")

    def __init__(self) -> None:
        self.ttl: float | None = None
        self.tags: tuple[str, ...] = ()
        self.stale: Any = None
        self.has_stale = False
        self.is_stored = True
        self._learn: Callable[[tuple[str, ...]], None] | None = None

    def tell(self, learn: Callable[[tuple[str, ...]], None]) -> None:
        """Tell the computation of further tags as soon as they are known."""
        self._learn = learn

    def keep_for(self, ttl: Duration) -> None:
        """Serve the result for so long, in seconds or as `"5m"`."""
        self.ttl = seconds(ttl, option="keep_for()")

    def tag(self, *tags: str) -> None:
        """Give the result further tags, for `resilient.invalidate_tags`.

        They count from the beginning of the computation: if one was invalidated since, before or
        after this is called, the result is not stored, and who called after that does not get it.
        """
        for tag in tags:
            given: object = tag
            if not isinstance(given, str) or not given:
                raise ConfigurationError(f"tag(): {tag!r} is no tag: expected a text")
        known = tuple(map(storable, tags))
        self.tags = (*self.tags, *known)
        if self._learn is not None:
            self._learn(known)

    def no_store(self) -> None:
        """Give the result to those who wait for it, and keep it nowhere."""
        self.is_stored = False


def context_parameter(signature: Signature, where: str) -> str | None:
    """The name of the parameter that takes the context, or `None`.

    Raises:
        ConfigurationError: It has no default, so that callers could not leave it out.
    """
    for name, parameter in signature.parameters.items():
        if not _is_context(parameter.annotation):
            continue
        if parameter.default is Parameter.empty:
            raise ConfigurationError(
                f"{where}: give the parameter {name!r} a default, so that callers can leave it "
                f"out: `{name}: CacheContext = CacheContext()`"
            )
        return name
    return None


def without(signature: Signature, name: str | None) -> Signature:
    """The signature of those parameters that identify a call."""
    if name is None:
        return signature
    kept = [each for each in signature.parameters.values() if each.name != name]
    return signature.replace(parameters=kept)


def _is_context(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2].strip("\"'") == CacheContext.__name__
    return annotation is CacheContext
