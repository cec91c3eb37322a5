"""A lock server as a plain object: what `protocols/locks.py` promises, written apart.

It imports nothing of the library. Times are seconds of the server's own clock. One lock has a
number of permits, held for writing (all permits at once) or for reading (side by side); whoever
frees something hands it over at once to whoever has waited longest, if that one is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

GRANT_LIVES = 1.5
"""Seconds for which what was handed over waits to be confirmed by its new holder: what that one
asked for, where it asks for less than two seconds."""


End = Literal["released", "handed on", "expired", "forced"]
"""How a hold has ended."""


class Violation(AssertionError):
    """Something happened that must never happen."""


class Hold:
    """What one owner holds."""

    __slots__ = ("fence", "shared", "since", "until")

    def __init__(self, fence: int, since: float, until: float, shared: bool) -> None:
        self.fence = fence
        self.since = since
        self.until = until
        self.shared = shared


class LockServer:
    """One lock: its holders until their deadlines, a fence that only grows, and a queue.

    Args:
        wake: Signals to a waiter, with the fence of what it is given; false if its process is gone.
        permits: How many may hold it side by side, unless one holds it for itself alone.
        exclusive: Whether a holder that does not share takes all permits (a lock, a writer) or
            one (a semaphore).
    """

    def __init__(
        self, wake: Callable[[str, str], bool], *, permits: int = 1, exclusive: bool = True
    ) -> None:
        self.permits = permits
        self.exclusive = exclusive
        self.holds: dict[str, Hold] = {}
        self.fence = 0
        self.ended: dict[int, tuple[End, float]] = {}
        self.queue: list[tuple[str, str, bool]] = []
        self.fences: list[int] = []
        self.wake = wake

    def __call__(self, command: tuple[str, dict[str, Any]], now: float) -> Any:
        """Carry one command out."""
        name, arguments = command
        self.expire(now)
        return getattr(self, name)(now, **arguments)

    def expire(self, now: float) -> None:
        """Forget whoever did not renew in time."""
        over = [owner for owner, hold in self.holds.items() if hold.until <= now]
        for owner in over:
            self.end(owner, "expired", now)
        if over:
            self.hand_over(now)

    # --- commands

    def acquire(
        self, now: float, owner: str, ttl: float, waiter: str | None, shared: bool
    ) -> tuple[Any, ...]:
        """Grant what is free and nobody waits for; the same owner asking again keeps its fence."""
        if (hold := self.mine(owner)) is not None:
            hold.until = now + ttl
            return ("grant", hold.fence)
        if self.may_pass(shared) and self.is_free(shared):
            return ("grant", self.grant(now, owner, ttl, shared))
        if waiter is not None and all(waiter != each for each, _, _ in self.queue):
            self.queue.append((waiter, owner, shared))
            self.hand_over(now)  # to those before it, if they have died meanwhile
            if owner in self.holds:
                return self.acquire(now, owner, ttl, waiter, shared)
        if not self.holds:
            return ("held", "", self.fence, GRANT_LIVES, 0.0)
        holder, hold = next(iter(self.holds.items()))
        return ("held", holder, self.fence, hold.until - now, now - hold.since)

    def renew(self, now: float, owner: str, ttl: float) -> bool:
        """Only whoever holds the lock may renew it."""
        if owner not in self.holds:
            return False
        self.holds[owner].until = now + ttl
        return True

    def release(self, now: float, owner: str, fence: int) -> bool:
        """Only whoever holds the lock may free it; asked twice, it says yes twice."""
        if owner not in self.holds:
            return self.has_released(owner, fence)
        self.end(owner, "released", now)
        self.hand_over(now)
        return True

    def transfer(self, now: float, owner: str, to: str, ttl: float) -> tuple[int, float] | None:
        """Make another one the holder, under a new fence; asked twice, that is done once."""
        if to not in self.holds:
            if owner not in self.holds:
                return None
            self.end(owner, "handed on", now)
            self.grant(now, to, ttl, shared=False)
        theirs = self.holds[to]
        return theirs.fence, theirs.until - now

    def force_release(self, now: float, owner: str) -> None:
        """An operator takes the lock from whoever holds it."""
        for holder in list(self.holds):
            self.end(holder, "forced", now)
        self.hand_over(now)

    def withdraw(self, now: float, owner: str, waiter: str) -> None:
        """Wait no longer, and give back what was handed over meanwhile."""
        self.queue = [each for each in self.queue if each[0] != waiter]
        if owner in self.holds:
            self.end(owner, "released", now)
        self.hand_over(now)

    def end(self, owner: str, how: End, now: float) -> None:
        """A hold is over."""
        self.ended[self.holds.pop(owner).fence] = how, now

    # --- what the variants break

    def mine(self, owner: str) -> Hold | None:
        """What an acquire that is sent again finds."""
        return self.holds.get(owner)

    def has_released(self, owner: str, fence: int) -> bool:
        """What a release that is sent again finds."""
        return fence in self.ended and self.ended[fence][0] == "released"

    def may_pass(self, shared: bool) -> bool:
        """Whether a newcomer need not queue up."""
        return not self.queue

    def is_free(self, shared: bool) -> bool:
        """Whether there is a permit for one more holder of this kind."""
        if not self.exclusive:
            return len(self.holds) < self.permits
        return not self.holds or (shared and all(hold.shared for hold in self.holds.values()))

    def next_fence(self, now: float) -> int:
        """Larger than every earlier one, also after the server lost its data."""
        return max(self.fence + 1, int(now * 1_000_000))

    def grant(self, now: float, owner: str, ttl: float, shared: bool) -> int:
        """Give one owner its hold."""
        self.fence = self.next_fence(now)
        self.fences.append(self.fence)
        self.holds[owner] = Hold(self.fence, now, now + ttl, shared)
        return self.fence

    def hand_over(self, now: float) -> None:
        """Grant what is free to those who waited longest and are still there."""
        while self.queue and self.is_free(self.queue[0][2]):
            waiter, owner, shared = self.queue.pop(0)
            if self.wake(waiter, str(self.next_fence(now))):
                self.grant(now, owner, GRANT_LIVES, shared)


class NoOwnerCheck(LockServer):
    """Broken: anybody's release frees the lock, as redis-py's did before tokens."""

    def release(self, now: float, owner: str, fence: int) -> bool:
        """Free the lock whoever holds it."""
        self.holds.clear()
        self.hand_over(now)
        return True


class ForgetfulAcquire(LockServer):
    """Broken: an acquire whose reply was lost finds itself in the way."""

    def mine(self, owner: str) -> Hold | None:
        """Never: a repeated acquire is like a stranger's."""
        return None


class DuplicateGrant(LockServer):
    """Broken: an acquire that is sent again is granted anew, as FencedLock counts re-entries."""

    def mine(self, owner: str) -> Hold | None:
        """The old hold, under a new fence."""
        if (hold := self.holds.get(owner)) is not None:
            hold.fence = self.fence = self.fence + 1
            self.fences.append(hold.fence)
        return hold


class ZombieRenewal(LockServer):
    """Broken: a renewal that is late brings a released lock back (redisson issue 7272)."""

    def renew(self, now: float, owner: str, ttl: float) -> bool:
        """Renew a free lock too."""
        if owner not in self.holds and self.is_free(shared=False):
            self.grant(now, owner, ttl, shared=False)
        return super().renew(now, owner, ttl)


class FenceStartsAgain(LockServer):
    """Broken: the fence is a counter that a release deletes (madelson's on MongoDB)."""

    def next_fence(self, now: float) -> int:
        """Count from one whenever the lock was free."""
        return self.fence + 1 if self.holds else 1


class GrantToTheDead(LockServer):
    """Broken: what is handed to a waiter that has died stays with it while the grant lives."""

    def hand_over(self, now: float) -> None:
        """Grant to the head of the queue, there or not."""
        while self.queue and self.is_free(self.queue[0][2]):
            waiter, owner, shared = self.queue.pop(0)
            self.wake(waiter, str(self.next_fence(now)))
            self.grant(now, owner, GRANT_LIVES, shared)


class ForgetfulWithdraw(LockServer):
    """Broken: whoever gives up in the moment of its grant keeps it."""

    def withdraw(self, now: float, owner: str, waiter: str) -> None:
        """Leave the queue, and nothing else."""
        self.queue = [each for each in self.queue if each[0] != waiter]


class StaysInLine(LockServer):
    """Broken: whoever is cancelled gives back what it was granted, and waits on."""

    def withdraw(self, now: float, owner: str, waiter: str) -> None:
        """Leave the queue as it is."""
        super().withdraw(now, owner, waiter="")


class OneReleaseIsRemembered(LockServer):
    """Broken: a release sent again is a loss once another one has released."""

    last = ""

    def release(self, now: float, owner: str, fence: int) -> bool:
        """Remember the last one."""
        if owner in self.holds:
            self.last = owner
        return super().release(now, owner, fence)

    def has_released(self, owner: str, fence: int) -> bool:
        """Whether that was the last one."""
        return owner == self.last


class EveryReleaseIsConfirmed(LockServer):
    """Broken: whose lock was taken away is told that it gave it back."""

    def has_released(self, owner: str, fence: int) -> bool:
        """Whoever does not hold it any more."""
        return True


class TransferKeepsTheFence(LockServer):
    """Broken: who hands the lock on may still write under its fence."""

    def transfer(self, now: float, owner: str, to: str, ttl: float) -> tuple[int, float] | None:
        """Another name on the same hold."""
        if owner in self.holds:
            self.holds[to] = self.holds.pop(owner)
        return super().transfer(now, owner, to, ttl)


class LostWakeUp(LockServer):
    """Broken: a release frees the lock and tells nobody (redisson issue 5761)."""

    def release(self, now: float, owner: str, fence: int) -> bool:
        """Leave it to the waiters' own slow look."""
        queue, self.queue = self.queue, []
        answer = super().release(now, owner, fence)
        self.queue = queue
        return answer


class ReaderPastWriter(LockServer):
    """Broken: readers join readers while a writer waits, for ever if need be."""

    def may_pass(self, shared: bool) -> bool:
        """A reader asks nobody."""
        return shared or not self.queue


class OneTooMany(LockServer):
    """Broken: a semaphore counted with `<=`."""

    def is_free(self, shared: bool) -> bool:
        """Whether there are not more holders than permits yet."""
        return len(self.holds) <= self.permits


class ReaderBesideWriter(LockServer):
    """Broken: a reader looks only at the other readers."""

    def is_free(self, shared: bool) -> bool:
        """A writer waits for readers, and no reader for a writer."""
        return shared or not self.holds
