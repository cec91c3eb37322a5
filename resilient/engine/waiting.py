"""Obtaining what somebody else may hold: a lock, a call, a job.

A first try takes one round trip. Whoever finds it held registers as a waiter in the same operation
in which it tries again, and is woken by the holder's end; a slow look by itself covers a signal
that was missed. A wake-up may bring what is waited for: a lock is handed over, and nobody has to be
asked. A holder that was a process of this very host and is gone is evicted at once.

Every attempt names its owner, so it may be asked again when a reply is lost, and what an
interrupted attempt may have won is always given back.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from resilient.engine import clock
from resilient.engine.persistence import BUDGET, asked_again, asked_until
from resilient.engine.plan import IsDead, Listen, Plan, Sleep, Wait, shielded
from resilient.engine.signals import CROWDED, POLL, Hub
from resilient.errors import BackendError, Rejected

if TYPE_CHECKING:
    from resilient.engine.signals import GiftedWaiter

__all__ = ["Contest", "listening", "obtained", "queued", "tried"]

A = TypeVar("A")

EXPIRY_SLACK = 0.002
"""Seconds past a holder's TTL at which to look, so that the look is not a moment too early."""


FRESH = 1.5
"""Times a receiver's patience for which a gift is taken unseen, of the two that it lives: who comes
to it later, because its thread or loop stood still, asks whether it still has it."""


class Contest(Protocol[A]):
    """One caller's attempt to obtain one thing. A busy answer has an `owner` and a `ttl`."""

    def ask(self, waiter: str | None) -> Plan[A]:
        """Try once; register the waiter if it is busy."""
        ...

    def is_busy(self, answer: A) -> bool:
        """Whether somebody else holds it."""
        ...

    def evict(self, owner: str) -> Plan[object]:
        """End the hold of an owner that is known to be dead."""
        ...

    def withdraw(self, waiter: str | None) -> Plan[object]:
        """Give back what may have been won, and forget the waiter."""
        ...

    def refusal(self, answer: A, waited: float) -> Rejected:
        """The error for a caller that waited long enough: who holds it, and for how long."""
        ...


class Receiver(Contest[A], Protocol[A]):
    """A contest for something that may be handed over."""

    patience: float
    """Seconds from one attempt to the next at most: what is handed over lives for twice that."""
    glance: float
    """Seconds after which the second attempt comes: whoever holds it then, after others who had it
    in turn, may have died with it."""

    outlasts: bool
    """Whether who has found it held goes on through transient errors for as long as it waits: what
    it waits for is not lost by them."""

    def received(self, gift: str, answer: A) -> A | None:
        """What came with a wake-up after this busy answer; `None`: it must be asked for."""
        ...


async def obtained(
    contest: Contest[A],
    hub: Hub,
    wait: float | None,
    began: float,
    *,
    budget: float = BUDGET,
) -> tuple[float, A]:
    """Ask until it is not busy: when the successful request was sent, and its answer.

    Args:
        contest: What to obtain.
        hub: Where the wake-up comes from.
        wait: Seconds to wait for other holders; 0: try once; `None`: no limit.
        began: The local time before the first request.
        budget: Seconds for which one attempt is asked again after transient errors.

    Raises:
        Rejected: It was busy for as long as `wait`; the contest's own refusal.
    """
    if wait != 0 and began < hub.crowded_until:
        wait = math.inf if wait is None else wait
        return await queued(contest, hub, wait, budget=budget, crowded=True)
    # As `tried`, without one more coroutine: this is the way of almost every call.
    try:
        answer = await contest.ask(None)
    except BackendError as error:
        began, answer = await _insisted(contest, error, began + budget)
    except BaseException:
        await _withdrawn(contest, None)
        raise
    if not contest.is_busy(answer):
        return began, answer
    began, answer = await _evicting(contest, began, answer, budget)
    if not contest.is_busy(answer):
        return began, answer
    if wait == 0:
        raise contest.refusal(answer, 0.0)
    wait = math.inf if wait is None else wait
    return await queued(contest, hub, wait, budget=budget)


async def tried(contest: Contest[A], began: float, *, budget: float = BUDGET) -> tuple[float, A]:
    """Ask once: when that request was sent, and its answer, busy or not."""
    try:
        answer = await contest.ask(None)
    except BackendError as error:
        began, answer = await _insisted(contest, error, began + budget)
    except BaseException:
        await _withdrawn(contest, None)
        raise
    if contest.is_busy(answer):
        return await _evicting(contest, began, answer, budget)
    return began, answer


async def _insisted(contest: Contest[A], error: BackendError, until: float) -> tuple[float, A]:
    """Ask once more, and again, after a lost reply."""
    try:
        return await asked_again(error, partial(_attempt, contest, None), until=until)
    except BaseException:
        await _withdrawn(contest, None)
        raise
    finally:
        del error  # its traceback holds this frame: a cycle, if the frame holds it


async def _evicting(contest: Contest[A], began: float, answer: A, budget: float) -> tuple[float, A]:
    """Evict a holder that is dead, and try again."""
    try:
        return await _without_the_dead(contest, None, began, answer, budget)
    except BaseException:
        await _withdrawn(contest, None)
        raise


async def queued(
    contest: Contest[A],
    hub: Hub,
    wait: float,
    *,
    budget: float = BUDGET,
    crowded: bool = False,
) -> tuple[float, A]:
    """Register as a waiter, and ask whenever it is woken, until it is not busy.

    Where many take turns, the one that has it now will have handed it on in a moment: whether it
    is dead is looked at with the second attempt, if that comes soon.
    """
    start = clock.now()
    waiter = await listening(hub)
    address = None if waiter is None else hub.address(waiter)
    recheck = POLL if waiter is None else hub.recheck
    patience = min(recheck, getattr(contest, "patience", math.inf))
    next_look = min(patience, getattr(contest, "glance", math.inf))
    alive = crowded and next_look < patience
    outlasts = getattr(contest, "outlasts", False)
    until = -math.inf
    try:
        while True:
            began, answer = await _asked(contest, address, budget, until)
            if not alive:
                began, answer = await _without_the_dead(
                    contest, address, began, answer, budget, until
                )
            alive = False
            if not contest.is_busy(answer):
                return began, answer
            waited = clock.now() - start
            if waited >= wait:
                raise contest.refusal(answer, waited)
            if outlasts:  # only now: a server that is away from the first is not waited for
                until = start + wait
            hub.crowded_until = began + CROWDED
            left = _ttl(answer) + EXPIRY_SLACK
            pause = min(wait - waited, left, next_look)
            next_look = patience
            if waiter is None:
                await Sleep(pause)
                continue
            await Wait(waiter, pause)
            received = _received(contest, waiter, answer)
            # It came after the request that registered us, so it is held from then on at least.
            if received is not None and clock.now() - began < FRESH * patience:
                return began, received
    except BaseException:
        await _withdrawn(contest, address)
        raise


async def listening(hub: Hub) -> GiftedWaiter | None:
    """A waiter that is woken; `None` where nothing can be heard now: who waits looks by itself.

    Commands may be answered all the same: of a cluster, it is another server that is away.
    """
    try:
        return await Listen(hub)
    except BackendError as error:
        if not error.transient:
            raise
        return None


def _received(contest: Contest[A], waiter: GiftedWaiter, answer: A) -> A | None:
    """What has come with the wake-up."""
    gift, waiter.gift = waiter.gift, ""
    if not gift:
        return None
    receiver: Receiver[A] = contest  # type: ignore[assignment]  # others are given nothing
    return receiver.received(gift, answer)


async def _without_the_dead(
    contest: Contest[A],
    waiter: str | None,
    began: float,
    answer: A,
    budget: float,
    until: float = -math.inf,
) -> tuple[float, A]:
    """Evict holders that are known to be dead, and try again."""
    while contest.is_busy(answer) and await IsDead(_owner(answer)):
        evict = partial(contest.evict, _owner(answer))
        await asked_until(max(clock.now() + budget, until), evict)
        began, answer = await _asked(contest, waiter, budget, until)
    return began, answer


async def _asked(
    contest: Contest[A], waiter: str | None, budget: float, until: float
) -> tuple[float, A]:
    """Try once, and after lost replies for as long as the budget, at least until then."""
    return await asked_until(max(clock.now() + budget, until), partial(_attempt, contest, waiter))


async def _attempt(contest: Contest[A], waiter: str | None) -> tuple[float, A]:
    """Try once: a lease's deadline counts from the moment of the attempt that succeeds."""
    return clock.now(), await contest.ask(waiter)


def _owner(answer: Any) -> str:
    owner: str = answer.owner
    return owner


def _ttl(answer: Any) -> float:
    ttl: float = answer.ttl
    return ttl


async def _withdrawn(contest: Contest[Any], waiter: str | None) -> None:
    """Withdraw, whoever is cancelled meanwhile."""
    await shielded(_withdrawal(contest, waiter))


async def _withdrawal(contest: Contest[Any], waiter: str | None) -> None:
    """Withdraw; where the server cannot be told, the TTLs of hold and waiter do it.

    A waiter that stays behind is handed what it does not wait for any more, and holds up all
    others for a while: that is worth asking again.
    """
    until = -math.inf if waiter is None else clock.now() + BUDGET
    with suppress(BackendError):
        await asked_until(until, partial(contest.withdraw, waiter))
