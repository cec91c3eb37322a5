"""What becomes of a lock's document, operation by operation.

A lock has a fence, the newest one; `holds`, who hold it; `released`, who released it last; `lost`,
the fences of the holds that nobody shared and that were lost, of which the first stands for all
that is not larger; and a `queue` of those who wait, with everything that is needed to hand it over
to them. What only a pipeline needs (`mine`, `won`, ...) it removes again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilient.backends.mongodb.commands import Pipeline, compiled
from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    THIS,
    VALUE,
    added,
    argument,
    both,
    chosen,
    counted,
    either,
    equal,
    filtered,
    first,
    folded,
    is_at_least,
    is_in,
    is_more,
    is_not,
    joined,
    largest,
    last,
    let,
    mapped,
    merged,
    or_else,
    put,
    smallest,
    subtracted,
    switch,
    text,
    texts,
    unset,
    when_gone,
)
from resilient.backends.mongodb.waking import LIMIT, is_there, said
from resilient.protocols.locks import HANDED_OVER, LOSSES_KNOWN

__all__ = [
    "ACQUIRE",
    "FORCE_RELEASE",
    "NOTED",
    "RELEASE",
    "RENEW",
    "TOUCHED",
    "TRANSFER",
    "WITHDRAW",
]

MEMORY = 3600.0
"""Seconds for which a free lock is remembered, so that a release sent again is answered again."""
SHARED_MEMORY = 60_000_000
"""Microseconds of the same where several may hold it, and each of their releases is remembered."""
LIFE = 5_000_000
"""Microseconds for which a place in the queue lasts. Waiters look again every second, and so renew
it. Shorter than elsewhere, because the server cannot tell who has been killed: a lock may be handed
over to them until then."""
GIFT = round(HANDED_OVER * 1e6)

Expression = Any
Stage = Mapping[str, Any]

OWNER, TTL, ADDRESS = argument("owner"), argument("ttl"), argument("address")
SHARED, MOST, FAIR = argument("shared"), argument("most"), argument("fair")


def _and_lost(holds: Expression) -> Expression:
    """What is lost, when these holds are, too."""
    alone = filtered(holds, is_not(f"{EACH}.shared"))
    return joined(or_else("$lost", []), mapped(alone, f"{EACH}.fence"))


NOTED = put(at=NOW)
LIVE = put(
    at=NOW,
    fence=or_else("$fence", 0),
    lost=_and_lost(filtered(or_else("$holds", []), is_not(is_more(f"{EACH}.until", NOW)))),
    holds=filtered(or_else("$holds", []), is_more(f"{EACH}.until", NOW)),
    released=or_else("$released", []),
    queue=or_else("$queue", []),
    lines="",
)
"""The lock without those whose time is over."""
OWNERS = mapped("$holds", f"{EACH}.owner")
ADDRESSES = mapped("$queue", f"{EACH}.address")
IS_MINE = put(mine=is_in(OWNER, OWNERS))
TEMPORARY = ("lines", "mine", "won", "turn", "changed")


def _stored(*stages: Stage) -> Pipeline:
    """The stages, and how every operation ends."""
    return compiled(
        LIVE,
        *stages,
        put(
            # An owner that comes back after a release must be able to lose this grant.
            released=filtered("$released", is_not(is_in(f"{EACH}.owner", OWNERS))),
            # Of what was before the first grant nothing is known.
            lost=last(
                chosen(equal(counted("$lost"), 0), [subtracted("$fence", 1)], "$lost"),
                LOSSES_KNOWN,
            ),
            said=said("$lines"),
            gone=when_gone(
                largest(NOW, or_else(largest(mapped("$holds", f"{EACH}.until")), 0)), MEMORY
            ),
        ),
        unset(*TEMPORARY),
    )


def _has_room(holds: Expression, shared: Expression, most: Expression) -> Expression:
    """Whether one more may hold the lock."""
    shares = let({"one": first(holds)}, both(shared, "$$one.shared"))
    fits = either(equal(most, 0), is_more(most, counted(holds)))
    return either(equal(counted(holds), 0), both(shares, fits))


def _next(fence: Expression) -> Expression:
    return largest(added(fence, 1), NOW)


def _hold(place: str, fence: Expression, ttl: Expression) -> Expression:
    """The hold of who has a place in the queue, or asks now."""
    return {
        "owner": f"{place}.owner",
        "fence": fence,
        "since": NOW,
        "until": added(NOW, ttl),
        "shared": f"{place}.shared",
        "note": f"{place}.note",
    }


# --- handing over


def _handed_over(when: Expression, before: Expression = "") -> tuple[Stage, Stage]:
    """Give the lock to those who wait, as long as there is room for the first of them.

    Args:
        when: Whether to.
        before: Stop at this waiter, who asks by itself.
    """
    start = {"holds": "$holds", "fence": "$fence", "lines": "$lines", "queue": [], "ended": False}
    is_late = is_not(is_more(f"{THIS}.until", NOW))
    room = _has_room(f"{VALUE}.holds", f"{THIS}.shared", f"{THIS}.most")
    fence = _next(f"{VALUE}.fence")
    granted = {
        "fence": fence,
        "holds": joined(f"{VALUE}.holds", [_hold(THIS, fence, smallest(f"{THIS}.ttl", GIFT))]),
        "lines": texts(f"{VALUE}.lines", "\n", f"{THIS}.address", "=", text(fence)),
    }
    stays = {"ended": True, "queue": joined(f"{VALUE}.queue", [THIS])}
    step = switch(
        (
            either(
                f"{VALUE}.ended",
                equal(f"{THIS}.address", before),
                both(is_not(is_late), is_not(room)),
            ),
            merged(VALUE, stays),
        ),
        (either(is_late, is_not(is_there(f"{THIS}.address"))), VALUE),
        default=merged(VALUE, granted),
    )
    turn = folded(chosen(when, "$queue", []), start, step)
    return put(turn=turn), put(
        holds="$turn.holds",
        fence="$turn.fence",
        lines="$turn.lines",
        queue=chosen(when, "$turn.queue", "$queue"),
    )


def _freed(when: Expression, memory: Expression) -> Stage:
    """End the owner's hold."""
    others = filtered("$holds", is_not(equal(f"{EACH}.owner", OWNER)))
    return put(
        holds=chosen(when, others, "$holds"),
        released=chosen(when, joined(memory, [{"owner": OWNER, "at": NOW}]), "$released"),
    )


EARLIER = chosen(
    SHARED,
    filtered("$released", is_more(f"{EACH}.at", subtracted(NOW, SHARED_MEMORY))),
    [],
)
"""Whose releases are remembered beside this one."""


# --- acquiring

_PLACE = {
    "address": ADDRESS,
    "owner": OWNER,
    "ttl": TTL,
    "shared": SHARED,
    "most": MOST,
    "note": argument("note"),
    "until": added(NOW, LIFE),
}
_STANDS = equal(f"{EACH}.address", ADDRESS)


def _in_line() -> Expression:
    """The queue with the asker in it; who waits already keeps its place."""
    alive = filtered("$queue", is_more(f"{EACH}.until", NOW))
    fits = is_more(LIMIT, counted("$$alive"))
    return chosen(
        is_in(ADDRESS, ADDRESSES),
        mapped("$queue", chosen(_STANDS, _PLACE, EACH)),
        let({"alive": alive}, chosen(fits, joined("$$alive", [_PLACE]), "$$alive")),
    )


_FIRST = let(
    {"head": first("$queue")},
    either(is_not(FAIR), equal(counted("$queue"), 0), equal("$$head.address", ADDRESS)),
)
_RENEWED = mapped(
    "$holds",
    chosen(equal(f"{EACH}.owner", OWNER), merged(EACH, {"until": added(NOW, TTL)}), EACH),
)

ACQUIRE = _stored(
    IS_MINE,
    # What became free without a release is theirs who have waited longer.
    *_handed_over(both(FAIR, is_not("$mine")), before=ADDRESS),
    put(won=both(is_not("$mine"), _FIRST, _has_room("$holds", SHARED, MOST))),
    put(
        fence=chosen("$won", _next("$fence"), "$fence"),
        holds=switch(
            ("$won", joined("$holds", [_hold("$$p", _next("$fence"), TTL)])),
            ("$mine", _RENEWED),
            default="$holds",
        ),
        queue=switch(
            (either(equal(ADDRESS, ""), "$mine"), "$queue"),
            ("$won", filtered("$queue", is_not(_STANDS))),
            default=_in_line(),
        ),
    ),
)

TOUCHED = _stored()

RENEW = _stored(put(holds=_RENEWED))

RELEASE = _stored(
    IS_MINE,
    _freed("$mine", EARLIER),
    *_handed_over(both("$mine", FAIR)),
    # Not fair: the longest waiting one may try, and whoever is faster has the lock.
    put(
        lines=let(
            {
                "there": filtered(
                    chosen(both("$mine", is_not(FAIR)), "$queue", []),
                    both(is_more(f"{EACH}.until", NOW), is_there(f"{EACH}.address")),
                )
            },
            let(
                {"one": first("$$there")},
                chosen(
                    is_at_least(counted("$$there"), 1),
                    texts("$lines", "\n", "$$one.address"),
                    "$lines",
                ),
            ),
        )
    ),
)

WITHDRAW = _stored(
    IS_MINE,
    # It may have stood before others who could hold the lock together with those who do, or have
    # been woken for a lock that is free.
    put(changed=either("$mine", is_in(ADDRESS, ADDRESSES))),
    put(queue=filtered("$queue", is_not(_STANDS))),
    _freed("$mine", EARLIER),
    *_handed_over("$changed"),
)

FORCE_RELEASE = _stored(
    put(forced=is_more(counted("$holds"), 0)),
    put(
        holds=[],
        lost=_and_lost("$holds"),
        released=chosen("$forced", [], "$released"),
    ),
    *_handed_over("$forced"),
)

TRANSFER = _stored(
    IS_MINE,
    # Not so if it is theirs already: the reply to the first request may have been lost.
    put(won=both("$mine", is_not(is_in(argument("to"), OWNERS)))),
    put(
        fence=chosen("$won", _next("$fence"), "$fence"),
        lost=chosen("$won", _and_lost("$holds"), "$lost"),
        holds=chosen(
            "$won",
            let(
                {
                    "heir": {
                        "owner": argument("to"),
                        "shared": False,
                        "note": let(
                            {"one": first(filtered("$holds", equal(f"{EACH}.owner", OWNER)))},
                            "$$one.note",
                        ),
                    }
                },
                [_hold("$$heir", _next("$fence"), TTL)],
            ),
            "$holds",
        ),
    ),
)
