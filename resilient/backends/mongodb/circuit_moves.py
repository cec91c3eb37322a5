"""How a circuit's document moves from state to state, whatever moves it (`circuit_pipelines.py`).

A stage before names the `event` that has come to pass, if any. The stages of `MOVED` then bring the
circuit where `resilient.protocols.circuit_table` says, in a new generation, and tell of it.
"""

from __future__ import annotations

from typing import Any

from resilient.backends.mongodb.circuit_windows import (
    is_set,
    rule,
)
from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    added,
    argument,
    both,
    changed_if,
    chosen,
    either,
    equal,
    is_at_least,
    is_in,
    is_more,
    is_not,
    joined,
    largest,
    mapped,
    or_else,
    put,
    smallest,
    subtracted,
    switch,
    text,
    texts,
    when_gone,
)
from resilient.backends.mongodb.waking import announcement, said
from resilient.protocols.circuit_table import TRANSITIONS
from resilient.protocols.circuits import HISTORY

__all__ = [
    "DRAWN",
    "KEPT",
    "LIVE",
    "MEMORY",
    "MOVED",
    "TIME_OVER",
    "entered",
    "is_in_state",
]

Expression = Any

MEMORY = 600.0
"""Seconds for which a circuit that is forgotten still says which generation came before."""
HISTORY_LIVES = 30 * 86_400_000_000
"""Microseconds for which the transitions are remembered, also of a circuit that is idle."""
MOST_DOUBLINGS = 64
"""Further openings in a row make an open circuit wait no longer."""

IS_KNOWN = is_more("$expires", NOW)


def _known(field: str, otherwise: Expression) -> Expression:
    return chosen(IS_KNOWN, or_else(f"${field}", otherwise), otherwise)


LIVE = put(
    at=NOW,
    known=IS_KNOWN,
    generation=or_else("$generation", 0),
    state=_known("state", "closed"),
    until=_known("until", 0),
    outcomes=_known("outcomes", ""),
    consecutive=_known("consecutive", 0),
    last_failure=_known("last_failure", None),
    last_success=_known("last_success", None),
    reason=_known("reason", ""),
    permits=_known("permits", []),
    buckets=_known("buckets", []),
    opened=_known("opened", 0),
    since=_known("since", None),
    stale=_known("stale", 0),
    breach=_known("breach", ""),
    fingerprint=_known("fingerprint", ""),
    nodes=_known("nodes", []),
    batches=_known("batches", []),
    expires=_known("expires", 0),
    history=chosen(is_more("$remembered", NOW), "$history", []),
    remembered=or_else("$remembered", 0),
    event=None,
    moved=False,
    touched=False,
    lines="",
)
"""The circuit; one that is not known is closed."""


def is_in_state(*states: str) -> Expression:
    """Whether the circuit is in one of these states."""
    return is_in("$state", list(states))


# --- a transition

HAPPENED = is_set("$event")
DRAWN = largest(added("$generation", 1), NOW)
IS_CALM = both(
    equal("$state", "closed"),
    is_set("$since"),
    is_more(subtracted(NOW, or_else("$since", NOW)), rule("calm")),
)
PAUSE = smallest(
    {
        "$multiply": [
            rule("open_for"),
            {"$pow": [rule("factor"), smallest(subtracted("$opened", 1), MOST_DOUBLINGS)]},
        ]
    },
    rule("longest"),
)
LOW_BITS = {"$mod": ["$generation", 2**31]}
CHANCE = {"$divide": [{"$mod": [{"$multiply": [LOW_BITS, 2654435761]}, 2**32]}, float(2**32)]}
"""Between 0 and 1, drawn from the generation by Knuth's multiplicative hash (The Art of Computer
Programming, volume 3, 6.4): so whoever computes it again comes to the same."""
SWAY = added(1, {"$multiply": [rule("jitter"), subtracted({"$multiply": [2, CHANCE]}, 1)]})
OPEN_TIME = {"$toLong": {"$floor": {"$multiply": [PAUSE, SWAY]}}}


def entered(condition: Expression, until: Expression) -> dict[str, Any]:
    """The stage in which the circuit begins in a state: nothing counted, no probe under way.

    `after`, `before`, `event` and `opened` are there already, and its `generation`.
    """
    left = {"$divide": [{"$max": [0, subtracted(until, NOW)]}, 1_000_000]}
    seen = ("$after", text("$generation"), text(left), text("$opened"))
    told = texts(
        *(part for each in seen for part in (each, "|")),
        or_else(argument("told"), "$event"),
        "|",
        argument("name"),
    )
    move = {
        "at": NOW,
        "before": "$state",
        "after": "$after",
        "reason": "$event",
        "generation": "$generation",
    }
    return put(
        state=changed_if(condition, "state", "$after"),
        until=changed_if(condition, "until", until),
        outcomes=changed_if(condition, "outcomes", ""),
        consecutive=changed_if(condition, "consecutive", 0),
        reason=changed_if(condition, "reason", "$event"),
        permits=changed_if(condition, "permits", []),
        buckets=changed_if(condition, "buckets", []),
        since=changed_if(condition, "since", NOW),
        breach=changed_if(condition, "breach", ""),
        nodes=changed_if(condition, "nodes", []),
        history=changed_if(condition, "history", {"$slice": [joined([move], "$history"), HISTORY]}),
        remembered=changed_if(condition, "remembered", added(NOW, HISTORY_LIVES)),
        lines=changed_if(
            condition, "lines", texts("$lines", announcement(argument("channel"), told))
        ),
        known=either("$known", condition),
        moved=either("$moved", condition),
        touched=either("$touched", condition),
        event=None,
    )


LEADS_TO = switch(
    *(
        (both(equal("$state", before.value), equal("$event", event)), after.value)
        for (before, event), after in TRANSITIONS.items()
    ),
    default=None,
)
OPENS = equal("$after", "open")
MOVED = (
    put(after=LEADS_TO),
    put(
        opened=changed_if(OPENS, "opened", added(chosen(IS_CALM, 0, "$opened"), 1)),
        generation=changed_if(HAPPENED, "generation", DRAWN),
    ),
    entered(
        HAPPENED,
        chosen(OPENS, added(NOW, largest(OPEN_TIME, argument("retry_after"))), 0),
    ),
)
"""The circuit after the transition that the event causes, if there was one."""

IS_OVER = is_at_least(NOW, "$until")
TIME_OVER = (
    put(
        event=switch(
            (is_not("$known"), None),
            (both(equal("$state", "open"), IS_OVER), "wait_elapsed"),
            (both(is_not(is_in_state("closed", "open", "half_open")), IS_OVER), "override_ended"),
            default=None,
        )
    ),
    *MOVED,
)
"""What was open, or was done by hand, for a time that is over moves on."""

BUSY_UNTIL = largest(
    NOW,
    chosen(
        equal("$permits", []),
        "$until",
        largest(mapped("$permits", f"{EACH}.until")),
    ),
)
KEPT = (
    put(
        expires=changed_if("$touched", "expires", added(BUSY_UNTIL, argument("ttl"))),
        said=said("$lines"),
    ),
    put(gone=when_gone(largest("$expires", "$remembered", NOW), MEMORY)),
)
"""A circuit that has changed is remembered anew, and tells of its transitions."""
