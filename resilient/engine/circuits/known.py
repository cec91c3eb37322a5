"""One circuit as this process knows it.

While it is closed, `hits` is a counter, and a call that succeeds draws a number from it: that is
all that it costs. A call takes the counter before it runs and draws from it afterwards, so the
outcome of one that began before a transition goes to a counter that nobody reads any more.

The server's word counts. Until it has spoken on what this process has seen, and while it cannot be
reached, the process goes by its own judgement: `judge`, a store of circuits in its own memory that
is given the same outcomes and the same rules.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from resilient import events
from resilient.engine import clock
from resilient.engine.circuits.local_view import NEVER_SEEN, LocalView
from resilient.engine.circuits.news import News
from resilient.engine.circuits.outcomes import (
    FAILURES_WITHIN,
    NEITHER,
    SUCCESS,
    SUCCESSES_WITHIN,
    Batch,
    Unsent,
)
from resilient.engine.circuits.tally import Tally
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView

if TYPE_CHECKING:
    from resilient.engine.circuits.in_flight import Flight
    from resilient.engine.circuits.registry import KnownCircuits

__all__ = ["KnownCircuit"]

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

ASK_AGAIN_WITHIN = 0.05
"""Seconds for which a half-open circuit that has no permit left is not asked again: a permit that
was given back unused is announced to nobody."""


class KnownCircuit(LocalView):
    """The local view of one circuit, and what it has counted. Thread-safe.

    Attributes:
        hits: The counter of successes while calls may pass unasked, else `None`.
        is_idle: Whether nothing has been counted that is still to be sent.
        due: When to send what was counted, on the local clock.
        used_at: When it was last used, within the time in which successes are sent.
    """

    __slots__ = (
        "_circuits",
        "_lock",
        "_lost",
        "_news",
        "_tally",
        "_unsent",
        "due",
        "hits",
        "is_idle",
        "used_at",
    )

    def __init__(self, key: str, rules: CircuitRules, circuits: KnownCircuits) -> None:
        super().__init__(key, rules)
        self.hits: Iterator[int] | None = None
        self.is_idle = True
        self.due = math.inf
        self.used_at = self.since
        self._circuits = circuits
        self._unsent = Unsent(rules)
        self._lost: CircuitView | None = None
        self._news = News()
        self._tally = Tally()
        self.renew_lock()

    def renew_lock(self) -> None:
        """Another lock: this is a forked child, and a thread of its parent's may have held it."""
        self._lock = threading.Lock()

    # --- what calls do

    @property
    def counter(self) -> Iterator[int]:
        """What a call that was let through draws its success from."""
        return self._tally.counter

    def begin(self, counter: Iterator[int] | None) -> Flight | None:
        """A call begins that took this counter, a probe none. Its time does not matter here."""
        return None

    def timed(self, flight: Flight | None, outcome: str) -> str:
        """A call has ended: its outcome with its slowness."""
        return outcome

    def ended(self, counter: Iterator[int], outcome: str, retry_after: float = 0.0) -> None:
        """Count how a call ended that took this counter before it began."""
        if outcome == SUCCESS:
            next(counter)
            if self.is_idle:
                self.wake()
        elif outcome != NEITHER:
            self.noted(counter, outcome, retry_after)

    def wake(self) -> None:
        """Something was counted: have it sent in time."""
        with self._lock:
            self._send_within(SUCCESSES_WITHIN)
        self._circuits.touch(self)

    def noted(self, counter: Iterator[int], outcome: str, retry_after: float = 0.0) -> None:
        """Count what is no quick success; enough of it opens the circuit in this process."""
        with self._lock:
            if counter is not self._tally.counter or not self.state.lets_through:
                self._tally.add_stale(outcome in "0123s")
                return
            self._count(self._successes() + outcome, retry_after)
            tripped = not self.state.lets_through
            self._send_within(0.0 if tripped else FAILURES_WITHIN)
        if tripped:
            self._circuits.send_at_once(self)
        self._circuits.touch(self)
        self._news.tell()

    def unheard(self, counter: Iterator[int], outcome: str, retry_after: float) -> None:
        """Judge a call of which the server was told, but did not answer: it may count it.

        Only if that opens the circuit here, the server is told again.
        """
        with self._lock:
            if counter is not self._tally.counter or self.state is not CLOSED:
                return
            view = self._circuits.own_judgement(self, outcome, retry_after)
            if view.state is CLOSED:
                return
            self._unsent.add(outcome, clock.now(), retry_after)
            self._enter(view, own=True)
            self._send_within(0.0)
        self._circuits.touch(self)
        self._news.tell()

    def put_off(self, retry_after: float) -> None:
        """The server has refused a permit: when to ask it again."""
        with self._lock:
            now = clock.now()
            half_open = self.state is HALF_OPEN
            wait = min(retry_after, ASK_AGAIN_WITHIN) if half_open else retry_after
            self.ask_at = max(self.ask_at, now + wait)

    def pass_unasked(self) -> None:
        """Calls are let through from now on, all of them: its ramp, if it had one, is over."""
        with self._lock:
            if self.state.lets_through:
                self._let_through(clock.now())

    @property
    def stale(self) -> int:
        """Calls that had no effect, because they ended in another state than they began in."""
        with self._lock:
            return self._tally.stale

    # --- what is sent

    @property
    def has_unsent(self) -> bool:
        """Whether the server has not judged yet what tripped it here."""
        return bool(self._unsent)

    def collect(self) -> Batch | None:
        """Take what was counted and not sent; `None`, and idle from now on, if there is nothing."""
        with self._lock:
            now = clock.now()
            if self.state.is_forced and self.state.lets_through and now >= self.ask_at:
                self._forget()  # what was done by hand is over: ask before the next use
            lost = self._told_again(now)
            self._digest()
            if not self._unsent and lost is None:
                # A call draws first and looks at `is_idle` then, so look at the counter last.
                self._rest()
                self._digest()
            if not self._unsent and lost is None:
                return None
            batch = Batch(
                self._unsent.runs,
                max(self.generation, 0),
                self.version,
                self._unsent.retry_after,
                self.is_own and not self.state.lets_through,
                lost,
            )
            self._unsent.clear()
            self.due, self.is_idle = now + SUCCESSES_WITHIN, False
        self._news.tell()
        return batch

    def digest(self) -> None:
        """Judge what was counted, and keep it: the server cannot be reached."""
        with self._lock:
            self._rest()
            if self._digest():
                self._send_within(SUCCESSES_WITHIN)
        self._news.tell()

    def rest(self) -> None:
        """Nobody will send what is counted from now on, until the next call asks for it."""
        with self._lock:
            self._rest()

    def keep(self, batch: Batch, *, sent: bool) -> None:
        """What was collected has not arrived.

        If it may have, it is forgotten: what counts twice could open a circuit that should not be.
        Only what has opened it here already is told again, and what the server has lost.
        """
        with self._lock:
            self._lost = self._lost or batch.lost
            if self.version == batch.version and (self.is_own or not sent):
                self._unsent.put_back(batch)
                self._send_within(SUCCESSES_WITHIN if sent else 0.0)

    def repeat(self, batch: Batch, generation: int) -> None:
        """The server has forgotten the circuit, and so did not count these: tell it anew."""
        with self._lock:
            if self.version == batch.version:
                self.generation = generation
                self.version += 1
                self._unsent.put_back(batch)
                self._send_within(0.0)
        self._circuits.touch(self)

    # --- what is heard

    def adopt(self, view: CircuitView, version: int | None = None) -> None:
        """Take the server's word.

        Args:
            view: The circuit as the server sees it.
            version: What the view was when the server was asked; `None` for an announcement. An
                answer that was overtaken meanwhile counts only if it tells of a later generation,
                and not if that is the first one, which this process has left by itself.
        """
        lost = False
        with self._lock:
            if version == self.version and self.has_lost(view):
                self._lost = view
                self._send_within(0.0)
                lost = True
            elif version is not None and version != self.version and self.is_ahead_of(view):
                self.generation = view.generation  # as of which the server is to judge the trip
            elif version == self.version or view.generation > self.generation:
                self._accept(view)
        if lost:
            self._circuits.touch(self)
        self._news.tell()

    def compare(self, view: CircuitView) -> None:
        """Look whether others use other rules, and whether it would have opened."""
        with self._lock:
            self._news.compare(self.key, self.rules, view)
        self._news.tell()

    def judged(self, view: CircuitView) -> None:
        """Go by this process's own judgement: the server cannot be reached."""
        with self._lock:
            if view.state is not self.state or not self.is_known:
                self._enter(view, own=True)
        self._news.tell()

    def forget(self) -> None:
        """Something may have been missed, and it is not in use: ask before the next use."""
        with self._lock:
            self._forget()

    # --- with the lock

    def _forget(self) -> None:
        self.is_known = False
        self.hits = None
        self.version += 1

    def _rest(self) -> None:
        """Idle, but for the end of what was done by hand."""
        ends = self.state.is_forced and self.state.lets_through and self.is_known
        self.due, self.is_idle = self.ask_at if ends else math.inf, True

    def _let_through(self, now: float) -> None:
        """Let calls pass unasked, unless only some of them may."""
        self.hits = self._tally.counter if now >= self.ramp_ends else None

    def _successes(self) -> str:
        """The successes since the last look, no more of them than the window holds."""
        return SUCCESS * min(self._tally.new(), self.rules.window)

    def _digest(self) -> bool:
        outcomes = self._successes() if self.state.lets_through else ""
        if outcomes:
            self._count(outcomes)
        return bool(outcomes)

    def _count(self, outcomes: str, retry_after: float = 0.0) -> None:
        self.used_at = now = clock.now()
        if self.state is CircuitState.DISABLED:
            return
        self._unsent.add(outcomes, now, retry_after)
        if self.state is CLOSED:
            view = self._circuits.own_judgement(self, outcomes, retry_after)
            if view.state is not CLOSED:
                self._enter(view, own=True)

    def _send_within(self, seconds: float) -> None:
        self.is_idle = False
        self.due = min(self.due, clock.now() + seconds)

    def _told_again(self, now: float) -> CircuitView | None:
        """What the server has lost, if it is still so."""
        lost, self._lost = self._lost, None
        if lost is None or not self.has_lost(lost):
            return None
        return self.retold(lost, now)

    def _accept(self, view: CircuitView) -> None:
        if self.stands_alone(view):
            self.generation = view.generation
            return
        if view.state is not self.state or not self.goes_on(view):
            self._enter(view, own=False)
            return
        if view.generation != self.generation:
            self.version += 1
            if self.state is OPEN:
                self._unsent.clear()  # it has been judged
        self.generation = view.generation
        self.is_known, self.is_own = True, False
        if self.state is CLOSED:
            self._let_through(clock.now())
        else:
            self._lasts(view)

    def _enter(self, view: CircuitView, *, own: bool) -> None:
        """Come into a state: nothing counted, nothing asked."""
        seen_before = self.is_own or self.generation != NEVER_SEEN or own
        if view.state is not self.state and seen_before:
            generation = max(self.generation if own else view.generation, 0)
            reason = "outvoted" if not own and self.was_wrong(view) else view.reason
            self._news.add(
                events.CircuitChanged(
                    self.key, self.state.value, view.state.value, generation, reason
                )
            )
        if not own:
            self.generation = view.generation
        if not own or view.state is CLOSED:
            self._unsent.clear()  # else it is what the server has still to judge
        self.is_known, self.is_own = True, own
        self.state = view.state
        self.version += 1
        self.hits = None
        self._tally.begin_anew()
        self._lasts(view)
        if self.state.lets_through:
            self._circuits.begin_anew(self)
            if view.reason == "probes_passed" and self.rules.ramp is not None:
                self.ramp_ends = self.since + self.rules.ramp
            self._let_through(clock.now())

    def _lasts(self, view: CircuitView) -> None:
        self.lasts(view)
        if self.state.is_forced and self.state.lets_through:
            self.due = min(self.due, self.ask_at)
            self._circuits.touch(self)
