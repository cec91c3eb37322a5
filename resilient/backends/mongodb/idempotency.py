"""Idempotent calls on MongoDB: one document a key, claimed and then completed.

A record that has expired says for a while which fence came before; then the TTL index removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resilient.backends.mongodb.commands import Change, Document, Look, Pipeline, compiled
from resilient.backends.mongodb.expressions import (
    NOW,
    added,
    argument,
    both,
    chosen,
    equal,
    is_in,
    is_more,
    is_not,
    largest,
    or_else,
    put,
    smallest,
    switch,
    unset,
    when_gone,
)
from resilient.backends.mongodb.keys import Keys
from resilient.backends.mongodb.times import microseconds
from resilient.backends.mongodb.waking import said, waited_for, wake_ups
from resilient.engine.plan import Ask, Transport
from resilient.protocols.idempotency import Claimed, Completed, InProgress, Mismatch, Unknown
from resilient.protocols.values import Encoded

__all__ = ["MongoIdempotency"]

IDEMPOTENCY = "idempotency"
MEMORY = 600.0
"""Seconds for which an expired record still says which fence came before."""

# --- the pipelines. `turn` is what the operation has come to, and the asker reads it.

OWNER, LEASE, TTL = argument("owner"), argument("lease"), argument("ttl")
FINGERPRINT = argument("fingerprint")
IS_ALIVE = is_more("$expires", NOW)
IS_MINE = both(equal("$state", "claimed"), equal("$owner", OWNER))


def _alive(field: str, otherwise: Any) -> Any:
    return chosen(IS_ALIVE, or_else(f"${field}", otherwise), otherwise)


LIVE = put(
    at=NOW,
    fence=or_else("$fence", 0),
    state=_alive("state", "none"),
    owner=_alive("owner", ""),
    attempt=_alive("attempt", 0),
    until=_alive("until", 0),
    expires=_alive("expires", 0),
    takeover=_alive("takeover", False),
    fingerprint=_alive("fingerprint", ""),
    outcome=_alive("outcome", ""),
    result=_alive("result", None),
    queue=_alive("queue", []),
)
"""The record, of which nothing but the fence is left when it has expired."""

GONE = put(gone=when_gone(largest("$expires", NOW), MEMORY))


def _once(turn: Any, then: Any, field: str) -> Any:
    """The field's new value, if the operation has come to that."""
    return chosen(equal("$turn", turn), then, f"${field}")


CLAIM = compiled(
    LIVE,
    put(
        turn=switch(
            (
                both(
                    is_not(is_in("", [FINGERPRINT, "$fingerprint"])),
                    is_not(equal(FINGERPRINT, "$fingerprint")),
                ),
                "mismatch",
            ),
            (equal("$state", "completed"), "completed"),
            (IS_MINE, "mine"),
            (both(equal("$state", "claimed"), is_more("$until", NOW)), "busy"),
            (both(equal("$state", "claimed"), is_not(argument("takeover"))), "unknown"),
            default="won",
        )
    ),
    put(
        fence=_once("won", largest(added("$fence", 1), NOW), "fence"),
        attempt=_once("won", added("$attempt", 1), "attempt"),
        takeover=_once("won", equal("$state", "claimed"), "takeover"),
        owner=_once("won", OWNER, "owner"),
        outcome=_once("won", "", "outcome"),
        state=_once("won", "claimed", "state"),
        fingerprint=_once(
            "won", chosen(equal(FINGERPRINT, ""), "$fingerprint", FINGERPRINT), "fingerprint"
        ),
        until=chosen(is_in("$turn", ["won", "mine"]), added(NOW, LEASE), "$until"),
        expires=switch(
            (equal("$turn", "won"), added(NOW, largest(LEASE, TTL))),
            (equal("$turn", "mine"), largest("$expires", added(NOW, TTL), added(NOW, LEASE))),
            default="$expires",
        ),
        queue=chosen(
            both(equal("$turn", "busy"), is_not(equal(argument("waiter"), ""))),
            waited_for("$queue", argument("waiter")),
            "$queue",
        ),
    ),
    GONE,
)

RENEW = compiled(
    LIVE,
    put(turn=IS_MINE),
    put(
        until=_once(True, added(NOW, LEASE), "until"),
        expires=_once(True, largest("$expires", added(NOW, LEASE)), "expires"),
    ),
    GONE,
)

COMPLETE = compiled(
    LIVE,
    put(
        turn=switch(
            (IS_MINE, "now"),
            (both(equal("$state", "completed"), equal("$owner", OWNER)), "before"),
            default="stale",
        )
    ),
    put(
        state=_once("now", "completed", "state"),
        outcome=_once("now", argument("outcome"), "outcome"),
        result=_once("now", argument("result"), "result"),
        until=_once("now", 0, "until"),
        expires=_once("now", added(NOW, TTL), "expires"),
        queue=_once("now", [], "queue"),
        said=said(chosen(equal("$turn", "now"), wake_ups("$queue"), "")),
    ),
    GONE,
)

ABANDON = compiled(
    LIVE,
    put(
        turn=switch(
            (IS_MINE, "now"),
            (both(equal("$state", "abandoned"), equal("$owner", OWNER)), "before"),
            default="stale",
        )
    ),
    put(
        state=_once("now", "abandoned", "state"),
        until=_once("now", 0, "until"),
        queue=_once("now", [], "queue"),
        said=said(chosen(equal("$turn", "now"), wake_ups("$queue"), "")),
    ),
    GONE,
)

EXPIRE = compiled(
    LIVE,
    put(turn=IS_MINE),
    put(ends=both("$turn", is_more("$until", NOW))),
    put(
        until=chosen("$ends", NOW, "$until"),
        queue=chosen("$ends", [], "$queue"),
        said=said(chosen("$ends", wake_ups("$queue"), "")),
    ),
    unset("ends"),
    GONE,
)

DELETE = compiled(
    put(turn=IS_ALIVE, said=said(chosen(IS_ALIVE, wake_ups(or_else("$queue", [])), ""))),
    put(expires=smallest("$expires", NOW)),
    LIVE,
    GONE,
)
"""The document stays for a while, expired: the next fence is larger."""

NOW_STAGE = compiled(put(at=NOW))


class MongoIdempotency:
    """One fenced record a key (`resilient.protocols.idempotency.IdempotencyStore`)."""

    def __init__(self, transport: Transport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

    async def claim(
        self,
        key: str,
        *,
        owner: str,
        lease: float,
        ttl: float,
        fingerprint: str = "",
        waiter: str | None = None,
        takeover: bool = True,
    ) -> Claimed | InProgress | Completed | Mismatch | Unknown:
        """Claim the call if nobody has, or if the owner's lease has run out."""
        arguments = {
            "owner": owner,
            "lease": microseconds(lease, "lease"),
            "ttl": microseconds(ttl, "ttl"),
            "fingerprint": fingerprint,
            "waiter": waiter or "",
            "takeover": takeover,
        }
        answer: Claimed | InProgress | Completed | Mismatch | Unknown = await self._change(
            key, CLAIM, arguments, _claim, upsert=True
        )
        return answer

    async def renew(self, key: str, *, owner: str, lease: float) -> bool:
        """Start the lease anew; false if the claim is no longer the owner's."""
        arguments = {"owner": owner, "lease": microseconds(lease, "lease")}
        return bool(await self._change(key, RENEW, arguments, _turned))

    async def complete(
        self, key: str, *, owner: str, result: Encoded, ttl: float, outcome: str = "value"
    ) -> bool:
        """Store the outcome and wake all waiters; false for a stale owner."""
        arguments = {
            "owner": owner,
            "result": bytes(result),
            "ttl": microseconds(ttl, "ttl"),
            "outcome": outcome,
        }
        return bool(await self._change(key, COMPLETE, arguments, _not_stale))

    async def abandon(self, key: str, *, owner: str) -> bool:
        """Give the claim up and wake all waiters; false for a stale owner."""
        return bool(await self._change(key, ABANDON, {"owner": owner}, _not_stale))

    async def expire(self, key: str, *, owner: str) -> bool:
        """End a dead owner's lease and wake all waiters; false if the claim is not its."""
        return bool(await self._change(key, EXPIRE, {"owner": owner}, _turned))

    async def get(self, key: str) -> InProgress | Completed | Unknown | None:
        """The record now; `None` if there is none, or its claim was given up."""
        query = {"_id": self._keys.name(key)}
        look = Look(IDEMPOTENCY, query, NOW_STAGE, read=_found)
        found: InProgress | Completed | Unknown | None = await Ask(self._transport, look)
        return found

    async def delete(self, key: str) -> bool:
        """Forget the key and wake all waiters; false if there was no record."""
        return bool(await self._change(key, DELETE, {}, _turned, repeatable=False))

    def _change(
        self,
        key: str,
        pipeline: Pipeline,
        arguments: Mapping[str, Any],
        read: Callable[[Document | None], Any],
        *,
        upsert: bool = False,
        repeatable: bool = True,
    ) -> Ask:
        change = Change(
            IDEMPOTENCY,
            self._keys.name(key),
            pipeline,
            arguments,
            read=read,
            upsert=upsert,
            repeatable=repeatable,
        )
        return Ask(self._transport, change)


# --- what the documents say


def _turned(record: Document | None) -> bool:
    return record is not None and bool(record["turn"])


def _not_stale(record: Document | None) -> bool:
    return record is not None and record["turn"] != "stale"


def _claim(record: Document | None) -> Claimed | InProgress | Completed | Mismatch | Unknown:
    assert record is not None  # it is made if there is none
    turn = record["turn"]
    if turn in ("won", "mine"):
        return Claimed(int(record["fence"]), int(record["attempt"]), record["takeover"])
    if turn == "mismatch":
        return Mismatch(record["fingerprint"])
    return _bound(record)


def _found(records: list[Document]) -> InProgress | Completed | Unknown | None:
    for record in records:
        if record["expires"] > record["at"] and record["state"] in ("claimed", "completed"):
            return _bound(record)
    return None


def _bound(record: Document) -> InProgress | Completed | Unknown:
    """A record that binds a caller."""
    at, attempt = record["at"], int(record["attempt"])
    if record["state"] == "completed":
        left = (record["expires"] - at) / 1e6
        return Completed(record["outcome"], Encoded(record["result"]), left, attempt)
    if record["until"] > at:
        return InProgress(record["owner"], (record["until"] - at) / 1e6, attempt)
    return Unknown(attempt)
