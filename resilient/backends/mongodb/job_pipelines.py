"""What becomes of a job's document when it is run, and by hand (`job_document.py`)."""

from __future__ import annotations

from resilient.backends.mongodb.commands import compiled
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
    filtered,
    is_in,
    is_more,
    is_not,
    joined,
    largest,
    mapped,
    put,
    subtracted,
    switch,
)
from resilient.backends.mongodb.job_document import (
    ALL_PLACES,
    FENCE,
    GONE,
    IS_LIVE_RUN,
    IS_RUNNING,
    LEASE,
    LIVE,
    OWNER,
    TTL,
    came_to,
    data_of,
    kept_for,
    places,
    pointed_at,
    pointing,
)
from resilient.backends.mongodb.waking import (
    said,
    waited_for,
    wake_ups,
)

__all__ = [
    "CANCEL",
    "DELETE",
    "FINISH",
    "RENEW",
    "REWIND",
    "START",
    "STOP",
    "TRIM",
]

# --- running

TOOK, BEGAN = came_to("begun", "next", "mine"), came_to("begun")
NEW_RUN = came_to("begun", "next")
WAS_REQUESTED = both(is_not(equal(argument("fingerprint"), "")), is_not(equal("$fingerprint", "")))

START = compiled(
    LIVE,
    put(
        turn=switch(
            (
                both(WAS_REQUESTED, is_not(equal(argument("fingerprint"), "$fingerprint"))),
                "differ",
            ),
            (both(equal("$state", "finished"), is_not(argument("rerun"))), "finished"),
            (both(IS_RUNNING, equal("$owner", OWNER)), "mine"),
            (IS_LIVE_RUN, "running"),
            (is_in("$state", ["none", "finished"]), "begun"),
            default="next",
        )
    ),
    put(
        state=changed_if(TOOK, "state", "running"),
        owner=changed_if(TOOK, "owner", OWNER),
        until=changed_if(TOOK, "until", added(NOW, LEASE)),
        fence=changed_if(NEW_RUN, "fence", largest(added("$fence", 1), NOW)),
        life=changed_if(BEGAN, "life", largest(added("$life", 1), NOW)),
        attempt=switch((BEGAN, 1), (came_to("next"), added("$attempt", 1)), default="$attempt"),
        previous=switch((BEGAN, ""), (came_to("next"), "$version"), default="$previous"),
        version=changed_if(NEW_RUN, "version", argument("version")),
        fingerprint=changed_if(
            both(NEW_RUN, is_not(equal(argument("fingerprint"), ""))),
            "fingerprint",
            argument("fingerprint"),
        ),
        cancelled=changed_if(NEW_RUN, "cancelled", False),
        dropped=chosen(BEGAN, ALL_PLACES, []),
        saved=changed_if(BEGAN, "saved", []),
        # With nothing to go on from, the numbers begin anew.
        last=changed_if(either(BEGAN, both(came_to("next"), equal("$saved", []))), "last", 0),
        saved_by=changed_if(BEGAN, "saved_by", 0),
        steps=changed_if(BEGAN, "steps", []),
        weight=changed_if(BEGAN, "weight", 0),
        volumes=changed_if(BEGAN, "volumes", []),
        parts_until=changed_if(BEGAN, "parts_until", None),
        result=changed_if(NEW_RUN, "result", None),
        queue=changed_if(came_to("running"), "queue", waited_for("$queue", argument("waiter"))),
        **kept_for(TOOK, largest(TTL, LEASE)),
    ),
    GONE,
)

DONE = equal("$turn", True)

RENEW = compiled(
    LIVE,
    put(turn=both(IS_RUNNING, equal("$owner", OWNER))),
    put(
        until=changed_if(DONE, "until", added(NOW, LEASE)), **kept_for(DONE, largest("$ttl", LEASE))
    ),
    GONE,
)

FINISH = compiled(
    LIVE,
    put(turn=both(equal("$fence", FENCE), is_in("$state", ["running", "finished"]))),
    put(ends=both("$turn", IS_RUNNING)),
    put(
        state=changed_if("$ends", "state", "finished"),
        until=changed_if("$ends", "until", 0),
        result=changed_if("$ends", "result", argument("result")),
        parts_until=pointing("$ends", argument("result")),
        said=said(chosen("$ends", wake_ups("$queue"), "")),
        queue=changed_if("$ends", "queue", []),
        **kept_for("$ends", TTL),
    ),
    pointed_at(argument("result")),
    GONE,
)

STOP = compiled(
    LIVE,
    put(turn=both(equal("$owner", OWNER), is_in("$state", ["running", "idle"]))),
    put(ends=both("$turn", IS_RUNNING)),
    put(
        state=changed_if("$ends", "state", "idle"),
        until=changed_if("$ends", "until", 0),
        said=said(chosen("$ends", wake_ups("$queue"), "")),
        queue=changed_if("$ends", "queue", []),
        **kept_for("$ends", "$ttl"),
    ),
    GONE,
)

# --- by hand

CANCEL = compiled(
    LIVE, put(turn=IS_LIVE_RUN), put(cancelled=changed_if("$turn", "cancelled", True)), GONE
)

IS_BEFORE = is_not(is_more(f"{EACH}.sequence", argument("sequence")))
REWIND = compiled(
    LIVE,
    put(
        turn=both(
            is_not(IS_LIVE_RUN),
            is_in(argument("sequence"), mapped("$saved", f"{EACH}.sequence")),
        )
    ),
    put(
        state=changed_if("$turn", "state", "idle"),
        until=changed_if("$turn", "until", 0),
        dropped=chosen(
            "$turn",
            joined(places(data_of(filtered("$saved", is_not(IS_BEFORE)))), places(["$result"])),
            [],
        ),
        saved=changed_if("$turn", "saved", filtered("$saved", IS_BEFORE)),
        last=changed_if("$turn", "last", argument("sequence")),
        result=changed_if("$turn", "result", None),
        **kept_for("$turn", "$ttl"),
    ),
    GONE,
)

CUT = subtracted("$last", argument("keep_last"))
IS_CUT = is_not(is_more(f"{EACH}.sequence", CUT))
TRIM = compiled(
    LIVE,
    put(
        turn={"$size": filtered("$saved", IS_CUT)},
        dropped=places(data_of(filtered("$saved", IS_CUT))),
        saved=filtered("$saved", is_not(IS_CUT)),
    ),
    GONE,
)

DELETE = compiled(
    LIVE,
    put(
        turn=is_not(equal("$state", "none")),
        dropped=ALL_PLACES,
        said=said(wake_ups("$queue")),
        state="none",
        owner="",
        expires=0,
        saved=[],
        steps=[],
        volumes=[],
        result=None,
        queue=[],
    ),
    GONE,
)
