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
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from resilient import events
from resilient.engine import clock
from resilient.engine.drivers.sync import drive
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView

if TYPE_CHECKING:
    from resilient.engine.circuits.registry import KnownCircuits

__all__ = ["FAILURE", "NEITHER", "SUCCESS", "Batch", "KnownCircuit"]

SUCCESS, FAILURE, NEITHER = "0", "1", "-"
"""The outcome of a call, as `resilient.protocols.circuits` writes it."""

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

FAILURES_WITHIN = 0.005
"""Seconds within which a failure is sent; those in between go with it."""
SUCCESSES_WITHIN = 0.1
"""Seconds within which a success is sent."""
ASK_AGAIN_WITHIN = 0.05
"""Seconds for which a half-open circuit that has no permit left is not asked again: a permit that
was given back unused is announced to nobody."""
MOST_UNSENT = 1000
"""Outcomes that are kept while they cannot be sent, unless the window is larger."""
NEVER_SEEN = -1
"""The generation of a circuit of which the server has not spoken yet."""


class Batch(NamedTuple):
    """Outcomes on their way to the server, and what was known of the circuit when they left."""

    outcomes: str
    generation: int
    version: int


class KnownCircuit:
    """The local view of one circuit, and what it has counted. Thread-safe.

    Attributes:
        key: The circuit.
        rules: When it opens and closes.
        hits: The counter of successes while calls may pass unasked, else `None`.
        is_idle: Whether nothing has been counted that is still to be sent.
        is_known: Whether the server has told its state and every change since.
        is_own: Whether its state is this process's judgement, not the server's word.
        state: Closed, open or half-open.
        generation: The server's, of the last state that it told.
        version: Grows with every change of this view: tells an answer that was overtaken.
        ask_at: When a circuit that is not closed may be asked for a permit, on the local clock.
        since: When it came into its state, on the local clock.
        reason: Why.
        due: When to send what was counted, on the local clock.
        used_at: When it was last used, within the time in which successes are sent.
    """

    __slots__ = (
        "_circuits",
        "_counter",
        "_drawn",
        "_lock",
        "_news",
        "_unsent",
        "ask_at",
        "due",
        "generation",
        "hits",
        "is_idle",
        "is_known",
        "is_own",
        "key",
        "reason",
        "rules",
        "since",
        "state",
        "used_at",
        "version",
    )

    def __init__(self, key: str, rules: CircuitRules, circuits: KnownCircuits) -> None:
        self.key = key
        self.rules = rules
        self.is_idle = True
        self.is_known = False
        self.is_own = False
        self.state = CLOSED
        self.generation = NEVER_SEEN
        self.version = 0
        self.ask_at = -math.inf
        self.since = self.used_at = clock.now()
        self.reason = ""
        self.due = math.inf
        self.hits: Iterator[int] | None = None
        self._circuits = circuits
        self._unsent = ""
        self._news: deque[events.Event] = deque()
        self._start_counting()
        self.renew_lock()

    def renew_lock(self) -> None:
        """Another lock: this is a forked child, and a thread of its parent's may have held it."""
        self._lock = threading.Lock()

    # --- what calls do

    @property
    def counter(self) -> Iterator[int]:
        """What a call that was let through draws its success from."""
        return self._counter

    def ended(self, counter: Iterator[int], outcome: str) -> None:
        """Count how a call ended that took this counter before it began."""
        if outcome == FAILURE:
            self.failed(counter)
        elif outcome == SUCCESS:
            self.succeeded(counter)

    def succeeded(self, counter: Iterator[int]) -> None:
        """Count a success; the fast path does just this, without the call."""
        next(counter)
        if self.is_idle:
            self.wake()

    def wake(self) -> None:
        """Something was counted: have it sent in time."""
        with self._lock:
            self._send_within(SUCCESSES_WITHIN)
        self._circuits.touch(self)

    def failed(self, counter: Iterator[int]) -> None:
        """Count a failure; enough of them open the circuit in this process at once."""
        with self._lock:
            if counter is not self._counter or self.state is not CLOSED:
                return
            self._count(self._successes() + FAILURE)
            tripped = self.state is not CLOSED
            self._send_within(0.0 if tripped else FAILURES_WITHIN)
        if tripped:
            self._circuits.send_at_once(self)
        self._circuits.touch(self)
        self.tell()

    def put_off(self, retry_after: float) -> None:
        """The server has refused a permit: when to ask it again."""
        with self._lock:
            now = clock.now()
            wait = retry_after if self.state is OPEN else min(retry_after, ASK_AGAIN_WITHIN)
            self.ask_at = max(self.ask_at, now + wait)

    # --- what is sent

    @property
    def has_unsent(self) -> bool:
        """Whether the server has not judged yet what tripped it here."""
        return bool(self._unsent)

    def collect(self) -> Batch | None:
        """Take what was counted and not sent; `None`, and idle from now on, if there is nothing."""
        with self._lock:
            self._digest()
            if not self._unsent:
                # A call draws first and looks at `is_idle` then, so look at the counter last.
                self.due, self.is_idle = math.inf, True
                self._digest()
            if not self._unsent:
                return None
            batch = Batch(self._unsent, max(self.generation, 0), self.version)
            self._unsent = ""
            self.due, self.is_idle = clock.now() + SUCCESSES_WITHIN, False
        self.tell()
        return batch

    def digest(self) -> None:
        """Judge what was counted, and keep it: the server cannot be reached."""
        with self._lock:
            self.due, self.is_idle = math.inf, True
            if self._digest():
                self._send_within(SUCCESSES_WITHIN)
        self.tell()

    def rest(self) -> None:
        """Nobody will send what is counted from now on, until the next call asks for it."""
        with self._lock:
            self.due, self.is_idle = math.inf, True

    def keep(self, batch: Batch, *, sent: bool) -> None:
        """What was collected has not arrived.

        If it may have, it is forgotten: what counts twice could open a circuit that should not be.
        Only what has opened it here already is told again.
        """
        with self._lock:
            if self.version == batch.version and (self.is_own or not sent):
                self._unsent = (batch.outcomes + self._unsent)[-self._most_unsent() :]
                self._send_within(SUCCESSES_WITHIN if sent else 0.0)

    def repeat(self, batch: Batch, generation: int) -> None:
        """The server has forgotten the circuit, and so did not count these: tell it anew."""
        with self._lock:
            if self.version == batch.version:
                self.generation = generation
                self.version += 1
                self._unsent = (batch.outcomes + self._unsent)[-self._most_unsent() :]
                self._send_within(0.0)
        self._circuits.touch(self)

    # --- what is heard

    def adopt(self, view: CircuitView, version: int | None = None) -> None:
        """Take the server's word.

        Args:
            view: The circuit as the server sees it.
            version: What the view was when the server was asked; `None` for an announcement. An
                answer that was overtaken meanwhile counts only if it tells of a later generation.
        """
        with self._lock:
            in_time = version == self.version and not self._protects(view)
            if in_time or view.generation > self.generation:
                self._accept(view)
        self.tell()

    def judged(self, view: CircuitView) -> None:
        """Go by this process's own judgement: the server cannot be reached."""
        with self._lock:
            if view.state is not self.state or not self.is_known:
                self._enter(view, own=True)
        self.tell()

    def forget(self) -> None:
        """Something may have been missed, and it is not in use: ask before the next use."""
        with self._lock:
            self.is_known = False
            self.hits = None
            self.version += 1

    def tell(self) -> None:
        """Emit what has happened. Without the lock: subscribers may do what they like."""
        while self._news:
            try:
                event = self._news.popleft()
            except IndexError:  # another thread was faster
                return
            events.emit(event)

    # --- with the lock

    def _start_counting(self) -> None:
        self._counter = count()
        self._drawn = -1

    def _successes(self) -> str:
        """The successes since the last look, no more of them than the window holds."""
        number = next(self._counter)
        new = number - self._drawn - 1
        self._drawn = number
        return SUCCESS * min(new, self.rules.window)

    def _digest(self) -> bool:
        outcomes = self._successes() if self.state is CLOSED else ""
        if outcomes:
            self._count(outcomes)
        return bool(outcomes)

    def _count(self, outcomes: str) -> None:
        self.used_at = clock.now()
        self._unsent = (self._unsent + outcomes)[-self._most_unsent() :]
        judge = self._circuits.judge
        view = drive(judge.record(self.key, rules=self.rules, outcomes=outcomes))
        if view.state is not CLOSED:
            self._enter(view, own=True)

    def _most_unsent(self) -> int:
        return max(MOST_UNSENT, self.rules.window)

    def _send_within(self, seconds: float) -> None:
        self.is_idle = False
        self.due = min(self.due, clock.now() + seconds)

    def _protects(self, view: CircuitView) -> bool:
        """Whether it stays open although the server, which has lost its data, knows nothing."""
        forgotten = view.generation < self.generation
        return forgotten and self.state is OPEN and clock.now() < self.ask_at

    def _accept(self, view: CircuitView) -> None:
        if view.state is not self.state or not self._goes_on(view):
            self._enter(view, own=False)
            return
        if view.generation != self.generation:
            self.version += 1
            if self.state is OPEN:
                self._unsent = ""  # it has been judged
        self.generation = view.generation
        self.is_known, self.is_own = True, False
        if self.state is CLOSED:
            self.hits = self._counter
        elif self.state is OPEN:
            self._opened(view)

    def _goes_on(self, view: CircuitView) -> bool:
        """Whether calls that were admitted under the state so far still count in this one."""
        if self.state is OPEN:
            return True
        # A circuit gets its first generation with its first outcome, and loses it when it has
        # been idle for so long that the server forgets it.
        unnumbered = self.generation <= 0 or view.generation == 0
        return view.generation == self.generation or (self.state is CLOSED and unnumbered)

    def _enter(self, view: CircuitView, *, own: bool) -> None:
        """Come into a state: nothing counted, nothing asked."""
        seen_before = self.is_own or self.generation != NEVER_SEEN or own
        if view.state is not self.state and seen_before:
            generation = max(self.generation if own else view.generation, 0)
            reason = "outvoted" if not own and self._was_wrong(view) else view.reason
            self._news.append(
                events.CircuitChanged(
                    self.key, self.state.value, view.state.value, generation, reason
                )
            )
        if not own:
            self.generation = view.generation
        if not own or view.state is CLOSED:
            self._unsent = ""  # else it is what the server has still to judge
        self.is_known, self.is_own = True, own
        self.state = view.state
        self.version += 1
        self.since, self.reason = clock.now(), view.reason
        self._start_counting()
        self.hits = self._counter if self.state is CLOSED else None
        if self.state is CLOSED:
            drive(self._circuits.judge.delete(self.key))
        elif self.state is OPEN:
            self._opened(view)
        else:
            self.ask_at = self.since

    def _was_wrong(self, view: CircuitView) -> bool:
        """Whether this process has left the closed state by itself, and the server never did."""
        unmoved = view.generation == self.generation or not view.reason
        return self.is_own and view.state is CLOSED and unmoved

    def _opened(self, view: CircuitView) -> None:
        now = clock.now()
        self.ask_at = now + view.reopens_in
        self.reason = view.reason
        # By hand it may have been for another time than by the rules.
        if view.reason != "forced":
            self.since = min(now, self.ask_at - self.rules.open_for)
