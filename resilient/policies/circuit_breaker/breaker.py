"""`CircuitBreaker`: breakers by hand, over functions or blocks; and one of their circuits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from resilient.config import BackendLike, Source
from resilient.engine.block import Block, warn_if_in_loop
from resilient.engine.drivers.sync import drive
from resilient.engine.durations import Duration, optional_seconds
from resilient.engine.keys import compile_keyword_template, key_function
from resilient.engine.plan import Plan
from resilient.engine.templates import parse_template
from resilient.engine.wrap import ALL, Layer, Shape, shape_of, unpacked
from resilient.errors import BackendError, ConfigurationError
from resilient.policies.circuit_breaker.plan import POLICY, Call, Errors, Settings, guarded, known
from resilient.policies.circuit_breaker.rules import (
    DEFAULT_HALF_OPEN,
    DEFAULT_TRIP,
    DEFAULT_WINDOW,
    CountWindow,
    HalfOpen,
    Trip,
    circuit_rules,
)
from resilient.policies.circuit_breaker.wrapper import guarding
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient.engine.backend import Mode

__all__ = ["Circuit", "CircuitBreaker", "CircuitLayer", "Guard", "errors_of", "literal_of"]

F = TypeVar("F", bound="Callable[..., Any]")

NOTHING_SEEN = CircuitView(CircuitState.CLOSED, 0, 0.0, 0, 0, 0, None, None, "")


class CircuitBreaker:
    """A circuit breaker that belongs to no single function: `@breaker`, or `with breaker.guard()`.

    Sync and async functions may share it, and processes do, by its name.

    Args:
        template: The circuit's name, with fields that `guard` and `at` are given by keyword and
            that a decorated function has as parameters: `"payments:{tenant}"`.
        trip: What opens it: `FailureRate(0.5)`, `Consecutive(5)`, or several joined by `|`.
        window: How many of the latest calls are judged, those of all processes together.
        min_calls: Calls that must be in the window before a rate is judged (all of it, if the
            window is smaller).
        open_for: For how long an open circuit refuses calls before it is probed: seconds, or as
            `"30s"`.
        half_open: How it is probed.
        record: The exceptions that are failures of the dependency. Others count as successes.
        ignore: Those that count as neither. Cancellations never count, and neither do the
            library's own rejections.
        backend: A URL, client or backend of its own instead of the configured one.

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
        *,
        trip: Trip = DEFAULT_TRIP,
        window: CountWindow = DEFAULT_WINDOW,
        min_calls: int = 20,
        open_for: Duration = 30,
        half_open: HalfOpen = DEFAULT_HALF_OPEN,
        record: type[Exception] | tuple[type[Exception], ...] = (Exception,),
        ignore: type[Exception] | tuple[type[Exception], ...] = (),
        backend: BackendLike | None = None,
    ) -> None:
        self._template = template
        self._name = compile_keyword_template(template, policy="CircuitBreaker")
        self._rules = circuit_rules(trip, window, min_calls, open_for, half_open, policy=POLICY)
        self._record = errors_of(record, "record")
        self._ignore = errors_of(ignore, "ignore")
        self._backend = backend
        self._settings = self._settings_for(None)

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

    def _decorate(self, function: Callable[..., Any]) -> Callable[..., Any]:
        shape = shape_of(function, policy=POLICY, allowed=ALL)
        names = key_function(function, self._template, policy=POLICY)
        settings = self._settings_for(shape.mode)
        layer = CircuitLayer(function, shape, names, settings)
        return guarding(layer, settings, names, literal=literal_of(self._template))

    def _settings_for(self, mode: Mode | None) -> Settings:
        source = Source("circuits", POLICY, mode, self._backend)
        return Settings(source, rules=self._rules, record=self._record, ignore=self._ignore)

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


class Circuit:
    """One circuit: its state, and what can be done to it by hand, for all processes.

    Attributes:
        key: Its name.
    """

    def __init__(self, settings: Settings, key: str) -> None:
        self.key = key
        self._settings = settings

    @property
    def state(self) -> CircuitState:
        """Closed, open or half-open, as this process knows it: no request is made."""
        circuits = self._settings.circuits()
        if circuits is None:
            return CircuitState.CLOSED
        found = circuits.table(self._settings.rules).get(self.key)
        return CircuitState.CLOSED if found is None else found.state

    def metrics(self) -> CircuitView:
        """Its state and counts over all processes; those of this one while the backend is away."""
        warn_if_in_loop("circuit.metrics()", "await circuit.ametrics()")
        return drive(self._metrics())

    async def ametrics(self) -> CircuitView:
        """Its state and counts over all processes; those of this one while the backend is away."""
        from resilient.engine.drivers.aio import adrive

        return await adrive(self._metrics())

    def force_open(self, *, duration: Duration | None = None) -> None:
        """Refuse calls from now on, in all processes, and then probe the dependency as usual.

        Args:
            duration: For how long: seconds, or as `"10m"`; the breaker's `open_for` by default.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        warn_if_in_loop("circuit.force_open()", "await circuit.aforce_open()")
        drive(self._force(CircuitState.OPEN, duration))

    async def aforce_open(self, *, duration: Duration | None = None) -> None:
        """Refuse calls from now on: see `force_open`."""
        from resilient.engine.drivers.aio import adrive

        await adrive(self._force(CircuitState.OPEN, duration))

    def force_closed(self) -> None:
        """Let calls through from now on, in all processes, until their failures open it again.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        warn_if_in_loop("circuit.force_closed()", "await circuit.aforce_closed()")
        drive(self._force(CircuitState.CLOSED))

    async def aforce_closed(self) -> None:
        """Let calls through from now on: see `force_closed`."""
        from resilient.engine.drivers.aio import adrive

        await adrive(self._force(CircuitState.CLOSED))

    def reset(self) -> None:
        """Begin anew: closed, with nothing counted, in all processes.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        warn_if_in_loop("circuit.reset()", "await circuit.areset()")
        drive(self._force(CircuitState.CLOSED))

    async def areset(self) -> None:
        """Begin anew: see `reset`."""
        from resilient.engine.drivers.aio import adrive

        await adrive(self._force(CircuitState.CLOSED))

    async def _metrics(self) -> CircuitView:
        circuits = self._settings.circuits()
        if circuits is None:
            return NOTHING_SEEN
        circuit = await known(circuits, self.key, self._settings.rules)
        if not circuits.is_away:
            await circuits.send(circuit)
        if not circuits.is_away:
            try:
                version = circuit.version
                view = await circuits.store.view(self.key)
                circuit.adopt(view, version)
                return view
            except BackendError as error:
                circuits.trouble(self.key, error)
        circuit.digest()
        return await circuits.judge.view(self.key)

    async def _force(self, state: CircuitState, duration: Duration | None = None) -> None:
        rules = self._forced_rules(duration)
        circuits = self._settings.circuits()
        if circuits is None:
            return
        circuit = await known(circuits, self.key, self._settings.rules)
        version = circuit.version
        circuit.adopt(await circuits.store.force(self.key, state, rules=rules), version)

    def _forced_rules(self, duration: Duration | None) -> CircuitRules:
        rules = self._settings.rules
        chosen = optional_seconds(duration, option="duration")
        return rules if chosen is None else rules._replace(open_for=chosen)

    def __repr__(self) -> str:
        return f"<circuit {self.key!r}, {self.state.value} as known here>"


def errors_of(given: Any, option: str) -> Errors:
    """The exception types of an option, as a tuple.

    Raises:
        ConfigurationError: It holds anything but subclasses of `Exception`.
    """
    found = given if isinstance(given, tuple) else (given,)
    for each in found:
        if not isinstance(each, type) or not issubclass(each, Exception):
            raise ConfigurationError(
                f"@{POLICY}: {option}={given!r}: expected exception types, subclasses of Exception"
                " (a cancellation never counts)"
            )
    return found


def literal_of(template: str | None) -> str | None:
    """The key itself, where a template has no field."""
    if template is None:
        return None
    parts = parse_template(template, where=POLICY)
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None
