"""Signals on Redis: one subscribed connection a process and backend, on a daemon thread.

Every process has a channel of its own, on which scripts name the waiters to wake, and hears the
broadcasts that it has listeners for. What was sent while the connection was away is lost: so each
time after it is back *and subscribed*, everybody is woken and told that something may be missed.
https://redis.io/docs/latest/develop/pubsub/#delivery-semantics
"""

from __future__ import annotations

import logging
import secrets
import threading
import time

from redis import exceptions as redis_errors

from resilient.backends.redis.failures import backend_error
from resilient.backends.redis.keys import Keys
from resilient.backends.redis.settings import Settings
from resilient.backends.redis.subscription import Subscription
from resilient.engine.forks import forget_in_child
from resilient.protocols.signals import Hub

__all__ = ["RedisSignals"]

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between two attempts to connect."""

log = logging.getLogger("resilient")


class RedisSignals:
    """Where a hub's signals come from (`resilient.protocols.signals.SignalSource`)."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys
        self._hub: Hub | None = None
        self._listener: _Listener | None = None
        self._begin()
        forget_in_child(self._forget)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._process = secrets.token_hex(8)

    def _forget(self) -> None:
        listener, self._listener = self._listener, None
        self._begin()
        if listener is not None:
            # Else the server would count this process among the parent's after its death.
            listener.subscription.forget()

    @property
    def is_listening(self) -> bool:
        """Whether it hears everything that is sent now, so that `start` would not block."""
        listener = self._listener
        return listener is not None and listener.hears_all()

    def start(self, hub: Hub) -> None:
        """Begin to listen; return once everything that is sent from now on will be heard.

        Raises:
            BackendError: The server could not be reached in time; it will be tried again.
        """
        self._hub = hub
        if self.is_listening:
            return
        with self._lock:
            if self._listener is None or self._listener.ended:
                self._listener = _Listener(self._settings, self)
                self._listener.start()
            listener = self._listener
        listener.await_confirmation()

    def address(self, waiter: str) -> str:
        """The process's channel and the waiter's id there."""
        return f"{self._keys.signal(self._process)}|{waiter}"

    def stop(self) -> None:
        """Stop listening and end the thread."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()

    # --- what the listener asks and reports

    def channels(self) -> set[str]:
        """What is to be subscribed: the process's own channel, and the broadcasts."""
        wanted = [] if self._hub is None else self._hub.channels
        return {self._keys.signal(self._process), *map(self._keys.broadcast, wanted)}

    def heard(self, channel: str, message: str) -> None:
        """Hand on a message."""
        if channel != self._keys.signal(self._process):
            self._deliver(channel.removeprefix(self._keys.broadcast("")), message)
        elif self._hub is not None:
            for waiter in message.split(" "):
                self._hub.wake(waiter)

    def missed(self) -> None:
        """Tell everybody that something may have been missed."""
        if self._hub is not None:
            for channel in self._hub.channels:
                self._deliver(channel, None)
            self._hub.wake_all()

    def _deliver(self, channel: str, message: str | None) -> None:
        try:
            if self._hub is not None:
                self._hub.deliver(channel, message)
        except Exception:  # one listener's fault must not make the others deaf
            log.exception("a listener to %r failed", channel)


class _Listener(threading.Thread):
    """The thread."""

    def __init__(self, settings: Settings, source: RedisSignals) -> None:
        super().__init__(name=f"resilient-signals-{settings.name}", daemon=True)
        self._settings = settings
        self._source = source
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._stopping = False
        self.ended = False
        self.subscription = Subscription(settings)

    # --- called by others

    def hears_all(self) -> bool:
        """Whether everything that is wanted now is subscribed."""
        return self.subscription.confirmed >= self._source.channels()

    def await_confirmation(self) -> None:
        """Block until everything that is wanted is subscribed, or an attempt has failed."""
        deadline = time.monotonic() + 2 * self._settings.connect_timeout
        with self._changed:
            self._error = None
            self.subscription.ring()
            while not self.hears_all():
                error = self._failure(deadline)
                if error is not None:
                    raise backend_error(self._settings.name, error) from error
                self._changed.wait(deadline - time.monotonic())

    def _failure(self, deadline: float) -> Exception | None:
        if self._error is None and (self.ended or time.monotonic() >= deadline):
            return redis_errors.TimeoutError("the subscription was not confirmed")
        return self._error

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self.subscription.ring()
        if self is not threading.current_thread():
            self.join(2 * self._settings.connect_timeout)

    # --- the thread

    def run(self) -> None:
        """Listen, and after a loss listen again, until stopped."""
        pause, gap = FIRST_PAUSE, False
        try:
            while not self._stopping:
                try:
                    self.subscription.open(self._source.channels())
                    if gap:
                        self._source.missed()
                    pause = FIRST_PAUSE
                    self._listen()
                except (redis_errors.RedisError, OSError) as error:
                    gap = True
                    self.subscription.close()
                    self._tell(error)
                    if not self._stopping:
                        self.subscription.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self.ended = True
            self.subscription.drop()
            self._tell(None)

    def _listen(self) -> None:
        self._tell(None)
        while not self._stopping:
            self.subscription.add(self._source.channels())
            for channel, message in self.subscription.receive():
                self._source.heard(channel, message)
            self._tell(None)

    def _tell(self, error: Exception | None) -> None:
        """Let those who wait for the confirmation look again."""
        with self._changed:
            self._error = error
            self._changed.notify_all()
