"""What becomes of a cache entry's document, and of a tag's, in each operation (`cache.py`).

A document holds the value of a key, and who computes it. A tag is a document of its own, with a
number: the time of its last invalidation, or less than nothing if there was none yet. An operation
on a value cannot read its tags. So a value is stored with the numbers that its tags had before it
was computed, and it is served while they have them still: what a tag has made a miss stays one,
whatever the clocks of the servers say. Only of a tag that is named with the value, and was unknown
when its computation began, the time decides: its number must not be newer than the lease.

`turn` is what the operation has come to.
"""

from __future__ import annotations

from typing import Any

from resilient.backends.mongodb.commands import compiled
from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    added,
    any_of,
    argument,
    both,
    changed_if,
    chosen,
    element,
    equal,
    is_at_least,
    is_in,
    is_more,
    is_not,
    largest,
    let,
    or_else,
    put,
    smallest,
    subtracted,
    switch,
    texts,
    when_gone,
)
from resilient.backends.mongodb.waking import announcement, said, waited_for, wake_ups

__all__ = [
    "ABANDON",
    "BEGIN_TAG",
    "CLEAR",
    "DELETE",
    "EXPIRE",
    "FETCH",
    "FILL",
    "INVALIDATE",
    "RENEW",
    "SET",
]

Expression = Any

MEMORY = 60.0
"""Seconds for which a document without a value still says which lease came before."""
SAME_MILLISECOND = 999
"""The server's clock has milliseconds: an invalidation is later than any lease of its own."""

OWNER, LEASE = argument("owner"), argument("lease")
HAS_VALUE = is_more("$kept", NOW)


def _kept(field: str, otherwise: Expression) -> Expression:
    return chosen(HAS_VALUE, or_else(f"${field}", otherwise), otherwise)


LIVE = put(
    at=NOW,
    value=_kept("value", None),
    born=_kept("born", 0),
    by=_kept("by", ""),
    served=_kept("served", 0),
    fresh=_kept("fresh", 0),
    kept=_kept("kept", 0),
    tags=_kept("tags", []),
    seen=_kept("seen", []),
    fence=or_else("$fence", 0),
    owner=or_else("$owner", ""),
    until=or_else("$until", 0),
    lease_tags=or_else("$lease_tags", []),
    lease_seen=or_else("$lease_seen", []),
    queue=or_else("$queue", []),
)
"""The entry: `by` whom the value was computed, and which `owner` has the lease of the next one."""

GONE = put(gone=when_gone(largest("$kept", "$until", NOW), MEMORY))

IS_HELD = both(equal("$owner", OWNER), is_more("$until", NOW))
NO_VALUE: dict[str, Expression] = {
    "value": None,
    **dict.fromkeys(("born", "served", "fresh", "kept"), 0),
    "tags": [],
    "seen": [],
}
NOTHING = {**NO_VALUE, "by": ""}


def _is(*turns: str) -> Expression:
    return is_in("$turn", list(turns))


NAME = element(argument("tags"), EACH)
NUMBER = element(argument("numbers"), EACH)
AT_LEASE = {"$indexOfArray": ["$lease_tags", "$$name"]}
IS_OUTDATED = any_of(
    {"$range": [0, {"$size": argument("tags")}]},
    let(
        {"name": NAME, "number": NUMBER},
        let(
            {"place": AT_LEASE},
            chosen(
                is_at_least("$$place", 0),
                is_not(equal(element("$lease_seen", largest("$$place", 0)), "$$number")),
                is_more("$$number", "$fence"),
            ),
        ),
    ),
)
"""Whether one of the tags was invalidated since the lease began."""

# --- computing

GRANTED = _is("granted")
DROPPED = both(GRANTED, is_not(argument("valid")))
FETCH = compiled(
    LIVE,
    put(
        turn=switch(
            (is_not(equal("$born", argument("born"))), "changed"),
            (
                both(is_more("$until", NOW), is_not(IS_OUTDATED)),
                chosen(equal("$owner", OWNER), "mine", "busy"),
            ),
            default="granted",
        )
    ),
    put(
        **{field: changed_if(DROPPED, field, nothing) for field, nothing in NO_VALUE.items()},
        by=changed_if(GRANTED, "by", ""),  # whoever computed it has nothing here now
        owner=changed_if(GRANTED, "owner", OWNER),
        fence=changed_if(GRANTED, "fence", largest(added("$fence", 1), NOW)),
        until=changed_if(_is("granted", "mine"), "until", added(NOW, LEASE)),
        lease_tags=changed_if(GRANTED, "lease_tags", argument("tags")),
        lease_seen=changed_if(GRANTED, "lease_seen", argument("numbers")),
        queue=changed_if(_is("busy"), "queue", waited_for("$queue", argument("waiter"))),
    ),
    GONE,
)

RENEW = compiled(
    LIVE, put(turn=IS_HELD), put(until=changed_if("$turn", "until", added(NOW, LEASE))), GONE
)

ENDED = {"owner": "", "until": 0, "lease_tags": [], "lease_seen": [], "queue": []}
TIMES = {name: added(NOW, argument(name)) for name in ("served", "fresh", "kept")}
FILLS, ENDS = _is("filled"), _is("filled", "outdated")
FILL = compiled(
    LIVE,
    put(
        turn=switch(
            (both(IS_HELD, IS_OUTDATED), "outdated"),
            (IS_HELD, "filled"),
            (both(equal("$by", OWNER), HAS_VALUE), "again"),
            default="refused",
        )
    ),
    put(
        value=changed_if(FILLS, "value", argument("value")),
        born=changed_if(FILLS, "born", "$fence"),
        by=changed_if(FILLS, "by", OWNER),
        tags=changed_if(FILLS, "tags", argument("tags")),
        seen=changed_if(FILLS, "seen", argument("numbers")),
        **{name: changed_if(FILLS, name, time) for name, time in TIMES.items()},
        **{field: changed_if(ENDS, field, nothing) for field, nothing in ENDED.items()},
        said=said(chosen(ENDS, wake_ups("$queue"), "")),
    ),
    GONE,
)

ABANDON = compiled(
    LIVE,
    # Who has abandoned it already is told the same again.
    put(
        turn=both(
            is_not(equal(OWNER, "")),
            equal("$owner", OWNER),
            is_in(True, [is_more("$until", NOW), equal("$until", 0)]),
        )
    ),
    put(
        until=changed_if("$turn", "until", 0),
        said=said(chosen("$turn", wake_ups("$queue"), "")),
        queue=changed_if("$turn", "queue", []),
    ),
    GONE,
)

# --- by hand

CHANGED = announcement(argument("channel"), argument("message"))

SET = compiled(
    LIVE,
    put(
        fence=largest(added("$fence", 1), NOW),
        said=said(
            # What replaces a value removes it, and that is announced.
            texts(wake_ups("$queue"), chosen(HAS_VALUE, CHANGED, ""))
        ),
    ),
    put(
        value=argument("value"),
        born="$fence",
        by="",
        tags=argument("tags"),
        seen=argument("numbers"),
        **TIMES,
        **ENDED,
    ),
    GONE,
)

WAS = put(
    turn=is_more("$served", NOW),
    was_tags="$tags",
    was_seen="$seen",
    said=said(texts(wake_ups("$queue"), CHANGED)),
)

DELETE = compiled(LIVE, WAS, put(**NOTHING, **ENDED), GONE)

EXPIRE = compiled(
    LIVE,
    WAS,
    put(served=smallest("$served", NOW), fresh=smallest("$fresh", NOW), by="", **ENDED),
    GONE,
)

# --- what has no arguments of its own for each document


def _escaped(message: Expression) -> Expression:
    """As `waking.escaped` does."""
    for find, replacement in (("%", "%25"), ("\n", "%0A")):
        message = {"$replaceAll": {"input": message, "find": find, "replacement": replacement}}
    return message


KEY = _escaped({"$substrCP": ["$_id", argument("skip"), {"$strLenCP": "$_id"}]})
"""The key of a document: its name after the prefix."""

CLEAR = compiled(
    LIVE,
    put(
        said=said(
            texts(
                wake_ups("$queue"),
                chosen(HAS_VALUE, announcement(argument("channel"), KEY), ""),
            )
        ),
    ),
    put(**NOTHING, **ENDED),
    GONE,
)

INVALIDATE = compiled(
    put(
        number=largest(added(or_else("$number", 0), 1), added(NOW, SAME_MILLISECOND)),
        expires=largest(or_else("$expires", 0), added(NOW, argument("keep"))),
        said=said(announcement(argument("channel"), texts("#", KEY))),
    ),
    put(gone=when_gone("$expires")),
)

BEGIN_TAG = compiled(
    put(
        number=chosen(is_more("$expires", NOW), "$number", subtracted(0, NOW)),
        expires=largest(or_else("$expires", 0), added(NOW, argument("keep"))),
    ),
    put(gone=when_gone("$expires")),
)
"""A tag that is there lives on; one that is not begins, under a number that no other ever had."""
