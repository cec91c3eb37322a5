"""`@idempotent`: a function that takes effect once for each key made of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from resilient.config import Source
from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.keys import compile_fingerprint, key_function
from resilient.engine.options import check_busy, check_choice, check_whole_number, checked_call
from resilient.engine.signatures import signature_of
from resilient.engine.typing import Decorator, SkippingDecorator
from resilient.engine.wrap import Layer, Shape, around, layer_of, shape_of, unpacked
from resilient.errors import ConfigurationError
from resilient.policies.idempotent.plan import once
from resilient.policies.idempotent.settings import POLICY, Settings
from resilient.resolving import BackendLike

if TYPE_CHECKING:
    from resilient.policies.idempotent.controls import CallStatus, IdempotencyControls

__all__ = ["IdempotentLayer", "idempotent"]

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class IdempotentLayer(Layer):
    """What the decorator knows about one function.

    Attributes:
        settings: Its options.
        key: Makes the idempotency key of a call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Shape,
        settings: Settings,
        key: Callable[..., str],
    ) -> None:
        super().__init__(POLICY, function, shape)
        self.settings = settings
        self.key = key


class Idempotent:
    """The same request takes effect once, and every caller gets the same answer."""

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration | None,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["raise"] = "raise",
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_takeover: Literal["rerun", "raise"] = "rerun",
        on_cancel: Literal["release", "keep"] = "release",
        on_backend_error: Literal["raise", "run"] = "raise",
        local: int | None = None,
        backend: BackendLike | None = None,
    ) -> Decorator: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration | None,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["skip"],
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_takeover: Literal["rerun", "raise"] = "rerun",
        on_cancel: Literal["release", "keep"] = "release",
        on_backend_error: Literal["raise", "run"] = "raise",
        local: int | None = None,
        backend: BackendLike | None = None,
    ) -> SkippingDecorator[None]: ...

    @overload
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration | None,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["skip"],
        skipped: S,
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_takeover: Literal["rerun", "raise"] = "rerun",
        on_cancel: Literal["release", "keep"] = "release",
        on_backend_error: Literal["raise", "run"] = "raise",
        local: int | None = None,
        backend: BackendLike | None = None,
    ) -> SkippingDecorator[S]: ...

    @checked_call(POLICY)
    def __call__(
        self,
        template: str | None = None,
        *,
        ttl: Duration | None,
        key: Callable[..., Any] | None = None,
        lease: Duration = 30,
        wait: Duration | None = 30,
        on_busy: Literal["raise", "skip"] = "raise",
        skipped: Any = None,
        fingerprint: Sequence[str] | None = None,
        replay_errors: tuple[type[Exception], ...] = (),
        on_takeover: Literal["rerun", "raise"] = "rerun",
        on_cancel: Literal["release", "keep"] = "release",
        on_backend_error: Literal["raise", "run"] = "raise",
        local: int | None = None,
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
            ttl: How long an outcome is kept: seconds, or as `"24h"`; `None`: the `max_ttl` of
                `configure`. Only the caller knows for how long the same request may come again.
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
            on_takeover: When an owner died while it made the call, which may have taken effect:
                make it again (`"rerun"`: right for what may be repeated, or is idempotent itself by
                `current_idempotency().derive(...)`), or `"raise"` `OutcomeUnknown` to every caller
                until somebody has looked, and `forget` it.
            on_cancel: When a call is cancelled, or interrupted by Ctrl-C: `"release"` its key to
                the next caller at once, or `"keep"` its claim until the lease is over, as if the
                process had died.
            on_backend_error: `"raise"` when the backend is away, since the call may take effect
                twice otherwise; `"run"` it all the same.
            local: How many outcomes this process keeps at hand, the least useful going first
                (SIEVE), to replay them without asking the backend for up to 30 s. By default none:
                a key that another process forgets is free at once.
            backend: A URL, client or backend of its own instead of the configured one.

        Raises:
            ConfigurationError: When decorated: an option, the template or the kind of function is
                wrong, or nothing is configured (then at the first call).
            CallInProgress: The call was running elsewhere for as long as `wait`.
            FingerprintMismatch: The key was used before with another payload.
            ResultUnavailable: The call took effect, but its result has no stored form.
            OutcomeUnknown: With `on_takeover="raise"`: the owner died while the call ran.
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
        check_busy(f"@{POLICY}", on_busy, skipped)
        check_choice(f"@{POLICY}", "on_takeover", on_takeover, "rerun", "raise")
        check_choice(f"@{POLICY}", "on_cancel", on_cancel, "release", "keep")
        check_choice(f"@{POLICY}", "on_backend_error", on_backend_error, "raise", "run")
        _check(replay_errors, local)
        kept = optional_seconds(ttl, option="ttl")
        lifetime = seconds(lease, option="lease")
        patience = optional_seconds(wait, option="wait", allow_zero=True)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            from resilient.engine.codecs import codec_for  # and with it msgspec: not on import

            shape = shape_of(function, policy=POLICY)
            signature = signature_of(function, policy=POLICY)
            names = key_function(function, template, key, policy=POLICY, signature=signature)
            digest = compile_fingerprint(
                function, fingerprint, template=template, policy=POLICY, signature=signature
            )
            settings = Settings(
                source=Source("idempotency", POLICY, shape.mode, backend),
                name=Layer(POLICY, function, shape).name,
                codec=codec_for(function),
                ttl=kept,
                lease=lifetime,
                wait=patience,
                replay_errors=replay_errors,
                skip=on_busy == "skip",
                skipped=skipped,
                unguarded=on_backend_error == "run",
                takes_over=on_takeover == "rerun",
                frees_on_cancel=on_cancel == "release",
                local=local,
            )
            layer = IdempotentLayer(function, shape, settings, names)
            return around(layer, partial(once, settings), [names, digest], signature=signature)

        return unpacked(decorate)

    # An `async def` is a function too, one that returns a coroutine: the first match is meant.
    @overload
    def of(  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> IdempotencyControls[
        P,
        Coroutine[Any, Any, R],
        Coroutine[Any, Any, CallStatus | None],
        Coroutine[Any, Any, bool],
    ]: ...

    @overload
    def of(
        self, function: Callable[P, R], /
    ) -> IdempotencyControls[P, R, CallStatus | None, bool]: ...

    def of(self, function: Callable[..., Any], /) -> Any:
        """What else can be done with a decorated function, anywhere in a stack of decorators.

        Args:
            function: The decorated function, or a bound method.

        Raises:
            ConfigurationError: It is not decorated with `@idempotent`.

        Example:
            >>> import resilient
            >>> @resilient.idempotent("charge:{order_id}", ttl="24h")
            ... def charge(order_id: str) -> str:
            ...     return "charged"
            >>> with resilient.using("memory://"):
            ...     before = idempotent.of(charge).status("A-7")
            ...     charge("A-7"), before, idempotent.of(charge).result("A-7")
            ('charged', None, 'charged')
        """
        from resilient.policies.idempotent.controls import IdempotencyControls

        bound = layer_of(function, IdempotentLayer, POLICY)
        return IdempotencyControls(bound.layer, bound.arguments)


def _check(replay_errors: object, local: object) -> None:
    if not isinstance(replay_errors, tuple) or not all(
        isinstance(each, type) and issubclass(each, Exception) for each in replay_errors
    ):
        raise ConfigurationError(
            f"@{POLICY}: replay_errors={replay_errors!r} is not a tuple of exception classes"
        )
    if local is not None:
        check_whole_number(f"@{POLICY}", "local", local)


idempotent = Idempotent()
