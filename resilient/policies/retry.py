"""`@retry`: a transient failure is tried again, within bounds on attempts and time.

A success costs one look at the clock. From the first failure on a plan goes by tenacity's
strategies, which are imported then; it sleeps and reads the time through operations, so that there
is one text for sync and async functions, and a test may set the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from resilient import config, events
from resilient.engine import clock
from resilient.engine.drivers.sync import drive
from resilient.engine.durations import Duration, optional_seconds, seconds
from resilient.engine.matching import NEVER, On, matcher
from resilient.engine.options import check_whole_number, checked_call
from resilient.engine.order import warn_if_above
from resilient.engine.plan import NOW, Body, Sleep
from resilient.engine.signatures import compile_with_signature, forwarding, signature_of
from resilient.engine.typing import Decorator
from resilient.engine.wrap import AWAITED, AWAITED_NAMES, Layer, Shape, finish, shape_of, unpacked
from resilient.errors import ConfigurationError, Rejected

if TYPE_CHECKING:
    from tenacity import BaseRetrying

__all__ = ["retry"]

POLICY = "retry"

BELOW = {"fallback": "what failed has been answered already, and is never tried again"}
"""What stands below a retry by mistake, and what goes wrong then."""


FIRST_TRY = """\
_resilient_began = _resilient_clock.now()
try:
 _resilient_answer = {wait}_resilient_function({given})
except _resilient_Exception as _resilient_error:
 if not _resilient_settings.matches(_resilient_error):
  raise
 _resilient_first = _resilient_error
else:
 {check}
 return _resilient_answer
try:
 return {wait}_resilient_drive(
  _resilient_plan(_resilient_first, _resilient_began),
  lambda _resilient_value: _resilient_function({given}),
 )
finally:
 _resilient_first = None
"""


@checked_call(POLICY)
def retry(
    *,
    on: On,
    attempts: int | None = 5,
    timeout: Duration | None = 30,
    wait_initial: Duration = 0.1,
    wait_max: Duration = 5,
    wait_jitter: Duration = 1,
) -> Decorator:
    """Try again after a transient failure, after a pause that grows and is jittered.

    The pause before the n-th retry is `wait_initial * 2 ** (n - 1)` plus a random part of
    `wait_jitter`, at most `wait_max`, and at least what a `Rejected` (an open circuit, a busy lock)
    asks for. If it does not fit into `timeout` there is no further attempt. In the end the last
    exception is raised as it is. Durations are seconds, or texts such as `"500ms"`.

    Args:
        on: Which exceptions are transient: a type, a tuple of types, or a function that says so of
            an exception. Only the caller knows.
        attempts: How often the function is called at most; `None`: no limit but `timeout`.
        timeout: For how long to go on, counted from the call; `None`: no limit but `attempts`. A
            running attempt is not interrupted.
        wait_initial: The pause before the first retry, to which the jitter is added.
        wait_max: The longest pause.
        wait_jitter: The largest random part of a pause; 0: none.

    Raises:
        ConfigurationError: When decorated: an option is wrong, or the function is a generator
            function, whose body runs after the call has returned.

    Example:
        >>> import resilient
        >>> answers = iter([ConnectionError("reset"), "pong"])
        >>> @resilient.retry(on=ConnectionError, wait_initial="1ms", wait_jitter=0)
        ... def ping() -> str:
        ...     answer = next(answers)
        ...     if isinstance(answer, Exception):
        ...         raise answer
        ...     return answer
        >>> ping()
        'pong'
    """
    if attempts is not None:
        check_whole_number(f"@{POLICY}", "attempts", attempts)
    settings = Settings(
        matcher(on, policy=POLICY),
        attempts=attempts,
        timeout=optional_seconds(timeout, option="timeout"),
        initial=seconds(wait_initial, option="wait_initial"),
        longest=seconds(wait_max, option="wait_max"),
        jitter=seconds(wait_jitter, option="wait_jitter", allow_zero=True),
    )
    if settings.attempts is None and settings.timeout is None:
        raise ConfigurationError(f"@{POLICY}: attempts and timeout are both None: set one of them")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        layer = Layer(POLICY, function, shape_of(function, policy=POLICY))
        warn_if_above(BELOW, function, policy=POLICY, frames=2)
        return _wrapper(layer, settings)

    return unpacked(decorate)


class Settings:
    """The options of one retried function.

    Attributes:
        matches: Whether an exception is transient.
        attempts: Calls of the function at most.
        timeout: Seconds from the first call for which to go on.
    """

    def __init__(
        self,
        matches: Callable[[Exception], bool],
        *,
        attempts: int | None,
        timeout: float | None,
        initial: float,
        longest: float,
        jitter: float,
    ) -> None:
        self.matches = matches
        self.attempts = attempts
        self.timeout = timeout
        self._initial = initial
        self._longest = longest
        self._jitter = jitter
        self._strategies: BaseRetrying | None = None

    def pause(self, attempt: int, error: Exception, elapsed: float) -> float | None:
        """Seconds to wait after this failed attempt; `None`: it was the last."""
        from tenacity import RetryCallState

        strategies = self._strategies
        if strategies is None:
            strategies = self._strategies = self._build()
        state = RetryCallState(strategies, None, (), {})
        state.attempt_number = attempt
        state.start_time, state.outcome_timestamp = 0.0, elapsed
        pause = min(strategies.wait(state), self._longest)
        if isinstance(error, Rejected) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        state.upcoming_sleep = pause
        return None if strategies.stop(state) else pause

    def _build(self) -> BaseRetrying:
        import tenacity

        stop: Any = tenacity.stop_never
        if self.attempts is not None:
            stop = tenacity.stop_after_attempt(self.attempts)
        if self.timeout is not None:
            in_time = tenacity.stop_before_delay(self.timeout)
            stop = in_time if self.attempts is None else stop | in_time
        wait = tenacity.wait_exponential(multiplier=self._initial, max=self._longest)
        return tenacity.Retrying(stop=stop, wait=wait + tenacity.wait_random(0, self._jitter))


async def retried(settings: Settings, name: str, first: Exception, began: float) -> Any:
    """Try again, from the first failure on, until a call succeeds or the bounds are reached."""
    error = first
    try:
        for attempt in count(1):
            pause = None
            if not config.is_disabled():
                pause = settings.pause(attempt, error, await NOW - began)
            if pause is None:
                raise error
            events.emit(events.RetryScheduled(name, attempt, pause, error))
            await Sleep(pause)
            try:
                return await Body()
            except Exception as raised:
                # In a coroutine a `StopIteration` turns into a `RuntimeError` (PEP 479); the
                # driver turns it back.
                if isinstance(raised.__cause__, NEVER) or not settings.matches(raised):
                    raise
                error = raised
    finally:
        del error, first  # their tracebacks hold this frame: a cycle otherwise


def _wrapper(layer: Layer, settings: Settings) -> Callable[..., Any]:
    is_async = layer.shape is Shape.COROUTINE
    signature = signature_of(layer.function, policy=POLICY)
    driver: Callable[..., Any] = drive
    if is_async:
        # The event loop's driver is imported with the first async function, not before.
        from resilient.engine.drivers.aio import adrive

        driver = adrive
    body = FIRST_TRY.format(
        given=forwarding(signature),
        wait="await " if is_async else "",
        check="pass" if is_async else AWAITED,
    )
    compiled = compile_with_signature(
        layer.function,
        body.splitlines(),
        {
            "_resilient_clock": clock,
            "_resilient_function": layer.function,
            "_resilient_settings": settings,
            "_resilient_plan": partial(retried, settings, layer.name),
            "_resilient_drive": driver,
            "_resilient_Exception": Exception,
            **AWAITED_NAMES,
        },
        is_async=is_async,
        signature=signature,
    )
    return finish(layer, compiled)
