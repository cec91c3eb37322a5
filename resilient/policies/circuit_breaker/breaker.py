"""`CircuitBreaker`: breakers by hand, over functions or blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from resilient.engine.block import Block
from resilient.engine.keys import compile_keyword_template, key_function
from resilient.engine.order import warn_if_above
from resilient.engine.plan import Plan
from resilient.engine.templates import parse_template
from resilient.engine.wrap import ALL, Layer, Shape, shape_of, unpacked
from resilient.policies.circuit_breaker.calls import Call
from resilient.policies.circuit_breaker.circuit import Circuit
from resilient.policies.circuit_breaker.options import Options, declared
from resilient.policies.circuit_breaker.plan import guarded
from resilient.policies.circuit_breaker.replay import Outcome, Replay, replayed
from resilient.policies.circuit_breaker.settings import BELOW, POLICY, Settings
from resilient.policies.circuit_breaker.wrapper import guarding

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient.engine.backend import Mode

__all__ = ["CircuitBreaker", "CircuitLayer", "Guard", "literal_of"]

F = TypeVar("F", bound="Callable[..., Any]")


class CircuitBreaker:
    """A circuit breaker that belongs to no single function: `@breaker`, or `with breaker.guard()`.

    Sync and async functions may share it, and processes do, by its name.

    Args:
        template: The circuit's name, with fields that `guard` and `at` are given by keyword and
            that a decorated function has as parameters: `"payments:{tenant}"`.
        trip: What opens it: `FailureRate(0.5)`, `SlowRate(0.8, over=2)`, `Consecutive(5)`, or
            several joined by `|`.
        window: What is judged, of all processes together: `CountWindow(100)`, the latest calls,
            or `TimeWindow(60)`, those of the latest seconds.
        min_calls: Calls that must be in the window before a rate is judged (of a count window
            at most all of it): a few failures at night are no outage.
        open_for: For how long an open circuit refuses calls before it is probed: seconds, as
            `"30s"`, or a `Backoff`.
        half_open: How it is probed.
        ramp: `Ramp(over=30)`: let calls through little by little after it has closed.
        quorum: `Quorum(2)`: open for all only when so many processes find the service bad.
        record: The exceptions that are failures of the dependency. Others count as successes.
        ignore: Those that count as neither. Cancellations never count, and neither do the
            library's own rejections.
        record_result: Whether what the function has answered is a failure of the dependency.
        retry_after: For how many seconds a failure asks that the dependency be left alone: the
            circuit that it opens stays open for at least so long. By default the exception's
            `retry_after`, or its response's header of that name; `None`: not asked.
        consistency: `"eventual"`: closed calls ask nobody, and are told of in the background.
            `"strict"`: each call asks and reports, two requests. `"local"`: a breaker of this
            process alone.
        on_backend_error: While the backend is away: `"local"`, a breaker of this process alone goes
            on by the same rules; or `"raise"` `BackendError`: nobody calls the dependency who may
            not have heard that it is to be left alone.
        backend: A URL, client or backend of its own instead of the configured one.

    Attributes:
        rules: When its circuits open and close, as the stores read it.

    Raises:
        ConfigurationError: An option or the template is wrong.

    Example:
        >>> import resilient
        >>> payments = resilient.CircuitBreaker("payments:{tenant}", trip=resilient.Consecutive(2))
        >>> with resilient.using("memory://"):
        ...     for _ in range(2):
        ...         try:
        ...             with payments.guard(tenant="acme"):
        ...                 raise ConnectionError
        ...         except ConnectionError:
        ...             pass
        ...     payments.at(tenant="acme").state, payments.at(tenant="other").state
        (<CircuitState.OPEN: 'open'>, <CircuitState.CLOSED: 'closed'>)
    """

    def __init__(
        self,
        template: str,
        **options: Unpack[Options],
    ) -> None:
        self._template = template
        self._name = compile_keyword_template(template, policy="CircuitBreaker")
        self._declaration = declared("CircuitBreaker", options)
        self._settings = self._declaration.settings(None)
        self.rules = self._settings.rules

    def __call__(self, function: F) -> F:
        """Guard a function; generators are guarded until they are exhausted."""
        decorated: F = unpacked(self._decorate)(function)
        return decorated

    def guard(self, **fields: Any) -> Guard:
        """A guarded block: `with breaker.guard(tenant="acme"):`, or `async with`.

        Args:
            **fields: The fields of the template.

        Raises:
            CircuitOpen: On entry: the dependency is being left alone.
        """
        return Guard(self._settings, self._name(**fields))

    def at(self, **fields: Any) -> Circuit:
        """One of its circuits: `breaker.at(tenant="acme").state`.

        Args:
            **fields: The fields of the template.
        """
        return Circuit(self._settings, self._name(**fields))

    def replay(self, outcomes: Iterable[Outcome]) -> Replay:
        """What this breaker would have done with calls that were recorded elsewhere.

        Args:
            outcomes: The calls in the order in which they ended.

        Example:
            >>> import resilient
            >>> breaker = resilient.CircuitBreaker("s", trip=resilient.Consecutive(3), open_for=10)
            >>> recorded = [resilient.Outcome(at=n, failed=n >= 4) for n in range(20)]
            >>> breaker.replay(recorded).rejected
            9
        """
        return replayed(self._settings.rules, outcomes)

    def _decorate(self, function: Callable[..., Any]) -> Callable[..., Any]:
        shape = shape_of(function, policy=POLICY, allowed=ALL)
        warn_if_above(BELOW, function, policy=POLICY, frames=3)
        names = key_function(function, self._template, policy=POLICY)
        settings = self._declaration.settings(shape.mode)
        layer = CircuitLayer(function, shape, names, settings)
        return guarding(layer, settings, names, literal=literal_of(self._template))

    def __repr__(self) -> str:
        return f"CircuitBreaker({self._template!r})"


class CircuitLayer(Layer):
    """What the decorator knows about one function."""

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Shape,
        key: Callable[..., str],
        settings: Settings,
    ) -> None:
        super().__init__(POLICY, function, shape)
        self.key = key
        self.settings = settings


class Guard(Block[Call, Call]):
    """`breaker.guard(...)`: a guarded block."""

    def __init__(self, settings: Settings, key: str) -> None:
        super().__init__()
        self._settings = settings
        self.key = key

    def _plan(self, mode: Mode) -> Plan[object]:
        return guarded(self._settings, self.key)

    def __repr__(self) -> str:
        return f"guard({self.key!r})"


def literal_of(template: str | None) -> str | None:
    """The key itself, where a template has no field."""
    if template is None:
        return None
    parts = parse_template(template, where=POLICY)
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None
