"""The thread on which a source of signals listens: after each loss of its connection once more."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from resilient.errors import BackendError

if TYPE_CHECKING:
    from resilient.engine.listening import ListeningSource, Subscription

__all__ = ["CannotListen", "Listener"]

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between two attempts to connect."""

log = logging.getLogger("resilient")


class CannotListen(BackendError):
    """Over such a connection nothing is ever heard: a pooler shares its session with others."""


class Listener(threading.Thread):
    """The thread.

    Args:
        name: The server, for the thread's name.
        subscription: Its connection.
        source: Whom it tells what it hears.
        gap: Whether others have listened before it: what was sent since they ended is missed.
    """

    def __init__(
        self, name: str, subscription: Subscription, source: ListeningSource, *, gap: bool
    ) -> None:
        super().__init__(name=f"resilient-signals-{name}", daemon=True)
        self._source = source
        self._changed = threading.Condition()
        self._error: BackendError | None = None
        self._stopping = False
        self._has_missed = gap
        self.ended = False
        self.subscription = subscription

    # --- called by others

    def hears_all(self) -> bool:
        """Whether everything that is wanted now is subscribed."""
        return self.subscription.confirmed >= self._source.channels()

    def await_confirmation(self, patience: float) -> None:
        """Block until everything that is wanted is subscribed, or an attempt has failed."""
        deadline = time.monotonic() + patience
        with self._changed:
            self._error = None
            self.subscription.bell.ring()
            while not (self._source.is_deaf or self.hears_all()):
                if self._error is not None:
                    raise self._error
                if self.ended or time.monotonic() >= deadline:
                    self._has_missed = True
                    raise BackendError(f"{self.name}: the subscription was not confirmed in time")
                self._changed.wait(deadline - time.monotonic())

    def stop(self, patience: float) -> None:
        """End the thread."""
        self._stopping = True
        self.subscription.bell.ring()
        if self is not threading.current_thread():
            self.join(patience)

    # --- the thread

    def run(self) -> None:
        """Listen, and after a loss listen again, until stopped."""
        pause, gap = FIRST_PAUSE, False
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
        told: frozenset[str] | None = None
        while not self._stopping:
            # After a gap, or because somebody went on without waiting to be heard.
            if self._has_missed and self.hears_all():
                self._has_missed = False
                self._source.missed()
            # Whoever was woken by what was heard last goes on only when this thread waits again.
            if self.subscription.confirmed is not told:
                told = self.subscription.confirmed
                self._tell(None)
            self.subscription.add(self._source.channels())
            for channel, message in self.subscription.receive():
                self._source.heard(channel, message)

    def _tell(self, error: Exception | None) -> None:
        """Let those who wait for the confirmation look again."""
        if error is not None and not isinstance(error, BackendError):
            wrapped = BackendError(f"{self.name}: {error!r}")
            wrapped.__cause__ = error
            error = wrapped
        with self._changed:
            self._error = error
            self._changed.notify_all()
