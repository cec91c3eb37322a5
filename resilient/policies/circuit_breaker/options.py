"""The options that the decorator and `CircuitBreaker` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, get_args

from resilient.config import Source
from resilient.engine.durations import Duration
from resilient.engine.options import check_choice, check_function, refuse_unknown
from resilient.errors import ConfigurationError
from resilient.policies.circuit_breaker.recovery import Backoff, HalfOpen, Quorum, Ramp
from resilient.policies.circuit_breaker.rules import (
    DEFAULT_HALF_OPEN,
    DEFAULT_TRIP,
    DEFAULT_WINDOW,
    Trip,
    Window,
    circuit_rules,
)
from resilient.policies.circuit_breaker.settings import (
    POLICY,
    Consistency,
    Errors,
    OnBackendError,
    Settings,
)
from resilient.policies.circuit_breaker.upstream import asked_pause
from resilient.resolving import BackendLike

if TYPE_CHECKING:
    from resilient.engine.backend import Mode

__all__ = ["Declaration", "Options", "declared"]


class Options(TypedDict, total=False):
    """They and their types; `CircuitBreaker` says what they mean."""

    trip: Trip
    window: Window
    min_calls: int
    open_for: Duration | Backoff
    half_open: HalfOpen
    ramp: Ramp | None
    quorum: Quorum | None
    record: type[Exception] | tuple[type[Exception], ...]
    ignore: type[Exception] | tuple[type[Exception], ...]
    record_result: Callable[[Any], bool] | None
    retry_after: Callable[[Exception], float] | None
    consistency: Consistency
    on_backend_error: OnBackendError
    backend: BackendLike | None


class Declaration:
    """Options that have been read: they make the settings of sync and of async functions."""

    def __init__(self, backend: BackendLike | None, **settings: Any) -> None:
        self._backend = backend
        self._settings = settings

    def settings(self, mode: Mode | None) -> Settings:
        """The settings of callers of this mode; `None`: of both."""
        return Settings(Source("circuits", POLICY, mode, self._backend), **self._settings)


def declared(where: str, options: Options) -> Declaration:
    """Read the options.

    Args:
        where: Who has them, for messages.
        options: The options.

    Raises:
        ConfigurationError: One is wrong.
    """
    refuse_unknown(where, options, Options.__optional_keys__)
    return _declared(**options)


def _declared(
    *,
    trip: Trip = DEFAULT_TRIP,
    window: Window = DEFAULT_WINDOW,
    min_calls: int = 20,
    open_for: Duration | Backoff = 30,
    half_open: HalfOpen = DEFAULT_HALF_OPEN,
    ramp: Ramp | None = None,
    quorum: Quorum | None = None,
    record: type[Exception] | tuple[type[Exception], ...] = (Exception,),
    ignore: type[Exception] | tuple[type[Exception], ...] = (),
    record_result: Callable[[Any], bool] | None = None,
    retry_after: Callable[[Exception], float] | None = asked_pause,
    consistency: Consistency = "eventual",
    on_backend_error: OnBackendError = "local",
    backend: BackendLike | None = None,
) -> Declaration:
    for option, value in (("record_result", record_result), ("retry_after", retry_after)):
        if value is not None:
            check_function(f"@{POLICY}", option, value)
    check_choice(f"@{POLICY}", "consistency", consistency, *get_args(Consistency))
    if consistency == "strict" and quorum is not None:
        raise ConfigurationError(
            f'@{POLICY}: quorum={quorum!r} with consistency="strict": a quorum counts the '
            "processes that find the service bad, and in strict consistency none judges by itself"
        )
    check_choice(f"@{POLICY}", "on_backend_error", on_backend_error, *get_args(OnBackendError))
    if consistency == "local" and on_backend_error == "raise":
        raise ConfigurationError(
            f'@{POLICY}: on_backend_error="raise" with consistency="local": no backend is asked'
        )
    rules = circuit_rules(trip, window, min_calls, open_for, half_open, ramp, quorum, policy=POLICY)
    return Declaration(
        backend,
        rules=rules,
        record=_errors_of(record, "record"),
        ignore=_errors_of(ignore, "ignore"),
        record_result=record_result,
        retry_after=retry_after,
        consistency=consistency,
        insists=on_backend_error == "raise",
    )


def _errors_of(given: Any, option: str) -> Errors:
    """The exception types of an option, as a tuple."""
    found = given if isinstance(given, tuple) else (given,)
    for each in found:
        if not isinstance(each, type) or not issubclass(each, Exception):
            raise ConfigurationError(
                f"@{POLICY}: {option}={given!r}: expected exception types, subclasses of Exception"
                " (a cancellation never counts)"
            )
    return found
