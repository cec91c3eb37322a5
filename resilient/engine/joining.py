"""Waiting for what others make, together: of all callers of a process that wait for one thing, one
asks the backend.

The first of them registers as a waiter and is woken; it leads the *party*, and the others follow
it. An answer that is everybody's (the outcome of a call) goes to all of them; after any other (the
leader obtained it for itself, gave up, was interrupted) the followers elect a new leader. So many
duplicates cost one waiting trip a process.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable
from typing import Any, Protocol, TypeVar

from resilient.engine.forks import forget_in_child
from resilient.engine.plan import NOW, Wait
from resilient.engine.signals import Hub, Waiter
from resilient.engine.waiting import Contest, listening, queued, tried

__all__ = ["Parties", "SharedContest", "joined"]

A = TypeVar("A")

LOOK = 5.0
"""Seconds after which a follower asks for itself: its leader's event loop may be gone."""


class SharedContest(Contest[A], Protocol[A]):
    """A contest whose answers may be everybody's."""

    @property
    def place(self) -> Hashable:
        """What is contested: those with equal places wait together."""
        ...

    def is_shared(self, answer: A) -> bool:
        """Whether the answer is the same for all who ask."""
        ...


class Party:
    """Those who wait for one thing. `answer` is what its leader got for all, if it did, when it
    asked at the local time `asked`.
    """

    __slots__ = ("answer", "asked", "ended", "waiters")

    def __init__(self) -> None:
        self.answer: Any = None
        self.asked = -math.inf
        self.ended = False
        self.waiters: list[Waiter] = []


class Parties:
    """All parties of this process on one backend. Thread-safe."""

    def __init__(self) -> None:
        self._by_place: dict[Hashable, Party] = {}
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        self._by_place.clear()
        self._lock = threading.Lock()

    def waits_for(self, contest: SharedContest[Any]) -> bool:
        """Whether there is a party for it, whose leader knows that it is busy."""
        return bool(self._by_place) and contest.place in self._by_place

    def joined(self, place: Hashable, waiter: Waiter) -> tuple[Party, bool]:
        """The party of a place, and whether the waiter is its leader."""
        with self._lock:
            party = self._by_place.get(place)
            leads = party is None
            if party is None:
                party = self._by_place[place] = Party()
            else:
                party.waiters.append(waiter)
            return party, leads

    def end(self, place: Hashable, party: Party, asked: float, answer: Any) -> None:
        """The leader leaves, with an answer for all, or `None`."""
        with self._lock:
            if self._by_place.get(place) is party:
                del self._by_place[place]
            party.answer, party.asked, party.ended = answer, asked, True
            waiters, party.waiters = party.waiters, []
        for waiter in waiters:
            waiter.wake()

    def left(self, party: Party, waiter: Waiter) -> None:
        """A follower leaves."""
        with self._lock:
            if waiter in party.waiters:
                party.waiters.remove(waiter)


async def joined(
    contest: SharedContest[A], parties: Parties, hub: Hub, wait: float | None, began: float
) -> tuple[float, A]:
    """Wait for what is busy, with others of this process: as `resilient.engine.waiting.queued`.

    Args:
        contest: What to obtain.
        parties: Those of its backend.
        hub: Where the wake-up comes from.
        wait: Seconds to wait; `None`: no limit.
        began: The local time of the first request, or before it.
    """
    start = await NOW
    patience = math.inf if wait is None else wait
    waiter = await listening(hub)
    if waiter is None:
        return await queued(contest, hub, patience)
    while True:
        left = patience - (await NOW - start)
        party, leads = parties.joined(contest.place, waiter)
        if leads:
            return await _led(contest, parties, party, hub, max(left, 0.0))
        try:
            while not party.ended and left > 0:
                if not await Wait(waiter, min(left, LOOK)):
                    break
                left = patience - (await NOW - start)
        finally:
            parties.left(party, waiter)
        # Not one that was asked for before this call: it may have been forgotten in between.
        if party.answer is not None and party.asked >= start:
            return began, party.answer
        if not party.ended:
            began, answer = await tried(contest, await NOW)
            if not contest.is_busy(answer):
                return began, answer
            waited = await NOW - start
            if waited >= patience:
                raise contest.refusal(answer, waited)


async def _led(
    contest: SharedContest[A], parties: Parties, party: Party, hub: Hub, wait: float
) -> tuple[float, A]:
    """Wait for all, and tell them."""
    asked, shared = -math.inf, None
    try:
        asked, answer = await queued(contest, hub, wait)
        if contest.is_shared(answer):
            shared = answer
        return asked, answer
    finally:
        parties.end(contest.place, party, asked, shared)
