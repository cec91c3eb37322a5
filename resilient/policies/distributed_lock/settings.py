"""The options that all locks have, checked where they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from resilient.config import Source
from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.options import check_whole_number, refuse_unknown
from resilient.errors import ConfigurationError
from resilient.protocols.locks import LOCK, LockMode
from resilient.resolving import BackendLike

if TYPE_CHECKING:
    from resilient.engine.backend import Mode
    from resilient.policies.distributed_lock.leases import AsyncLease, HeldLock, LockLease

__all__ = ["LockOptions", "OnLost", "Settings", "settings_of"]

POLICY = "distributed_lock"

OnLost: TypeAlias = "Literal['cancel', 'flag'] | Callable[[LockLease | AsyncLease], object]"


class LockOptions(TypedDict, total=False):
    """What `lock()`, `@distributed_lock` and their relatives have in common."""

    ttl: Duration
    wait: Duration | None
    fair: bool
    reentrant: bool
    min_hold: Duration | None
    max_hold: Duration | None
    on_lost: OnLost | None
    replicas: int
    backend: BackendLike | None


_OPTIONS = LockOptions.__optional_keys__


# Nothing but the constructor is generated: the package shall be quick to import.
@dataclass(kw_only=True, eq=False, repr=False, match_args=False)
class Settings:
    """The options of one lock, as its plan needs them.

    Attributes:
        source: Where its backend comes from.
        lease: The kind of lease that its holder gets.
        ttl: Seconds after which it frees itself unless renewed.
        wait: Seconds to wait for other holders; 0: try once; `None`: no limit.
        mode: How it is held.
        fair: Whether those who have waited longer come first.
        reentrant: Whether its holder may enter it again.
        min_hold: Seconds for which nobody else gets it, even if it is released sooner.
        max_hold: Seconds after which it is lost, however alive its holder is; `None`: never.
        on_lost: What becomes of the body when it is lost.
        replicas: How many replicas must have a grant.
        skip: Whether a busy lock skips the call, which then answers `skipped`.
        skipped: That.
        unguarded: Whether the call runs without the lock when the backend is away.
    """

    source: Source
    lease: type[HeldLock]
    ttl: float = 30.0
    wait: float | None = 10.0
    mode: LockMode = LOCK
    fair: bool = True
    reentrant: bool = False
    min_hold: float = 0.0
    max_hold: float | None = None
    on_lost: OnLost = "flag"
    replicas: int = 0
    skip: bool = False
    skipped: Any = None
    unguarded: bool = False

    def held_by(self, lease: type[HeldLock], on_lost: OnLost | None) -> Settings:
        """The same, for holders who get a lease of another kind.

        Args:
            lease: The kind.
            on_lost: What they have said of a loss; if nothing, it is the default of that kind.
        """
        other = object.__new__(Settings)
        vars(other).update(vars(self), lease=lease)
        if on_lost is None:
            other.on_lost = _default_on_lost(lease)
        return other


def settings_of(
    where: str,
    called: Mode | None,
    options: LockOptions,
    *,
    mode: LockMode = LOCK,
    lease: type[HeldLock],
    skip: bool = False,
    skipped: Any = None,
    unguarded: bool = False,
) -> Settings:
    """Check the options of one lock.

    Args:
        where: Who has them, for messages.
        called: Whether the body is sync or async; `None`: a block, which may be either.
        options: The options.
        mode: How it is held.
        lease: The kind of lease that its holder gets.
        skip: Whether a busy lock skips the call.
        skipped: What a skipped call answers.
        unguarded: Whether it runs without the lock when the backend is away.

    Raises:
        ConfigurationError: One of them is wrong.
    """
    refuse_unknown(where, options, _OPTIONS)
    plain: Any = {**options}
    backend, on_lost = plain.pop("backend", None), plain.pop("on_lost", None)
    try:
        checked = _checked(where, mode, **plain)
    except TypeError:  # what has no hash is none of these options' values
        checked = None
    if checked is None:
        checked = _checked.__wrapped__(where, mode, **plain)
    return Settings(
        source=Source("locks", POLICY, called, backend),
        lease=lease,
        mode=mode,
        on_lost=_on_lost(where, called, lease, on_lost),
        skip=skip,
        skipped=skipped,
        unguarded=unguarded,
        **checked,
    )


@lru_cache(256, typed=True)  # a lock whose key is made at each call has the same few
def _checked(
    where: str,
    mode: LockMode,
    *,
    ttl: Duration = 30,
    wait: Duration | None = 10,
    fair: bool = True,
    reentrant: bool = False,
    min_hold: Duration | None = None,
    max_hold: Duration | None = None,
    replicas: int = 0,
) -> dict[str, Any]:
    """Those of the options that are plain values, durations in seconds."""
    longest = optional_seconds(max_hold, option="max_hold")
    shortest = optional_seconds(min_hold, option="min_hold") or 0.0
    lives = seconds(ttl, option="ttl")
    if longest is not None and shortest > longest:
        raise ConfigurationError(
            f"{where}: min_hold={shortest:g} is more than max_hold={longest:g}"
        )
    if longest is not None:
        lives = min(lives, longest)  # the lock of a holder that stands still is free then, too
    for name, value in (("fair", fair), ("reentrant", reentrant)):
        if not isinstance(value, bool):
            raise ConfigurationError(f"{where}: {name}={value!r} is not True or False")
    if reentrant and mode.shared:
        raise ConfigurationError(f"{where}: reentrant=True: several may hold it in any case")
    check_whole_number(where, "replicas", replicas, least=0)
    return {
        "ttl": lives,
        "wait": optional_seconds(wait, option="wait", allow_zero=True),
        "fair": fair,
        "reentrant": reentrant,
        "min_hold": shortest,
        "max_hold": longest,
        "replicas": replicas,
    }


def _on_lost(
    where: str, called: Mode | None, lease: type[HeldLock], on_lost: OnLost | None
) -> OnLost:
    if on_lost is None:
        return _default_on_lost(lease)
    if on_lost == "cancel" and called == "sync":
        raise ConfigurationError(
            f'{where}: on_lost="cancel" can stop an `async def` only: a `def` looks at '
            "lease.lost, or calls lease.check(), by itself"
        )
    if on_lost in ("cancel", "flag") or callable(on_lost):
        return on_lost
    raise ConfigurationError(f'{where}: on_lost={on_lost!r} is not "cancel", "flag" or a function')


def _default_on_lost(lease: type[HeldLock]) -> OnLost:
    return "cancel" if lease.is_async else "flag"
