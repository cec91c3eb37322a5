"""What becomes of a job's document in each operation (`checkpoints.py`).

The document holds all of the job that is small: who runs it, its latest checkpoints, the steps
since the last *volume*. What is large, and volumes, which are some dozens of steps each, lie beside
it (`parts.py`): `{"at", "size"}` says where. `dropped` tells what it points at no longer.

`turn` is what the operation has come to.
"""

from __future__ import annotations

from typing import Any

from resilient.backends.mongodb.commands import compiled
from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    THIS,
    VALUE,
    added,
    argument,
    both,
    changed_if,
    chosen,
    either,
    element,
    equal,
    filtered,
    folded,
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
    when_gone,
)
from resilient.backends.mongodb.waking import said, waited_for, wake_ups

__all__ = [
    "ALL_PLACES",
    "CANCEL",
    "DELETE",
    "FINISH",
    "KEPT",
    "RENEW",
    "REWIND",
    "SAVE",
    "START",
    "STEP",
    "STOP",
    "TRIM",
    "VOLUME",
]

Expression = Any

MEMORY = 600.0
"""Seconds for which an expired job still says which fence and which life came before."""

OWNER, FENCE, LEASE, TTL = (argument(name) for name in ("owner", "fence", "lease", "ttl"))
IS_ALIVE = is_more("$expires", NOW)


def _alive(field: str, otherwise: Expression) -> Expression:
    return chosen(IS_ALIVE, or_else(f"${field}", otherwise), otherwise)


LIVE = put(
    at=NOW,
    fence=or_else("$fence", 0),
    life=or_else("$life", 0),
    state=_alive("state", "none"),
    owner=_alive("owner", ""),
    attempt=_alive("attempt", 0),
    until=_alive("until", 0),
    ttl=_alive("ttl", 0),
    expires=_alive("expires", 0),
    version=_alive("version", ""),
    previous=_alive("previous", ""),
    fingerprint=_alive("fingerprint", ""),
    saved=_alive("saved", []),
    last=_alive("last", 0),
    saved_by=_alive("saved_by", 0),
    token=_alive("token", ""),
    steps=_alive("steps", []),
    weight=_alive("weight", 0),
    volumes=_alive("volumes", []),
    parts_until=_alive("parts_until", None),
    result=_alive("result", None),
    queue=_alive("queue", []),
    cancelled=_alive("cancelled", False),
    dropped=[],
)
"""The job, of which only fence and life are left when it has expired."""

GONE = put(gone=when_gone(largest("$expires", NOW), MEMORY))

IS_RUNNING = equal("$state", "running")
IS_LIVE_RUN = both(IS_RUNNING, is_more("$until", NOW))
IS_RUNNER = both(IS_RUNNING, equal("$fence", FENCE))


def _places(values: Expression) -> Expression:
    """Of these values, where those are that lie beside the document."""
    return filtered(values, equal({"$type": EACH}, "object"))


def _data_of(saved: Expression) -> Expression:
    return mapped(saved, f"{EACH}.data")


def _is(*turns: str) -> Expression:
    return is_in("$turn", list(turns))


ALL_PLACES = joined(_places(_data_of("$saved")), _places(["$result"]), "$volumes")


def _pointed_at(stored: Expression) -> dict[str, Any]:
    """The stage that tells whether the document points at a value now: by this command, or by the
    same one whose answer was lost.
    """
    return put(pointed=is_in(f"{stored}.at", mapped(ALL_PLACES, f"{EACH}.at")))


def _kept(turn: Expression, lives: Expression) -> dict[str, Expression]:
    """The fields by which the job is kept for so long from now."""
    return {
        "ttl": chosen(turn, lives, "$ttl"),
        "expires": chosen(turn, added(NOW, lives), "$expires"),
    }


def _pointing(turn: Expression, stored: Expression) -> Expression:
    """Until when all that is pointed at is there, when the document points at this value too."""
    new = added(NOW, argument("keep"))
    until = smallest(or_else("$parts_until", new), new)
    return chosen(both(turn, equal({"$type": stored}, "object")), until, "$parts_until")


# --- running

TOOK, BEGAN = _is("begun", "next", "mine"), _is("begun")
NEW_RUN = _is("begun", "next")
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
        attempt=switch((BEGAN, 1), (_is("next"), added("$attempt", 1)), default="$attempt"),
        previous=switch((BEGAN, ""), (_is("next"), "$version"), default="$previous"),
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
        last=changed_if(either(BEGAN, both(_is("next"), equal("$saved", []))), "last", 0),
        saved_by=changed_if(BEGAN, "saved_by", 0),
        steps=changed_if(BEGAN, "steps", []),
        weight=changed_if(BEGAN, "weight", 0),
        volumes=changed_if(BEGAN, "volumes", []),
        parts_until=changed_if(BEGAN, "parts_until", None),
        result=changed_if(NEW_RUN, "result", None),
        queue=changed_if(_is("running"), "queue", waited_for("$queue", argument("waiter"))),
        **_kept(TOOK, largest(TTL, LEASE)),
    ),
    GONE,
)

DONE = equal("$turn", True)

RENEW = compiled(
    LIVE,
    put(turn=both(IS_RUNNING, equal("$owner", OWNER))),
    put(until=changed_if(DONE, "until", added(NOW, LEASE)), **_kept(DONE, largest("$ttl", LEASE))),
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
        parts_until=_pointing("$ends", argument("result")),
        said=said(chosen("$ends", wake_ups("$queue"), "")),
        queue=changed_if("$ends", "queue", []),
        **_kept("$ends", TTL),
    ),
    _pointed_at(argument("result")),
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
        **_kept("$ends", "$ttl"),
    ),
    GONE,
)

# --- saving

BY_HAND, NEXT_ONE = equal(FENCE, 0), equal(argument("sequence"), -1)
SAVES = _is("saved")
NUMBER = added("$last", 1)
OLDEST = subtracted(NUMBER, argument("keep_last"))
"""Of the checkpoints up to this number, none is kept."""
ENTRY = {
    "sequence": NUMBER,
    "at": NOW,
    "progress": argument("progress"),
    "eta": argument("eta"),
    "label": argument("label"),
}

SAVE = compiled(
    LIVE,
    put(
        turn=switch(
            (chosen(BY_HAND, IS_LIVE_RUN, is_not(IS_RUNNER)), "refused"),
            (
                chosen(
                    NEXT_ONE,
                    equal(argument("token"), "$token"),
                    both(equal(argument("sequence"), "$last"), equal(FENCE, "$saved_by")),
                ),
                "again",
            ),
            (either(NEXT_ONE, equal(argument("sequence"), NUMBER)), "saved"),
            default="refused",
        )
    ),
    put(
        answer=chosen(
            SAVES,
            ENTRY,
            element(filtered("$saved", equal(f"{EACH}.sequence", "$last")), 0),
        ),
        saved=changed_if(
            SAVES,
            "saved",
            joined(
                filtered("$saved", is_more(f"{EACH}.sequence", OLDEST)),
                [{**ENTRY, "data": argument("data")}],
            ),
        ),
        dropped=chosen(
            SAVES,
            _places(_data_of(filtered("$saved", is_not(is_more(f"{EACH}.sequence", OLDEST))))),
            [],
        ),
        parts_until=_pointing(SAVES, argument("data")),
        last=changed_if(SAVES, "last", NUMBER),
        saved_by=changed_if(SAVES, "saved_by", FENCE),
        token=changed_if(SAVES, "token", argument("token")),
        until=changed_if(both(SAVES, is_more(LEASE, 0)), "until", added(NOW, LEASE)),
        life=changed_if(
            both(SAVES, equal("$state", "none")), "life", largest(added("$life", 1), NOW)
        ),
        state=changed_if(both(SAVES, equal("$state", "none")), "state", "idle"),
        **_kept(SAVES, largest(TTL, LEASE)),
    ),
    _pointed_at(argument("data")),
    GONE,
)

NAMES = mapped("$steps", f"{EACH}.name")
IS_NEW = is_not(is_in(argument("name"), NAMES))
IS_LARGE = equal({"$type": argument("volume")}, "object")

STEP = compiled(
    LIVE,
    put(turn=IS_RUNNER),
    put(adds=both("$turn", IS_NEW)),
    put(
        steps=changed_if(
            both("$adds", is_not(IS_LARGE)),
            "steps",
            joined(
                "$steps",
                [
                    {
                        "name": argument("name"),
                        "value": argument("value"),
                        "weight": argument("weight"),
                    }
                ],
            ),
        ),
        weight=changed_if(
            both("$adds", is_not(IS_LARGE)), "weight", added("$weight", argument("weight"))
        ),
        volumes=changed_if(
            both("$adds", IS_LARGE), "volumes", joined("$volumes", [argument("volume")])
        ),
        parts_until=_pointing("$adds", argument("volume")),
        until=changed_if(both("$turn", is_more(LEASE, 0)), "until", added(NOW, LEASE)),
        **_kept(both("$turn", is_more(LEASE, 0)), largest(TTL, LEASE)),
    ),
    _pointed_at(argument("volume")),
    GONE,
)

IS_BOUND = is_in(f"{EACH}.name", argument("names"))
LOOSE = filtered("$steps", is_not(IS_BOUND))

VOLUME = compiled(
    LIVE,
    # Whoever else has made a volume of these steps was first.
    put(turn=both(IS_RUNNER, is_in(element(argument("names"), 0), NAMES))),
    put(
        volumes=changed_if("$turn", "volumes", joined("$volumes", [argument("volume")])),
        parts_until=_pointing("$turn", argument("volume")),
        weight=changed_if("$turn", "weight", folded(LOOSE, 0, added(VALUE, f"{THIS}.weight"))),
        steps=changed_if("$turn", "steps", LOOSE),
    ),
    _pointed_at(argument("volume")),
)
"""Steps of the document become a volume beside it."""

KEPT = compiled(put(parts_until=added(NOW, argument("keep"))))
"""All that the document points at is there until then at least."""

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
            joined(_places(_data_of(filtered("$saved", is_not(IS_BEFORE)))), _places(["$result"])),
            [],
        ),
        saved=changed_if("$turn", "saved", filtered("$saved", IS_BEFORE)),
        last=changed_if("$turn", "last", argument("sequence")),
        result=changed_if("$turn", "result", None),
        **_kept("$turn", "$ttl"),
    ),
    GONE,
)

CUT = subtracted("$last", argument("keep_last"))
IS_CUT = is_not(is_more(f"{EACH}.sequence", CUT))
TRIM = compiled(
    LIVE,
    put(
        turn={"$size": filtered("$saved", IS_CUT)},
        dropped=_places(_data_of(filtered("$saved", IS_CUT))),
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
