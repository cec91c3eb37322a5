"""What a backend promises about circuit breakers."""

from __future__ import annotations

import zlib
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, Protocol

__all__ = [
    "Admission",
    "CircuitRules",
    "CircuitState",
    "CircuitStore",
    "CircuitTransition",
    "CircuitView",
    "Verdict",
    "announcement",
    "fingerprint",
    "lasting",
    "parse_announcement",
]

OPEN_FOR_WITHOUT_RULES = 60.0
HISTORY = 20
"""How many of its latest transitions a circuit remembers."""


class CircuitState(StrEnum):
    """The three states of a circuit, and the four in which it is put by hand."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    """Refuses every call; is probed when its time is over."""
    FORCED_CLOSED = "forced_closed"
    """Lets every call through and counts it; nothing opens it."""
    METRICS_ONLY = "metrics_only"
    """The same, and it says when it would have opened."""
    DISABLED = "disabled"
    """Lets every call through and counts none."""

    @property
    def lets_through(self) -> bool:
        """Whether calls pass unasked."""
        return self in _PASSING

    @property
    def is_forced(self) -> bool:
        """Whether it was put into this state by hand, for a time."""
        return self in _FORCED


_FORCED = frozenset(list(CircuitState)[3:])
_PASSING = (_FORCED | {CircuitState.CLOSED}) - {CircuitState.FORCED_OPEN}


class CircuitRules(NamedTuple):
    """When a circuit opens and closes again; sent with every operation, never stored.

    Attributes:
        window: How many of the latest outcomes are judged, where `seconds` is `None`.
        min_calls: Outcomes that must be there before a rate is judged; of a count window, at most
            all of it.
        failure_rate: Open at this share of failures in the window, 0 < rate <= 1; `None`: never.
        consecutive: Open after this many failures in a row; `None`: never.
        open_for: Seconds for which an open circuit refuses calls before it is probed.
        permits: Probes in one half-open round, over the whole fleet. The round is judged when all
            have ended: it closes the circuit unless the failure rate (1 failure, if only
            `consecutive` is set) or the slow rate was reached.
        lease: Seconds after which the permit of a probe that never reported is free again.
        ttl: Seconds for which an idle circuit is remembered.
        seconds: Judge the outcomes of the latest so many seconds instead of a number of them.
        buckets: In how many parts such a window moves on.
        slow_rate: Open at this share of slow calls in the window; `None`: never.
        slow_over: Seconds above which a call is slow. The callers apply it.
        factor: By how much longer it stays open each further time in a row.
        longest: The most seconds that come of that; `None`: `open_for`.
        jitter: The share by which the time is varied either way.
        calm: Seconds closed after which the next time is the first again.
        concurrency: How many probes may be under way at once; `None`: all permits.
        all_must_pass: Whether the first failure ends the half-open round.
        ramp: Seconds over which calls are let through little by little after a round that passed;
            `None`: all at once. The callers apply it.
        ramp_start: The share of calls that is let through at first.
        quorum: Open only when so many nodes have found the service bad, each by its own calls;
            `None`: judge the calls of all nodes together.
        quorum_share: And at least this share of the nodes that have reported of late.
    """

    window: int
    min_calls: int
    failure_rate: float | None
    consecutive: int | None
    open_for: float
    permits: int
    lease: float
    ttl: float
    seconds: float | None = None
    buckets: int = 10
    slow_rate: float | None = None
    slow_over: float | None = None
    factor: float = 1.0
    longest: float | None = None
    jitter: float = 0.0
    calm: float = 60.0
    concurrency: int | None = None
    all_must_pass: bool = False
    ramp: float | None = None
    ramp_start: float = 0.1
    quorum: int | None = None
    quorum_share: float = 0.0


@lru_cache(maxsize=1024)
def fingerprint(rules: CircuitRules) -> str:
    """A short text that equal rules share, and others hardly ever."""
    return f"{zlib.crc32(repr(tuple(rules)).encode()):08x}"


class CircuitView(NamedTuple):
    """A circuit as the server sees it.

    Attributes:
        state: Closed, open or half-open, or what it was put into by hand.
        generation: Grows with every transition and is never used again, also after data loss.
        reopens_in: Seconds until an open circuit may be probed, or until what was done by hand
            ends; 0 otherwise.
        calls: Outcomes in the window (in the probe round, when half-open).
        failures: Failures among them.
        consecutive: Failures since the last success.
        last_failure: Seconds since the last failure; `None` if there is none.
        last_success: Seconds since the last success; `None` if there is none.
        reason: Why the circuit came into this state, such as `"failure_rate"`; `""` at first.
        slow: Slow calls in the window.
        stale: Calls that had no effect, because they ended in another generation than they began.
        opened: How many times in a row it has opened without a calm spell in between.
        age: Seconds since the last transition; 0 if there was none.
        breach: Why it would have opened, had it not been put into its state by hand; `""`: it
            would not.
        fingerprint: Of the rules under which outcomes were recorded last, before this answer.
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
    slow: int = 0
    stale: int = 0
    opened: int = 0
    age: float = 0.0
    breach: str = ""
    fingerprint: str = ""


class CircuitTransition(NamedTuple):
    """One transition of a circuit.

    Attributes:
        age: Seconds since it happened.
        before: The state until then.
        after: The state from then on.
        reason: Why; of one by hand, with the name and the words of whoever made it.
        generation: The generation that began.
    """

    age: float
    before: CircuitState
    after: CircuitState
    reason: str
    generation: int


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


def lasting(
    state: CircuitState, rules: CircuitRules | None, lasts: float | None, longest: float
) -> float | None:
    """For how long a state stays into which a circuit is put by hand; `None`: without an end.

    Args:
        state: The state.
        rules: Of the circuit, if they are known.
        lasts: Seconds, if they were chosen.
        longest: Seconds for which anything is kept.
    """
    if state is CircuitState.OPEN:
        usual = OPEN_FOR_WITHOUT_RULES if rules is None else rules.open_for
    elif state.is_forced:
        usual = longest
    else:
        return None
    return usual if lasts is None else lasts


class CircuitStore(Protocol):
    """Shared windows and probe permits. Every method is one atomic operation at the server.

    An outcome is one character: `"0"` success, `"1"` failure, `"2"` slow success, `"3"` slow
    failure. A call that is counted as slow while it is under way is `"s"` then, and when it ends
    `"f"` (that slow call has failed) or `"o"` (it has not): neither counts a further call.

    A transition is announced to every process on the channel `"circuits"`
    (`resilient.engine.signals`), as `announcement(key, view)` writes it.
    """

    async def view(self, key: str) -> CircuitView:
        """The circuit now; a key that was never seen is closed, with generation 0."""
        ...

    async def record(
        self,
        key: str,
        *,
        rules: CircuitRules,
        outcomes: str,
        generation: int | None = None,
        age: float = 0.0,
        retry_after: float = 0.0,
        node: str = "",
        breached: bool = False,
    ) -> CircuitView:
        """Add outcomes to a closed circuit's window and judge it after each of them.

        Args:
            key: The circuit.
            rules: When to open.
            outcomes: One character for each, in the order in which they came.
            generation: The generation in which the calls were admitted; outcomes of another one
                are dropped, and counted as stale. `None` (by hand) and 0 (the caller never saw the
                circuit) always count.
            age: Seconds since these outcomes came.
            retry_after: Seconds for which the service itself has asked to be left alone: if these
                open the circuit, it stays open for at least so long.
            node: Who says so, where the rules have a quorum.
            breached: Whether this node finds the service bad by what it has seen itself.
        """
        ...

    async def admit(self, key: str, *, rules: CircuitRules, token: str) -> Admission:
        """Ask for one of the probe permits; opens the half-open round when its time has come.

        Permits of probes whose lease has run out are given back first. The same token asking
        again gets the same permit.
        """
        ...

    async def report(
        self,
        key: str,
        *,
        rules: CircuitRules,
        token: str,
        generation: int,
        outcome: str,
        retry_after: float = 0.0,
    ) -> CircuitView:
        """Report a probe: `"0"` to `"3"`, or `"-"`: no outcome (the permit goes back).

        A report from another generation, or without a live permit, changes nothing; the former is
        counted as stale.
        """
        ...

    async def force(
        self,
        key: str,
        state: CircuitState,
        *,
        rules: CircuitRules | None = None,
        lasts: float | None = None,
        reason: str = "forced",
    ) -> CircuitView:
        """Put the circuit into a state by hand: a transition, with an empty window.

        Args:
            key: The circuit.
            state: The state to put it into.
            rules: Of the circuit; they say how long it is remembered.
            lasts: Seconds after which what was done by hand ends: a circuit that was forced open
                may be probed then, and one that lets calls through is closed. Without it: of
                `OPEN`, `rules.open_for` (60 seconds without rules); of the states that exist by
                hand only, as long as anything is kept.
            reason: Why, and by whom; begins with `"forced"`. A `|` in it is written `/`.
        """
        ...

    async def restore(self, key: str, *, rules: CircuitRules, view: CircuitView) -> CircuitView:
        """Tell a store that has lost its data what this circuit was, and for how much longer.

        The circuit comes into that state, in a new generation. Nothing changes if the store knows
        of a transition: of one as late as the view's generation, or later.
        """
        ...

    async def history(self, key: str) -> list[CircuitTransition]:
        """The latest 20 transitions, the newest first."""
        ...

    async def delete(self, key: str) -> bool:
        """Forget the circuit; false if there was none."""
        ...


def announcement(key: str, view: CircuitView) -> str:
    """A transition as it is sent on the channel `"circuits"`: six fields, the key last."""
    return f"{view.state}|{view.generation}|{view.reopens_in:.3f}|{view.opened}|{view.reason}|{key}"


def parse_announcement(text: str) -> tuple[str, CircuitView]:
    """The key of a transition, and what is told of the circuit."""
    state, generation, reopens_in, opened, reason, key = text.split("|", 5)
    return key, CircuitView(
        CircuitState(state),
        int(generation),
        float(reopens_in),
        0,
        0,
        0,
        None,
        None,
        reason,
        opened=int(opened),
    )
