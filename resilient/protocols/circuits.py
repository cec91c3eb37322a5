"""What a backend promises about circuit breakers."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

__all__ = ["Admission", "CircuitRules", "CircuitState", "CircuitStore", "CircuitView", "Verdict"]


class CircuitState(StrEnum):
    """The three states of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitRules(NamedTuple):
    """When a circuit opens and closes again; sent with every operation, never stored.

    Attributes:
        window: How many of the latest outcomes are judged.
        min_calls: Outcomes that must be there before a rate is judged.
        failure_rate: Open at this share of failures in the window, 0 < rate <= 1; `None`: never.
        consecutive: Open after this many failures in a row; `None`: never.
        open_for: Seconds for which an open circuit refuses calls before it is probed.
        permits: Probes in one half-open round, over the whole fleet. The round is judged when all
            have ended: it closes the circuit unless the failure rate (1 failure, if only
            `consecutive` is set) was reached.
        lease: Seconds after which the permit of a probe that never reported is free again.
        ttl: Seconds for which an idle circuit is remembered.
    """

    window: int
    min_calls: int
    failure_rate: float | None
    consecutive: int | None
    open_for: float
    permits: int
    lease: float
    ttl: float


class CircuitView(NamedTuple):
    """A circuit as the server sees it.

    Attributes:
        state: Closed, open or half-open.
        generation: Grows with every transition and is never used again, also after data loss.
        reopens_in: Seconds until an open circuit may be probed; 0 otherwise.
        calls: Outcomes in the window (in the probe round, when half-open).
        failures: Failures among them.
        consecutive: Failures since the last success.
        last_failure: Seconds since the last failure; `None` if there is none.
        last_success: Seconds since the last success; `None` if there is none.
        reason: Why the circuit came into this state, such as `"failure_rate"`; `""` at first.
    """

    state: CircuitState
    generation: int
    reopens_in: float
    calls: int
    failures: int
    consecutive: int
    last_failure: float | None
    last_success: float | None
    reason: str


class Verdict(StrEnum):
    """What becomes of a call that asks an open or half-open circuit to be let through."""

    ALLOWED = "allowed"
    PROBE = "probe"
    REFUSED = "refused"


class Admission(NamedTuple):
    """The answer to a call that asks to be let through.

    Attributes:
        verdict: Allowed (the circuit is closed), as a probe (report its outcome), or refused.
        view: The circuit after the decision.
        retry_after: Seconds after which a refused caller may ask again.
    """

    verdict: Verdict
    view: CircuitView
    retry_after: float


class CircuitStore(Protocol):
    """Shared windows and probe permits. Every method is one atomic operation at the server.

    A transition is announced to every process on the channel `"circuits"`
    (`resilient.engine.signals`), as `announcement(key, view)` writes it.
    """

    async def view(self, key: str) -> CircuitView:
        """The circuit now; a key that was never seen is closed, with generation 0."""
        ...

    async def record(
        self, key: str, *, rules: CircuitRules, outcomes: str, generation: int | None = None
    ) -> CircuitView:
        """Add outcomes to a closed circuit's window and judge it after each of them.

        Args:
            key: The circuit.
            rules: When to open.
            outcomes: One character a call in the order they ended: `"0"` success, `"1"` failure.
            generation: The generation in which the calls were admitted; outcomes of another one
                are dropped. `None` (by hand) and 0 (the caller never saw the circuit) always count.
        """
        ...

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits; opens the half-open round when its time has come.

        Permits of probes whose lease has run out are given back first. The same token asking
        again gets the same permit.
        """
        ...

    async def report(
        self, key: str, *, rules: CircuitRules, token: str, generation: int, outcome: str
    ) -> CircuitView:
        """Report a probe: `"0"` success, `"1"` failure, `"-"` neither (the permit goes back).

        A report from another generation, or without a live permit, changes nothing.
        """
        ...

    async def force(
        self, key: str, state: CircuitState, *, rules: CircuitRules | None = None
    ) -> CircuitView:
        """Put the circuit into a state by hand: a transition like any other, with an empty window.

        Open lasts `rules.open_for` (60 seconds without rules) and then goes on as usual.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Forget the circuit; false if there was none."""
        ...


def announcement(key: str, view: CircuitView) -> str:
    """A transition as it is sent on the channel `"circuits"`: five fields, the key last."""
    return f"{view.state}|{view.generation}|{view.reopens_in:.3f}|{view.reason}|{key}"


def parse_announcement(text: str) -> tuple[str, CircuitState, int, float, str]:
    """The key, state, generation, seconds until it may be probed, and reason of a transition."""
    state, generation, reopens_in, reason, key = text.split("|", 4)
    return key, CircuitState(state), int(generation), float(reopens_in), reason
