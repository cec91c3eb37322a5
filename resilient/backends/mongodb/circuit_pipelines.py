"""What becomes of a circuit's document in each operation (`circuits.py`).

First it is brought to what the time has made of it; then the operation itself follows, which may be
an event too (`circuit_moves.py`).
"""

from __future__ import annotations

from typing import Any

from resilient.backends.mongodb.circuit_moves import (
    DRAWN,
    KEPT,
    LIVE,
    MEMORY,
    MOVED,
    TIME_OVER,
    entered,
    is_in_state,
)
from resilient.backends.mongodb.circuit_windows import (
    after_counted,
    after_timed,
    failures_in,
    has_failed,
    is_set,
    rule,
    share,
    slow_in,
    succeeded,
)
from resilient.backends.mongodb.commands import Pipeline, compiled
from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    added,
    any_of,
    argument,
    both,
    changed_if,
    chosen,
    counted,
    either,
    equal,
    filtered,
    is_at_least,
    is_in,
    is_more,
    is_not,
    joined,
    largest,
    or_else,
    put,
    subtracted,
    switch,
    texts,
    when_gone,
)

__all__ = ["ADMIT", "DELETE", "FORCE", "RECORD_COUNTED", "RECORD_TIMED", "REPORT", "RESTORE"]

Expression = Any

NODE_LIVES = 60_000_000
"""Microseconds for which what a node has said counts, at least."""

# --- outcomes

IS_PASSING = is_not(is_in_state("open", "half_open", "forced_open"))
NODE = argument("node")
LIVES = largest(NODE_LIVES, or_else(rule("seconds"), 0), {"$multiply": [2, rule("open_for")]})
SAID = {"name": NODE, "until": added(NOW, LIVES), "breached": argument("breached")}
OTHERS = filtered(
    "$nodes", both(is_not(equal(f"{EACH}.name", NODE)), is_more(f"{EACH}.until", NOW))
)
BAD = counted(filtered("$nodes", f"{EACH}.breached"))
QUORUM = largest(
    rule("quorum"), {"$ceil": {"$multiply": [rule("quorum_share"), counted("$nodes")]}}
)
IS_REPEATED = is_in(argument("batch"), "$batches")
BATCHES = 64
"""How many batches are remembered, so that none is counted twice whose answer was lost."""

USED = {"$substrBytes": [argument("outcomes"), 0, or_else("$folded.used", 0)]}
MOMENT = subtracted(NOW, argument("age"))


def _has_any(outcomes: str) -> Expression:
    return {"$regexMatch": {"input": USED, "regex": f"[{outcomes}]"}}


COUNTS = equal("$turn", "counts")
RECORDS = both(COUNTS, equal("$event", None), is_not(equal(argument("outcomes"), "")))

WHOSE_TURN: tuple[Expression, ...] = (
    put(
        turn=chosen(
            either(
                IS_REPEATED,
                both(is_not("$known"), argument("admitted")),  # of one that was lost
            ),
            "nothing",
            "counts",
        ),
        is_theirs=either(
            is_not(argument("admitted")), equal("$generation", argument("generation"))
        ),
        fingerprint_before="$fingerprint",
    ),
    put(generation=changed_if(both(is_not("$known"), COUNTS), "generation", DRAWN)),
    put(known=either("$known", COUNTS)),
    *TIME_OVER,
    put(
        turn=switch(
            (equal("$turn", "nothing"), "nothing"),
            (is_not(both(IS_PASSING, "$is_theirs")), "stale"),
            (is_in_state("disabled"), "disabled"),
            default="counts",
        ),
    ),
)
"""What becomes of the batch: it `counts`, or why not."""

POLLED: tuple[Expression, ...] = (
    put(
        polls=both(COUNTS, is_set(rule("quorum")), is_not(equal(NODE, ""))),
        batches=changed_if(
            is_not(equal("$turn", "nothing")),
            "batches",
            {"$slice": [joined("$batches", [argument("batch")]), -BATCHES]},
        ),
        touched=either("$touched", is_not(equal("$turn", "nothing"))),
    ),
    put(nodes=changed_if("$polls", "nodes", joined(OTHERS, [SAID]))),
    put(
        event=chosen(
            both("$polls", is_in_state("closed"), is_at_least(BAD, QUORUM)), "quorum", None
        )
    ),
)
"""What this node says of the service, and whether enough of them say that it is bad."""


def _counted(folded: Expression, window: dict[str, Expression]) -> tuple[Expression, ...]:
    """The outcomes in the window, which may open the circuit."""
    return (
        put(folded=chosen(RECORDS, folded, None)),
        put(
            **{name: changed_if(RECORDS, name, value) for name, value in window.items()},
            consecutive=changed_if(RECORDS, "consecutive", "$folded.consecutive"),
            breach=changed_if(
                RECORDS, "breach", chosen(is_in_state("closed"), "", "$folded.breach")
            ),
            last_failure=changed_if(both(RECORDS, _has_any("13f")), "last_failure", MOMENT),
            last_success=changed_if(both(RECORDS, _has_any("02o")), "last_success", MOMENT),
            stale=changed_if(equal("$turn", "stale"), "stale", added("$stale", argument("calls"))),
            event=chosen(RECORDS, chosen("$folded.opens", "$folded.breach", None), "$event"),
        ),
    )


def _recorded(folded: Expression, window: dict[str, Expression]) -> Pipeline:
    return compiled(
        LIVE,
        *WHOSE_TURN,
        *POLLED,
        *_counted(folded, window),
        *MOVED,
        put(
            fingerprint=changed_if(
                is_in("$turn", ["stale", "counts"]), "fingerprint", argument("fingerprint")
            )
        ),
        *KEPT,
        {"$unset": "folded"},
    )


RECORD_COUNTED = _recorded(after_counted, {"outcomes": "$folded.ring", "buckets": []})
RECORD_TIMED = _recorded(
    after_timed,
    {"outcomes": "", "buckets": filtered("$folded.buckets", is_more(f"{EACH}.calls", 0))},
)

# --- probes

CALLS = {"$strLenCP": "$outcomes"}
FAILURES = failures_in("$outcomes")
FAILING = or_else(
    rule("failure_rate"),
    chosen(both(equal(rule("consecutive"), None), is_set(rule("slow_rate"))), 2, share(1, CALLS)),
)
"""The share of failures at which a round has failed: without a rate one is too many."""
IS_TOO_SLOW = both(
    is_set(rule("slow_rate")),
    is_at_least(share(slow_in("$outcomes"), CALLS), rule("slow_rate")),
)
JUDGEMENT = switch(
    (both(rule("all_must_pass"), is_more(FAILURES, 0)), "probes_failed"),
    (is_more(rule("permits"), CALLS), None),
    (either(IS_TOO_SLOW, is_at_least(share(FAILURES, CALLS), FAILING)), "probes_failed"),
    default="probes_passed",
)
"""The round is judged when all of its probes have ended, or one too many."""

TOKEN = argument("token")
IS_MINE = both(equal(f"{EACH}.token", TOKEN), is_more(f"{EACH}.until", NOW))
LIVE_PERMITS = filtered("$permits", is_more(f"{EACH}.until", NOW))
PROBING = counted("$permits")
HAS_ROOM = both(
    is_more(rule("permits"), added(PROBING, CALLS)),
    either(equal(rule("concurrency"), None), is_more(rule("concurrency"), PROBING)),
)

ADMIT = compiled(
    LIVE,
    *TIME_OVER,
    # The permits of probes whose lease ran out are free again.
    put(permits=LIVE_PERMITS, touched=either("$touched", is_not(equal(LIVE_PERMITS, "$permits")))),
    put(
        turn=switch(
            (is_not(equal("$state", "half_open")), chosen(IS_PASSING, "allowed", "refused")),
            (any_of("$permits", equal(f"{EACH}.token", TOKEN)), "probe"),
            (HAS_ROOM, "new probe"),
            # All have ended, under rules that asked for more of them.
            (equal("$permits", []), "judged"),
            default="refused",
        )
    ),
    put(
        permits=changed_if(
            equal("$turn", "new probe"),
            "permits",
            joined("$permits", [{"token": TOKEN, "until": added(NOW, rule("lease"))}]),
        ),
        touched=either("$touched", equal("$turn", "new probe")),
        event=chosen(equal("$turn", "judged"), JUDGEMENT, None),
    ),
    *MOVED,
    put(
        turn=changed_if(equal("$turn", "judged"), "turn", chosen(IS_PASSING, "allowed", "refused"))
    ),
    *KEPT,
)

OUTCOME = argument("outcome")
REPORTS = both("$is_probe", is_not(equal(OUTCOME, "-")))
REPORT = compiled(
    LIVE,
    put(
        is_stale=both("$known", is_not(equal("$generation", argument("generation")))),
        is_probe=both(
            "$known",
            equal("$generation", argument("generation")),
            any_of("$permits", IS_MINE),
        ),
    ),
    put(
        stale=changed_if("$is_stale", "stale", added("$stale", argument("calls"))),
        touched=either("$is_stale", "$is_probe"),
        permits=changed_if(
            "$is_probe", "permits", filtered("$permits", is_not(equal(f"{EACH}.token", TOKEN)))
        ),
        outcomes=changed_if(REPORTS, "outcomes", texts("$outcomes", OUTCOME)),
        consecutive=changed_if(
            REPORTS,
            "consecutive",
            chosen(has_failed(OUTCOME), added("$consecutive", 1), 0),
        ),
        last_failure=changed_if(both(REPORTS, has_failed(OUTCOME)), "last_failure", NOW),
        last_success=changed_if(both(REPORTS, succeeded(OUTCOME)), "last_success", NOW),
    ),
    put(event=chosen(REPORTS, JUDGEMENT, None)),
    *MOVED,
    *KEPT,
)

# --- by hand


def _by_hand(*before: dict[str, Any], when: Expression) -> Pipeline:
    return compiled(
        LIVE,
        *before,
        put(
            enters=when,
            after=argument("state"),
            event=argument("reason"),
        ),
        put(
            opened=changed_if("$enters", "opened", argument("opened")),
            generation=changed_if("$enters", "generation", DRAWN),
        ),
        entered("$enters", chosen(argument("has_end"), added(NOW, argument("lasts")), 0)),
        *KEPT,
    )


FORCE = _by_hand(when=True)
RESTORE = _by_hand(
    when=is_not(both("$known", is_set("$since"), is_at_least("$generation", argument("seen"))))
)

DELETE = compiled(
    LIVE,
    put(turn="$known", known=False, expires=0, remembered=0, history=[], since=None),
    put(gone=when_gone(NOW, MEMORY)),
)
