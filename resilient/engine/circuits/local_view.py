"""A circuit's state as one process knows it, and what the server's word about it means.

Whoever counts and sends is `known`; this is what it goes by. Nothing here is thread-safe by itself.
"""

from __future__ import annotations

import math

from resilient.engine import clock
from resilient.protocols.circuits import CircuitRules, CircuitState, CircuitView

__all__ = ["LocalView"]

NEVER_SEEN = -1
"""The generation of a circuit of which the server has not spoken yet."""


class LocalView:
    """The local view of one circuit.

    Attributes:
        key: The circuit.
        rules: When it opens and closes.
        is_known: Whether the server has told its state and every change since.
        is_own: Whether its state is this process's judgement, not the server's word.
        state: Closed, open or half-open, or what it was put into by hand.
        generation: The server's, of the last state that it told.
        version: Grows with every change of this view: tells an answer that was overtaken.
        ask_at: When a circuit that is not closed may be asked for a permit, or what was done by
            hand ends, on the local clock.
        ramp_ends: Until when only some of the calls are let through, on the local clock.
        since: When it came into its state, on the local clock.
        reason: Why.
        opened: How many times in a row it has opened.
    """

    __slots__ = (
        "ask_at",
        "generation",
        "is_known",
        "is_own",
        "key",
        "opened",
        "ramp_ends",
        "reason",
        "rules",
        "since",
        "state",
        "version",
    )

    def __init__(self, key: str, rules: CircuitRules) -> None:
        self.key = key
        self.rules = rules
        self.is_known = False
        self.is_own = False
        self.state = CircuitState.CLOSED
        self.generation = NEVER_SEEN
        self.version = 0
        self.ask_at = self.ramp_ends = -math.inf
        self.since = clock.now()
        self.reason = ""
        self.opened = 0

    def has_lost(self, view: CircuitView) -> bool:
        """Whether the server has lost its data, and is to be told again that this one is open."""
        lasts = self.state is CircuitState.OPEN or self.state.is_forced
        forgotten = view.generation < self.generation and not self.is_own
        return forgotten and lasts and clock.now() < self.ask_at

    def retold(self, lost: CircuitView, now: float) -> CircuitView:
        """What the server is told that has lost it."""
        return lost._replace(
            state=self.state,
            generation=self.generation,
            reopens_in=self.ask_at - now,
            opened=self.opened,
        )

    def stands_alone(self, view: CircuitView) -> bool:
        """Whether this process goes on leaving alone what a quorum has not found bad."""
        alone = self.is_own and self.rules.quorum is not None
        return alone and CircuitState.CLOSED is view.state is not self.state

    def is_ahead_of(self, view: CircuitView) -> bool:
        """Whether a server that calls it closed has numbered only what this process has left.

        A circuit gets its first generation with its first outcome: the answer to that one tells of
        a later generation than none, and yet of what was before. What somebody has done by hand
        counts whenever it came.
        """
        has_left = self.is_own and self.state is not CircuitState.CLOSED
        was_closed = view.state is CircuitState.CLOSED and not view.reason.startswith("forced")
        return has_left and self.generation <= 0 and was_closed

    def goes_on(self, view: CircuitView) -> bool:
        """Whether calls that were admitted under the state so far still count in this one."""
        if self.state is CircuitState.OPEN:
            return True
        # A circuit gets its first generation with its first outcome, and loses it when it has
        # been idle for so long that the server forgets it.
        unnumbered = self.generation <= 0 or view.generation == 0
        is_closed = self.state is CircuitState.CLOSED
        return view.generation == self.generation or (is_closed and unnumbered)

    def was_wrong(self, view: CircuitView) -> bool:
        """Whether this process has left the closed state by itself, and the server never did."""
        unmoved = view.generation == self.generation or not view.reason
        return self.is_own and view.state is CircuitState.CLOSED and unmoved

    def lasts(self, view: CircuitView) -> None:
        """Take over since when and how long it is in its state, and why."""
        now = clock.now()
        self.since, self.reason, self.opened = now - view.age, view.reason, view.opened
        self.ask_at = now + view.reopens_in
