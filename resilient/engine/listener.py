"""The thread on which a source of signals listens: after each loss of its connection once more.

A thread that waits may read in its place. Where one waits again and again, for a lock that many
want, nothing has to be handed from this thread to that one; this one rests meanwhile.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilient.errors import BackendError
from resilient.protocols.signals import Flag

if TYPE_CHECKING:
    from resilient.engine.listening import ListeningSource, Subscription

__all__ = ["CannotListen", "Listener"]

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between two attempts to connect."""
REST = 0.01
"""Seconds between two looks whether others read still: if both times nobody did, this one does."""
NAP = 0.05
"""The same where nothing is heard but what wakes those who read by themselves."""
GRACE = 1.0
"""Seconds past its time after which a thread that reads is given up: an interrupt may have hit it
where it could tell nobody."""

log = logging.getLogger("resilient")


class CannotListen(BackendError):
    """Over such a connection nothing is ever heard: a pooler shares its session with others."""


class Listener(threading.Thread):
    """The thread.

    Args:
        name: The server, for the thread's name.
        connection: Makes its connection.
        source: Whom it tells what it hears.
        gap: Whether others have listened before it: what was sent since they ended is missed.
    """

    def __init__(
        self,
        name: str,
        connection: Callable[[], Subscription],
        source: ListeningSource,
        *,
        gap: bool,
    ) -> None:
        super().__init__(name=f"resilient-signals-{name}", daemon=True)
        self._source = source
        # Entered by itself: to enter a condition is a call, after which it may be interrupted.
        self._telling = threading.Lock()
        self._changed = threading.Condition(self._telling)
        self._error: BackendError | None = None
        self._stopping = False
        self._has_missed = gap
        self.ended = False
        self._connection = connection
        self.subscription = connection()
        self._reading = threading.Lock()
        """Whoever has it reads: this thread, but while it rests."""
        self._called = threading.Event()
        self._called.set()
        """Set while this thread is to read by itself."""
        self._is_relieved = False
        self._reads_until = -math.inf
        self._turns = 0
        """How often others have begun to read."""
        self._left: deque[tuple[str, str | None]] = deque()
        """What another thread has read that is not its own affair."""
        self._broken: BackendError | None = None

    # --- called by others

    def hears_all(self) -> bool:
        """Whether everything that is wanted now is subscribed."""
        return self.subscription.confirmed >= self._source.channels()

    def hears_what_can_be(self) -> bool:
        """Whether there is nothing more that would be heard soon."""
        subscription = self.subscription
        return subscription.confirmed | subscription.unheard >= self._source.channels()

    def await_confirmation(self, patience: float) -> None:
        """Block until all is subscribed that can be, or an attempt has failed."""
        if self.hears_what_can_be():
            return
        deadline = time.monotonic() + patience
        with self._telling:
            self._error = None
            self.call()
            while not (self._source.is_deaf or self.hears_what_can_be()):
                if self._error is not None:
                    raise self._error
                if self.ended or time.monotonic() >= deadline:
                    self._has_missed = True
                    raise BackendError(f"{self.name}: the subscription was not confirmed in time")
                self._changed.wait(deadline - time.monotonic())

    def stop(self, patience: float) -> None:
        """End the thread."""
        self._stopping = True
        self.call()
        if self is not threading.current_thread():
            self.join(patience)

    def call(self) -> None:
        """Have this thread look what is wanted of it, whoever reads."""
        self._called.set()
        self.subscription.bell.ring()

    @property
    def is_resting(self) -> bool:
        """Whether others may read in this thread's place."""
        return not self._called.is_set()

    def read_for(self, flag: Flag, seconds: float) -> None:
        """Read in the calling thread until its flag is set, this one is called, or so long.

        It wakes all who are named; what else it hears is left to this thread, so that nobody's
        code runs in a thread that has come for something else.
        """
        reading = self._reading
        if not reading.acquire(blocking=False):
            self._is_relieved = True
            if not reading.acquire(blocking=False):
                return  # who has it sees, once it has let it go, that somebody is left
        subscription = self.subscription  # and then: see `_give_up`
        if reading is not self._reading:
            reading.release()
            return
        bell, own = subscription.bell, self._source.own_name()
        broken: BackendError | None = None
        try:
            self._turns += 1
            until = self._reads_until = time.monotonic() + seconds
            while True:
                flag.bell = bell
                if flag.is_set():
                    break
                bell.limit = until - time.monotonic()
                if self._called.is_set() or bell.limit <= 0:
                    break
                for channel, message in subscription.receive():
                    flag.bell = None  # what it is woken by now, it reads here
                    if channel == own and message is not None:
                        self._source.named(message)
                    else:
                        self._left.append((channel, message))
                        self._called.set()
        except BackendError as error:
            broken = error
        except BaseException as error:  # something may have been read, and told to nobody
            broken = BackendError(f"{self.name}: who read was interrupted: {error!r}")
            raise
        finally:
            flag.bell, bell.limit = None, math.inf
            if reading is not self._reading:  # it has been given up, and another one is heard
                subscription.close()
                bell.close()
            elif broken is not None:
                self._broken = broken
                self._called.set()
            reading.release()
            if not self._source.is_lonely:
                self._called.set()

    # --- the thread

    def run(self) -> None:
        """Listen, and after a loss listen again, until stopped."""
        pause, gap = FIRST_PAUSE, False
        self._reading.acquire()
        try:
            while not self._stopping:
                try:
                    self.subscription.open(self._source.channels())
                    self._has_missed = self._has_missed or gap
                    pause, gap = FIRST_PAUSE, False
                    self._listen()
                except CannotListen as error:
                    log.info("%s: waiters look by themselves", error)
                    self._source.deafen()
                    return
                except Exception as error:
                    self.subscription.close()
                    if not gap:
                        self._source.lost()  # closed before: nothing is kept from here on
                    gap = True
                    if not isinstance(error, BackendError):  # what nobody has thought of
                        log.exception("%s: the connection is opened anew", self.name)
                        pause = LONGEST_PAUSE
                    self._tell(error)
                    if not self._stopping:
                        self.subscription.bell.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self.ended = True
            self.subscription.close()
            self.subscription.bell.close()
            if not self._stopping:
                self._source.lost()
            self._tell(None)

    def _listen(self) -> None:
        told: tuple[frozenset[str], frozenset[str]] | None = None
        while not self._stopping:
            # After a gap, or because somebody went on without waiting to be heard.
            if self._has_missed and self.hears_what_can_be():
                self._has_missed = False
                self._source.missed()
            # Whoever was woken by what was heard last goes on only when this thread waits again.
            state = self.subscription.confirmed, self.subscription.unheard
            if state != told:
                told = state
                self._tell(None)
            self.subscription.add(self._source.channels())
            was_named = False
            for channel, message in self.subscription.receive():
                self._source.heard(channel, message)
                was_named = was_named or channel == self._source.own_name()
            # Who was woken is the one who could have read by itself, and will the next time.
            if was_named and self._is_relieved and self._source.is_lonely:
                self._rest()

    def _rest(self) -> None:
        """Let who waits read, for as long as somebody does."""
        self._is_relieved = False
        self._reads_until = time.monotonic()
        self._called.clear()
        self._reading.release()
        # Somebody has come in this very moment, or called before it was noted that this one rests.
        if (
            self._is_relieved
            or self._stopping
            or not (self._source.is_lonely and self.hears_what_can_be())
        ):
            self._called.set()
        idle_since, overdue = -1, 0
        pause = REST if len(self._source.channels()) > 1 else NAP
        try:
            while not self._called.wait(pause) or not self._reading.acquire(timeout=REST):
                is_read = self._reading.locked()
                if is_read:
                    idle_since = -1
                elif idle_since != self._turns:
                    idle_since = self._turns
                elif self._reading.acquire(blocking=False):
                    break
                # In looks, not by the clock: the whole process may have stood still.
                is_late = is_read and time.monotonic() > self._reads_until
                overdue = overdue + 1 if is_late else 0
                if overdue > GRACE / REST:
                    self._give_up()
                    raise BackendError(f"{self.name}: who read has not come back")
        finally:
            self._called.set()
        broken, self._broken = self._broken, None
        while self._left:
            self._source.heard(*self._left.popleft())
        if broken is not None:
            raise broken

    def _give_up(self) -> None:
        """Leave the connection to the one that reads: it closes it if it ever comes back."""
        connection, reading = self._connection(), threading.Lock()
        reading.acquire()
        self._reading = reading  # first: who has the old one takes the old connection for its own
        self.subscription = connection

    def _tell(self, error: Exception | None) -> None:
        """Let those who wait for the confirmation look again."""
        if error is not None and not isinstance(error, BackendError):
            wrapped = BackendError(f"{self.name}: {error!r}")
            wrapped.__cause__ = error
            error = wrapped
        with self._telling:
            self._error = error
            self._changed.notify_all()
