"""What is in a job's document, and what all operations on it have in common (`checkpoints.py`).

The document holds all of the job that is small: who runs it, its latest checkpoints, the steps
since the last *volume*. What is large, and volumes, which are some dozens of steps each, lie beside
it (`parts.py`): `{"at", "size"}` says where. `dropped` tells what it points at no longer.

`turn` is what the operation has come to.
"""

from __future__ import annotations

from typing import Any

from resilient.backends.mongodb.expressions import (
    EACH,
    NOW,
    added,
    argument,
    both,
    chosen,
    equal,
    filtered,
    is_in,
    is_more,
    joined,
    largest,
    mapped,
    or_else,
    put,
    smallest,
    when_gone,
)

__all__ = [
    "ALL_PLACES",
    "FENCE",
    "GONE",
    "IS_LIVE_RUN",
    "IS_RUNNER",
    "IS_RUNNING",
    "LEASE",
    "LIVE",
    "OWNER",
    "TTL",
    "came_to",
    "data_of",
    "kept_for",
    "places",
    "pointed_at",
    "pointing",
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


def places(values: Expression) -> Expression:
    """Of these values, where those are that lie beside the document."""
    return filtered(values, equal({"$type": EACH}, "object"))


def data_of(saved: Expression) -> Expression:
    """What these checkpoints hold."""
    return mapped(saved, f"{EACH}.data")


def came_to(*turns: str) -> Expression:
    """Whether the operation has come to one of these."""
    return is_in("$turn", list(turns))


ALL_PLACES = joined(places(data_of("$saved")), places(["$result"]), "$volumes")


def pointed_at(stored: Expression) -> dict[str, Any]:
    """The stage that tells whether the document points at a value now: by this command, or by the
    same one whose answer was lost.
    """
    return put(pointed=is_in(f"{stored}.at", mapped(ALL_PLACES, f"{EACH}.at")))


def kept_for(turn: Expression, lives: Expression) -> dict[str, Expression]:
    """The fields by which the job is kept for so long from now."""
    return {
        "ttl": chosen(turn, lives, "$ttl"),
        "expires": chosen(turn, added(NOW, lives), "$expires"),
    }


def pointing(turn: Expression, stored: Expression) -> Expression:
    """Until when all that is pointed at is there, when the document points at this value too."""
    new = added(NOW, argument("keep"))
    until = smallest(or_else("$parts_until", new), new)
    return chosen(both(turn, equal({"$type": stored}, "object")), until, "$parts_until")
