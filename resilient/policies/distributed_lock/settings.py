"""The options that all locks have, checked where they are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    ttl = seconds(options.get("ttl", 30), option="ttl")
    max_hold = optional_seconds(options.get("max_hold"), option="max_hold")
    min_hold = optional_seconds(options.get("min_hold"), option="min_hold") or 0.0
    if max_hold is not None and min_hold > max_hold:
        raise ConfigurationError(
            f"{where}: min_hold={min_hold:g} is more than max_hold={max_hold:g}"
        )
    if max_hold is not None:
        ttl = min(ttl, max_hold)  # the lock of a holder that stands still is free then, too
    for name in ("fair", "reentrant"):
        value = options.get(name, False)
        if not isinstance(value, bool):
            raise ConfigurationError(f"{where}: {name}={value!r} is not True or False")
    if options.get("reentrant") and mode.shared:
        raise ConfigurationError(f"{where}: reentrant=True: several may hold it in any case")
    check_whole_number(where, "replicas", options.get("replicas", 0), least=0)
    return Settings(
        source=Source("locks", POLICY, called, options.get("backend")),
        lease=lease,
        ttl=ttl,
        wait=optional_seconds(options.get("wait", 10), option="wait", allow_zero=True),
        mode=mode,
        fair=options.get("fair", True),
        reentrant=options.get("reentrant", False),
        min_hold=min_hold,
        max_hold=max_hold,
        on_lost=_on_lost(where, called, lease, options.get("on_lost")),
        replicas=options.get("replicas", 0),
        skip=skip,
        skipped=skipped,
        unguarded=unguarded,
    )


def _on_lost(
    where: str, called: Mode | None, lease: type[HeldLock], on_lost: OnLost | None
) -> OnLost:
    if on_lost is None:
        return "cancel" if lease.is_async else "flag"
    if on_lost == "cancel" and called == "sync":
        raise ConfigurationError(
            f'{where}: on_lost="cancel" can stop an `async def` only: a `def` looks at '
            "lease.lost, or calls lease.check(), by itself"
        )
    if on_lost in ("cancel", "flag") or callable(on_lost):
        return on_lost
    raise ConfigurationError(f'{where}: on_lost={on_lost!r} is not "cancel", "flag" or a function')
