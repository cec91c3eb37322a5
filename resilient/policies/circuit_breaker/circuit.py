"""One circuit: its state, and what can be done to it by hand, for all processes."""

from __future__ import annotations

from resilient.engine.controls import awaitable, control
from resilient.engine.durations import Duration, optional_seconds
from resilient.errors import BackendError
from resilient.policies.circuit_breaker.plan import known
from resilient.policies.circuit_breaker.settings import Settings
from resilient.protocols.circuits import CircuitState, CircuitTransition, CircuitView

__all__ = ["Circuit"]

NOTHING_SEEN = CircuitView(CircuitState.CLOSED, 0, 0.0, 0, 0, 0, None, None, "")


class Circuit:
    """One circuit. What is done to it by hand holds in all processes, and is in its history.

    Each method has an awaitable form with an `a` in front.

    Attributes:
        key: Its name.
    """

    def __init__(self, settings: Settings, key: str) -> None:
        self.key = key
        self._settings = settings

    @property
    def state(self) -> CircuitState:
        """Its state as this process knows it: no request is made."""
        circuits = self._settings.circuits()
        if circuits is None:
            return CircuitState.CLOSED
        found = circuits.catalogue.table(self._settings.rules).get(self.key)
        return CircuitState.CLOSED if found is None else found.state

    @control
    async def metrics(self) -> CircuitView:
        """Its state and counts over all processes; those of this one while the backend is away.

        Stale calls are those of this process, and those that others have told too late.
        """
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
                return view._replace(stale=view.stale + circuit.stale)
            except BackendError as error:
                circuits.trouble(self.key, error)
        circuit.digest()
        view = await circuits.judge.view(self.key)
        return view._replace(stale=view.stale + circuit.stale)

    ametrics = awaitable(metrics)

    @control
    async def history(self) -> list[CircuitTransition]:
        """Its latest 20 transitions in all processes, the newest first.

        Raises:
            BackendError: The backend is away.
        """
        circuits = self._settings.circuits()
        return [] if circuits is None else await circuits.store.history(self.key)

    ahistory = awaitable(history)

    @control
    async def force_open(
        self, *, duration: Duration | None = None, reason: str = "", by: str = ""
    ) -> None:
        """Refuse calls from now on, in all processes, and then probe the dependency as usual.

        Args:
            duration: For how long: seconds, or as `"10m"`; until `reset` by default, but no longer
                than the backend keeps anything.
            reason: Why, for the history and the refusals.
            by: Who says so.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        await self._force(CircuitState.FORCED_OPEN, duration, reason, by)

    aforce_open = awaitable(force_open)

    @control
    async def force_closed(
        self, *, duration: Duration | None = None, reason: str = "", by: str = ""
    ) -> None:
        """Let calls through from now on, in all processes.

        Args:
            duration: Nothing opens it for so long; without one, the next failures may.
            reason: Why, for the history.
            by: Who says so.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        state = CircuitState.CLOSED if duration is None else CircuitState.FORCED_CLOSED
        await self._force(state, duration, reason, by)

    aforce_closed = awaitable(force_closed)

    @control
    async def disable(
        self, *, duration: Duration | None = None, reason: str = "", by: str = ""
    ) -> None:
        """Let calls through and count none, in all processes.

        Args:
            duration: For how long; until `reset` by default.
            reason: Why, for the history.
            by: Who says so.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        await self._force(CircuitState.DISABLED, duration, reason, by)

    adisable = awaitable(disable)

    @control
    async def metrics_only(
        self, *, duration: Duration | None = None, reason: str = "", by: str = ""
    ) -> None:
        """Count calls and refuse none, in all processes; `CircuitWouldOpen` says when it would.

        Args:
            duration: For how long; until `reset` by default.
            reason: Why, for the history.
            by: Who says so.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        await self._force(CircuitState.METRICS_ONLY, duration, reason, by)

    ametrics_only = awaitable(metrics_only)

    @control
    async def reset(self, *, reason: str = "", by: str = "") -> None:
        """Begin anew: closed, with nothing counted, in all processes.

        Args:
            reason: Why, for the history.
            by: Who says so.

        Raises:
            BackendError: The backend is away; nothing has changed.
        """
        await self._force(CircuitState.CLOSED, None, reason, by)

    areset = awaitable(reset)

    async def _force(
        self, state: CircuitState, duration: Duration | None, reason: str, by: str
    ) -> None:
        lasts = optional_seconds(duration, option="duration")
        circuits = self._settings.circuits()
        if circuits is None:
            return
        rules = self._settings.rules
        circuit = await known(circuits, self.key, rules)
        version = circuit.version
        words = "forced" + (f" by {by}" if by else "") + (f": {reason}" if reason else "")
        view = await circuits.store.force(self.key, state, rules=rules, lasts=lasts, reason=words)
        circuit.adopt(view, version)

    def __repr__(self) -> str:
        return f"<circuit {self.key!r}, {self.state.value} as known here>"
