"""Locks on MongoDB: one document a lock, which outlives the release (`lock_pipelines.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resilient.backends.mongodb import lock_pipelines as pipelines
from resilient.backends.mongodb.commands import (
    Change,
    Command,
    Document,
    Look,
    Pipeline,
    Transaction,
    compiled,
)
from resilient.backends.mongodb.keys import Keys
from resilient.backends.mongodb.times import microseconds
from resilient.engine.guard import Guard, NotHeld
from resilient.engine.identity import new_owner
from resilient.engine.plan import Ask, Transport
from resilient.errors import CapabilityMissing
from resilient.protocols.locks import HANDED_OVER, LOCK, Grant, Held, LockMode

__all__ = ["MongoLocks"]

LOCKS = "locks"
NOTED = compiled(pipelines.NOTED)


class MongoLocks:
    """Leases on keys (`resilient.protocols.locks.LockStore`)."""

    def __init__(self, transport: Transport, keys: Keys) -> None:
        self._transport = transport
        self._keys = keys

    async def acquire(
        self,
        key: str,
        *,
        ttl: float,
        owner: str | None = None,
        waiter: str | None = None,
        mode: LockMode = LOCK,
        fair: bool = True,
        note: str = "",
        replicas: int = 0,
    ) -> Grant | Held:
        """Take the lock if it is free, expired, or already this owner's."""
        if replicas:
            raise CapabilityMissing(
                f"replicas={replicas}: on MongoDB every grant is confirmed by a majority already"
            )
        owner = new_owner() if owner is None else owner
        command = self._acquiring(key, owner, ttl, waiter, mode, fair, note)
        answer: Grant | Held = await Ask(self._transport, command)
        return answer

    def _acquiring(
        self,
        key: str,
        owner: str,
        ttl: float,
        waiter: str | None = None,
        mode: LockMode = LOCK,
        fair: bool = True,
        note: str = "",
    ) -> Change:
        arguments = {
            "owner": owner,
            "ttl": microseconds(ttl, "ttl"),
            "address": waiter or "",
            "shared": mode.shared,
            "most": mode.limit,
            "fair": fair,
            "note": note,
        }

        def read(lock: Document | None) -> Grant | Held:
            assert lock is not None  # it is made if there is none
            mine = _hold_of(lock, owner)
            return _seen(lock) if mine is None else Grant(owner, int(mine["fence"]), ttl)

        name = self._keys.name(key, mode.family)
        return Change(LOCKS, name, pipelines.ACQUIRE, arguments, read=read, upsert=True)

    async def acquire_all(
        self, keys: Sequence[str], *, ttl: float, owner: str, note: str = ""
    ) -> list[Grant] | Held | None:
        """Take all of these locks, or none of them: in a transaction, where the server has such."""
        transaction = Transaction(
            [self._acquiring(key, owner, ttl, note=note) for key in keys],
            read=_all_or_who,
            ends=lambda answer: isinstance(answer, Held),
        )
        answer: list[Grant] | Held | None = await Ask(self._transport, transaction)
        return answer

    async def renew(self, key: str, *, owner: str, ttl: float, mode: LockMode = LOCK) -> bool:
        """Start the owner's TTL anew; false if the owner does not hold the lock."""
        arguments = {"owner": owner, "ttl": microseconds(ttl, "ttl")}
        return bool(await self._change(key, mode, pipelines.RENEW, arguments, _holds(owner)))

    async def release(
        self,
        key: str,
        *,
        owner: str,
        fence: int = 0,
        mode: LockMode = LOCK,
        fair: bool = True,
    ) -> bool:
        """Free the lock, and hand it over or wake one waiter."""
        arguments = {"owner": owner, "shared": mode.shared, "fair": fair}

        def read(lock: Document | None) -> bool:
            if lock is None:
                return False
            if any(each["owner"] == owner for each in lock["released"]):
                return True
            return not mode.shared and _was_given_back(lock, fence)

        return bool(await self._change(key, mode, pipelines.RELEASE, arguments, read))

    async def transfer(self, key: str, *, owner: str, to: str, ttl: float) -> Grant | None:
        """Make another owner the holder, under a new fence."""
        arguments = {"owner": owner, "to": to, "ttl": microseconds(ttl, "ttl")}

        def read(lock: Document | None) -> Grant | None:
            theirs = None if lock is None else _hold_of(lock, to)
            if lock is None or theirs is None:
                return None
            return Grant(to, int(theirs["fence"]), (theirs["until"] - lock["at"]) / 1e6)

        answer: Grant | None = await self._change(key, LOCK, pipelines.TRANSFER, arguments, read)
        return answer

    async def withdraw(self, key: str, *, owner: str, waiter: str, mode: LockMode = LOCK) -> None:
        """Stop waiting, and hand on what may just have been granted."""
        arguments = {"owner": owner, "address": waiter, "shared": mode.shared}
        await self._change(key, mode, pipelines.WITHDRAW, arguments, _nothing)

    async def force_release(self, key: str, *, mode: LockMode = LOCK) -> bool:
        """Free the lock whoever holds it; false if it was free."""

        def read(lock: Document | None) -> bool:
            return lock is not None and bool(lock["forced"])

        return bool(
            await self._change(key, mode, pipelines.FORCE_RELEASE, {}, read, repeatable=False)
        )

    async def holder(self, key: str, *, mode: LockMode = LOCK) -> Held | None:
        """Who holds the lock now; `None` if it is free."""
        lock = await self._look(key, mode)
        return _seen(lock) if _holders(lock) else None

    async def is_held(self, key: str, *, owner: str, mode: LockMode = LOCK) -> bool:
        """Whether `owner` holds the lock now."""
        return _hold_of(await self._look(key, mode), owner) is not None

    def guard(self, key: str, *, owner: str, mode: LockMode = LOCK) -> Guard:
        """Have a command to this server come to pass only while `owner` holds the lock.

        Both are one transaction; on a server that has none, one comes after the other.
        """

        def read(lock: Document | None) -> None:
            if lock is None or _hold_of(lock, owner) is None:
                raise NotHeld(owner)

        name = self._keys.name(key, mode.family)

        def wrap(command: Command | Transaction) -> Transaction:
            # A change of it, so that nobody else can have the lock before the transaction's end.
            held = Change(LOCKS, name, pipelines.TOUCHED, {}, read=read)
            if isinstance(command, Transaction):
                steps, made = command.steps, command.read
            else:
                steps, made = [command], _last
            return Transaction(
                [held, *steps], read=lambda answers: made(answers[1:]), divisible=True
            )

        return Guard(self._transport, wrap)

    def _change(
        self,
        key: str,
        mode: LockMode,
        pipeline: Pipeline,
        arguments: Mapping[str, Any],
        read: Callable[[Document | None], Any],
        *,
        upsert: bool = False,
        repeatable: bool = True,
    ) -> Ask:
        change = Change(
            LOCKS,
            self._keys.name(key, mode.family),
            pipeline,
            arguments,
            read=read,
            upsert=upsert,
            repeatable=repeatable,
        )
        return Ask(self._transport, change)

    async def _look(self, key: str, mode: LockMode) -> Document:
        query = {"_id": self._keys.name(key, mode.family)}
        look = Look(LOCKS, query, NOTED, read=_one)
        lock: Document = await Ask(self._transport, look)
        return lock


# --- what the documents say

FREE: Document = {"at": 0, "holds": (), "queue": (), "fence": 0}


def _one(locks: list[Document]) -> Document:
    return locks[0] if locks else FREE


def _last(answers: list[Any]) -> Any:
    return answers[-1]


def _all_or_who(answers: list[Grant | Held]) -> list[Grant] | Held:
    """The grants, or who holds the one that could not be had."""
    grants = [answer for answer in answers if isinstance(answer, Grant)]
    last = answers[-1]
    return last if isinstance(last, Held) else grants


def _nothing(lock: Document | None) -> None:
    return None


def _holders(lock: Document) -> list[Document]:
    return [each for each in lock["holds"] if each["until"] > lock["at"]]


def _hold_of(lock: Document, owner: str) -> Document | None:
    for each in _holders(lock):
        if each["owner"] == owner:
            return each
    return None


def _was_given_back(lock: Document, fence: int) -> bool:
    """Whether a hold that nobody shared, and that is over, was ended by its owner."""
    lost = lock["lost"]
    return bool(lost[0] < fence <= lock["fence"]) and fence not in lost


def _holds(owner: str) -> Callable[[Document | None], bool]:
    return lambda lock: lock is not None and _hold_of(lock, owner) is not None


def _seen(lock: Document) -> Held:
    """The lock as others see it."""
    holders, waiters, fence = _holders(lock), len(lock["queue"]), int(lock["fence"])
    if not holders:  # others have waited longer; they are about to take it
        return Held("", fence, HANDED_OVER, 0.0, "", waiters, 0)
    soonest = min(holders, key=lambda each: int(each["until"]))
    return Held(
        soonest["owner"],
        fence,
        (soonest["until"] - lock["at"]) / 1e6,
        (lock["at"] - soonest["since"]) / 1e6,
        soonest["note"],
        waiters,
        len(holders),
    )
