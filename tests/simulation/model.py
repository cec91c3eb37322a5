"""A lock server as a plain object: what `protocols/locks.py` promises, written apart.

It imports nothing of the library. Times are seconds of the server's own clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Violation(AssertionError):
    """Something happened that must never happen."""


class LockServer:
    """One lock: an owner until a deadline, a fence that only grows, and a queue of waiters."""

    def __init__(self, wake: Callable[[str], None]) -> None:
        self.owner: str | None = None
        self.until = 0.0
        self.since = 0.0
        self.fence = 0
        self.released: str | None = None
        self.queue: list[str] = []
        self.fences: list[int] = []
        self.gone: set[str] = set()
        self._wake = wake

    def __call__(self, command: tuple[str, dict[str, Any]], now: float) -> Any:
        """Carry one command out."""
        name, arguments = command
        answer = getattr(self, name)(now, **arguments)
        if self.held(now) and self.owner in self.gone:
            raise Violation(f"{self.owner} holds the lock again after it released it")
        return answer

    def held(self, now: float) -> bool:
        """Whether somebody holds the lock."""
        return self.owner is not None and now < self.until

    def acquire(self, now: float, owner: str, ttl: float, waiter: str | None) -> tuple[Any, ...]:
        """Grant a free lock; the same owner asking again keeps its fence."""
        if self.held(now) and not self.is_mine(owner):
            if waiter is not None and waiter not in self.queue:
                self.queue.append(waiter)
            assert self.owner is not None
            return ("held", self.owner, self.fence, self.until - now, now - self.since)
        if waiter in self.queue:
            self.queue.remove(waiter)
        if not self.held(now):
            self.fence, self.since = self.next_fence(now), now
            self.fences.append(self.fence)
        self.owner, self.until = owner, now + ttl
        return ("grant", self.fence)

    def is_mine(self, owner: str) -> bool:
        """Whether an acquire by this owner is a repeated one."""
        return owner == self.owner

    def next_fence(self, now: float) -> int:
        """Larger than every earlier one, also after the server lost its data."""
        return max(self.fence + 1, int(now * 1_000_000))

    def renew(self, now: float, owner: str, ttl: float) -> bool:
        """Only whoever holds the lock may renew it."""
        if not self.held(now) or owner != self.owner:
            return False
        self.until = now + ttl
        return True

    def release(self, now: float, owner: str) -> bool:
        """Only whoever holds the lock may free it; asked twice, it says yes twice."""
        if not self.held(now) or owner != self.owner:
            return owner == self.released
        self.gone.add(owner)
        self.free()
        self.released = owner
        return True

    def free(self) -> None:
        """Free the lock, and wake whoever waited longest."""
        self.owner = None
        if self.queue:
            self._wake(self.queue.pop(0))

    def withdraw(self, now: float, owner: str, waiter: str) -> None:
        """Forget a waiter; a wake-up that was meant for it goes to the next one."""
        if waiter in self.queue:
            self.queue.remove(waiter)
        if self.held(now) and owner == self.owner:
            self.release(now, owner)
        elif not self.held(now):
            self.free()


class NoOwnerCheck(LockServer):
    """Broken: anybody's release frees the lock, as redis-py's did before tokens."""

    def release(self, now: float, owner: str) -> bool:
        """Free the lock whoever holds it."""
        self.gone.add(owner)
        self.free()
        return True


class ForgetfulAcquire(LockServer):
    """Broken: an acquire whose reply was lost finds itself in the way."""

    def is_mine(self, owner: str) -> bool:
        """Never: a repeated acquire is like a stranger's."""
        return False


class ZombieRenewal(LockServer):
    """Broken: a renewal that is late brings a released lock back (redisson issue 7272)."""

    def renew(self, now: float, owner: str, ttl: float) -> bool:
        """Renew a free lock too."""
        if self.held(now) and owner != self.owner:
            return False
        self.owner, self.until = owner, now + ttl
        return True


class FenceStartsAgain(LockServer):
    """Broken: the fence is a counter that a release deletes (madelson's on MongoDB)."""

    def next_fence(self, now: float) -> int:
        """Count from one after each release."""
        return 1 if self.released is not None and self.owner is None else self.fence + 1
