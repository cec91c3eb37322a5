"""What becomes of a job's document when checkpoints and steps are kept (`job_document.py`)."""

from __future__ import annotations

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
    put,
    subtracted,
    switch,
)
from resilient.backends.mongodb.job_document import (
    FENCE,
    GONE,
    IS_LIVE_RUN,
    IS_RUNNER,
    LEASE,
    LIVE,
    TTL,
    came_to,
    data_of,
    kept_for,
    places,
    pointed_at,
    pointing,
)

__all__ = [
    "KEPT",
    "SAVE",
    "STEP",
    "VOLUME",
]

BY_HAND, NEXT_ONE = equal(FENCE, 0), equal(argument("sequence"), -1)
SAVES = came_to("saved")
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
            places(data_of(filtered("$saved", is_not(is_more(f"{EACH}.sequence", OLDEST))))),
            [],
        ),
        parts_until=pointing(SAVES, argument("data")),
        last=changed_if(SAVES, "last", NUMBER),
        saved_by=changed_if(SAVES, "saved_by", FENCE),
        token=changed_if(SAVES, "token", argument("token")),
        until=changed_if(both(SAVES, is_more(LEASE, 0)), "until", added(NOW, LEASE)),
        life=changed_if(
            both(SAVES, equal("$state", "none")), "life", largest(added("$life", 1), NOW)
        ),
        state=changed_if(both(SAVES, equal("$state", "none")), "state", "idle"),
        **kept_for(SAVES, largest(TTL, LEASE)),
    ),
    pointed_at(argument("data")),
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
        parts_until=pointing("$adds", argument("volume")),
        until=changed_if(both("$turn", is_more(LEASE, 0)), "until", added(NOW, LEASE)),
        **kept_for(both("$turn", is_more(LEASE, 0)), largest(TTL, LEASE)),
    ),
    pointed_at(argument("volume")),
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
        parts_until=pointing("$turn", argument("volume")),
        weight=changed_if("$turn", "weight", folded(LOOSE, 0, added(VALUE, f"{THIS}.weight"))),
        steps=changed_if("$turn", "steps", LOOSE),
    ),
    pointed_at(argument("volume")),
)
"""Steps of the document become a volume beside it."""

KEPT = compiled(put(parts_until=added(NOW, argument("keep"))))
"""All that the document points at is there until then at least."""
