"""`@distributed_lock`: the lock around a function, under a key made of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, Unpack, overload

from resilient.engine.keys import key_function
from resilient.engine.options import check_busy, check_choice, checked_call
from resilient.engine.order import warn_if_above
from resilient.engine.signatures import signature_of
from resilient.engine.typing import Decorator, SkippingDecorator
from resilient.engine.wrap import (
    ALL,
    PLAIN,
    Controls,
    Layer,
    Shape,
    around,
    layer_of,
    shape_of,
    unpacked,
)
from resilient.policies.distributed_lock.leases import AsyncLease, LockLease
from resilient.policies.distributed_lock.lock import Lock
from resilient.policies.distributed_lock.plan import guarded
from resilient.policies.distributed_lock.settings import POLICY, LockOptions, settings_of

__all__ = ["LockControls", "distributed_lock"]

BELOW = {"cached": "each call waits for the lock, also one whose value is stored"}
"""What stands below a lock by mistake, and what goes wrong then."""

S = TypeVar("S")


class DistributedLock:
    """One holder at a time, over all processes, threads and tasks: `@distributed_lock(...)`."""

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        on_busy: Literal["raise"] = "raise",
        on_backend_error: Literal["raise", "run"] = "raise",
        **options: Unpack[LockOptions],
    ) -> Decorator: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        on_busy: Literal["skip"],
        on_backend_error: Literal["raise", "run"] = "raise",
        **options: Unpack[LockOptions],
    ) -> SkippingDecorator[None]: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        on_busy: Literal["skip"],
        skipped: S,
        on_backend_error: Literal["raise", "run"] = "raise",
        **options: Unpack[LockOptions],
    ) -> SkippingDecorator[S]: ...

    @checked_call(POLICY, LockOptions.__optional_keys__)
    def __call__(
        self,
        template: str | None = None,
        *,
        key: Callable[..., Any] | None = None,
        on_busy: Literal["raise", "skip"] = "raise",
        skipped: Any = None,
        on_backend_error: Literal["raise", "run"] = "raise",
        **options: Unpack[LockOptions],
    ) -> Any:
        """Run the function while holding a lock; generators hold it from first to last step.

        Args:
            template: The lock's name, with fields over the function's arguments:
                `"invoice:{invoice_id}"`, `"{user.id}"`. It is global under the backend's prefix.
            key: A function of the same arguments that answers the name, instead of a template.
            on_busy: `"raise"` `LockNotAcquired`, or `"skip"` the call.
            skipped: What a skipped call answers.
            on_backend_error: `"raise"` when the backend is away, since two may run otherwise;
                `"run"` without the lock all the same.
            **options: `ttl` (30 s), `wait` (10 s), `fair`, `reentrant`, `min_hold`, `max_hold`,
                `on_lost`, `replicas` and `backend`, as for `resilient.lock`.

        Raises:
            ConfigurationError: When decorated: an option, the template or the kind of function is
                wrong, or nothing is configured (then at the first call).
            LockNotAcquired: Somebody else held the lock for as long as `wait`.
            LeaseLost: The lock was lost while the function ran, even if it returned. An async
                function is cancelled as soon as that is known.
            BackendError: The backend is away; nothing has run.

        Example:
            >>> import resilient
            >>> @resilient.distributed_lock("invoice:{invoice_id}", ttl=30, wait=10)
            ... def settle(invoice_id: int) -> str:
            ...     return f"settled under fence {resilient.current_lease().fence > 0}"
            >>> with resilient.using("memory://"):
            ...     settle(7)
            'settled under fence True'
        """
        check_busy(f"@{POLICY}", on_busy, skipped)
        check_choice(f"@{POLICY}", "on_backend_error", on_backend_error, "raise", "run")

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            # What stands for a skipped call has no place in a stream of items.
            allowed = PLAIN if on_busy == "skip" else ALL
            shape = shape_of(function, policy=POLICY, allowed=allowed)
            warn_if_above(BELOW, function, policy=POLICY, frames=2)
            settings = settings_of(
                f"@{POLICY}",
                shape.mode,
                options,
                lease=LockLease if shape.mode == "sync" else AsyncLease,
                skip=on_busy == "skip",
                skipped=skipped,
                unguarded=on_backend_error == "run",
            )
            signature = signature_of(function, policy=POLICY)
            names = key_function(function, template, key, policy=POLICY, signature=signature)
            layer = LockLayer(function, shape, names, partial(by_hand, options))
            return around(layer, partial(guarded, settings), [names], signature=signature)

        return unpacked(decorate)

    def of(self, function: Callable[..., Any]) -> LockControls:
        """The controls of a locked function, wherever the lock is in its stack of decorators."""
        bound = layer_of(function, LockLayer, POLICY)
        return LockControls(bound.layer, bound.arguments)


class LockLayer(Layer):
    """What the decorator knows about one function."""

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Shape,
        key: Callable[..., str],
        make: Callable[[str], Lock],
    ) -> None:
        super().__init__(POLICY, function, shape)
        self.key = key
        self.make = make


class LockControls(Controls[LockLayer]):
    """`distributed_lock.of(f)`: the locks of one function."""

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The name of the lock that a call with these arguments takes."""
        return self._layer.key(*self._bound, *args, **kwargs)

    def at(self, *args: Any, **kwargs: Any) -> Lock:
        """The lock that a call with these arguments takes: `.info()`, `.force_release()`."""
        return self._layer.make(self.key(*args, **kwargs))


def by_hand(options: LockOptions, key: str) -> Lock:
    """The lock of a call, to look at and to take away."""
    chosen: LockOptions = {**options}
    chosen.pop("on_lost", None)  # what becomes of a body: here is none
    return Lock(key, **chosen)


distributed_lock = DistributedLock()
