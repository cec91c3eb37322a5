"""A number of places in this process: who finds none free stands in line for the next one."""

from __future__ import annotations

import threading
from collections import deque

from resilient.engine.forks import forget_in_child
from resilient.engine.signals import Hub, Waiter

__all__ = ["Places"]


class Places:
    """Thread-safe, and shared by threads and tasks. A place that is left goes to the next in line.

    Args:
        limit: How many there are.

    Attributes:
        limit: That.
        hub: Where those in line are woken.
        era: Another number in a forked child.
    """

    era = 0

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.hub = Hub()
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        # Who is in, or in line, is not there in a forked child.
        self.era += 1
        self._lock = threading.Lock()
        self._free = self.limit
        self._line: deque[Waiter] = deque()
        self._called: set[str] = set()

    def enter(self, seat: list[int]) -> bool:
        """Take a place if there is one, and nobody stands in line for it.

        Args:
            seat: Has the era then: whoever is interrupted as this returns gives back what it has.
        """
        with self._lock:
            if self._free and not self._line:
                self._free -= 1
                seat.append(self.era)
                return True
        return False

    def line_up(self, waiter: Waiter) -> None:
        """Stand in line, or take the place that has just become free."""
        with self._lock:
            if self._free and not self._line:
                self._free -= 1
                self._called.add(waiter.id)
            else:
                self._line.append(waiter)

    def is_in(self, waiter: Waiter) -> bool:
        """Whether it has been given a place."""
        return waiter.id in self._called

    def step_out(self, waiter: Waiter, seat: list[int]) -> bool:
        """It waits no longer; whether it has a place now."""
        with self._lock:
            if waiter.id in self._called:
                seat[:] = (self.era,)
                self._called.discard(waiter.id)
                return True
            if waiter in self._line:  # not so in a forked child
                self._line.remove(waiter)
            return False

    def leave(self, seat: list[int]) -> None:
        """Give a place to the next in line, or back.

        Args:
            seat: What was taken; in a forked child it is another one's.
        """
        with self._lock:
            if self.era not in seat:
                return
            if not self._line:
                self._free += 1
                del seat[:]
                return
            # Without calls, after each of which it may be interrupted.
            following = self._line[0]
            self._called |= {following.id}
            del self._line[0], seat[:]
        following.wake()
