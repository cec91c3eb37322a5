"""`@idempotent`: a function that takes effect once for each key made of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, overload

from resilient.config import BackendLike, Source
from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.keys import compile_fingerprint, key_function, refuse_missing_parentheses
from resilient.engine.typing import Decorator, SkippingDecorator
from resilient.engine.wrap import Layer, around, shape_of, unpacked
from resilient.errors import ConfigurationError
from resilient.policies.idempotent.plan import POLICY, Settings, once

__all__ = ["idempotent"]

S = TypeVar("S")


class Idempotent:
    """The same request takes effect once, and every caller gets the same answer."""

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["raise"] = "raise",
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> Decorator: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["skip"],
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> SkippingDecorator[None]: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["skip"],
        skipped: S,
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> SkippingDecorator[S]: ...

    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["raise", "skip"] = "raise",
        skipped: Any = None,
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_backend_error: Literal["raise", "run"] = "raise",
        backend: BackendLike | None = None,
    ) -> Any:
        """Run the function once for each key; every other call gets the first one's outcome.

        A call that raises leaves the key free for another try, unless the error is one of
        `replay_errors`. A call whose process dies is made again by the next caller, when the
        dead one's lease is over (at once, if that was a process of this host): it may then have
        taken effect before, so that what it asks of others should be idempotent too.

        Args:
            template: The idempotency key, with fields over the function's arguments, as in
                `"charge:{order_id}"`. It is global under the backend's prefix.
            ttl: How long an outcome is kept: seconds, or as `"24h"`. Only the caller knows for how
                long the same request may come again.
            key: A function of the same arguments that answers the key, instead of a template.
            lease: For how long a claim lives without being renewed: seconds, or as `"30s"`. A live
                owner renews it at a third of that.
            wait: How long a duplicate waits for the outcome: seconds, or as `"1m"`; 0: not at all;
                `None`: no limit.
            on_busy: `"raise"` `CallInProgress` when that is over, or `"skip"` the call.
            skipped: What a skipped call answers.
            fingerprint: The arguments that make the payload. By default all that are no part of
                the key; `()` for none.
            replay_errors: The exceptions that are outcomes too: stored, and raised again.
            on_backend_error: `"raise"` when the backend is away, since the call may take effect
                twice otherwise; `"run"` it all the same.
            backend: A URL, client or backend of its own instead of the configured one.

        Raises:
            ConfigurationError: When decorated: an option, the template or the kind of function is
                wrong, or nothing is configured (then at the first call).
            CallInProgress: The call was running elsewhere for as long as `wait`.
            FingerprintMismatch: The key was used before with another payload.
            ResultUnavailable: The call took effect, but its result has no stored form.
            LeaseLost: Another caller has taken the call over while it ran.
            BackendError: The backend is away.

        Example:
            >>> import resilient
            >>> @resilient.idempotent("charge:{order_id}", ttl="24h")
            ... def charge(order_id: str, amount: int) -> str:
            ...     print("charged")
            ...     return f"receipt for {amount}"
            >>> with resilient.using("memory://"):
            ...     charge("A-7", 5), charge("A-7", 5)
            charged
            ('receipt for 5', 'receipt for 5')
        """
        refuse_missing_parentheses(template, policy=POLICY)
        _check(on_busy, on_backend_error, replay_errors)
        kept = seconds(ttl, option="ttl")
        lifetime = seconds(lease, option="lease")
        patience = optional_seconds(wait, option="wait", allow_zero=True)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            from resilient.engine.codecs import codec_for  # and with it msgspec: not on import

            shape = shape_of(function, policy=POLICY)
            layer = Layer(POLICY, function, shape)
            names = key_function(function, template, key, policy=POLICY)
            digest = compile_fingerprint(function, fingerprint, template=template, policy=POLICY)
            settings = Settings(
                Source("idempotency", POLICY, shape.mode, backend),
                name=layer.name,
                codec=codec_for(function),
                ttl=kept,
                lease=lifetime,
                wait=patience,
                replay_errors=replay_errors,
                skip=on_busy == "skip",
                skipped=skipped,
                unguarded=on_backend_error == "run",
            )
            return around(layer, partial(once, settings), [names, digest])

        return unpacked(decorate)


def _check(on_busy: object, on_backend_error: object, replay_errors: object) -> None:
    if on_busy not in ("raise", "skip"):
        raise ConfigurationError(f'@{POLICY}: on_busy={on_busy!r} is not "raise" or "skip"')
    if on_backend_error not in ("raise", "run"):
        raise ConfigurationError(
            f'@{POLICY}: on_backend_error={on_backend_error!r} is not "raise" or "run"'
        )
    if not isinstance(replay_errors, tuple) or not all(
        isinstance(each, type) and issubclass(each, Exception) for each in replay_errors
    ):
        raise ConfigurationError(
            f"@{POLICY}: replay_errors={replay_errors!r} is not a tuple of exception classes"
        )


idempotent = Idempotent()
