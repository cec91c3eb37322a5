"""A source of signals that listens to a server: one subscribed connection on a daemon thread.

Every process has a channel of its own, on which the server names the waiters to wake, and hears
the broadcasts that it has listeners for. What was sent while the connection was away is lost: so
each time after it is back *and subscribed*, everybody is woken and told that something may be
missed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from resilient.engine.budget import remaining
from resilient.engine.forks import forget_in_child
from resilient.engine.listener import CannotListen, Listener
from resilient.errors import BackendError
from resilient.protocols.signals import Flag, Hub

__all__ = ["ANSWER", "Bell", "CannotListen", "ListeningSource", "Silence", "Subscription"]

QUIET = 1.0
"""Seconds of silence after which the server is asked for a sign of life, if somebody relies on
hearing everything at once."""
LULL = 30.0
"""And if nobody does: an idle process is as good as no work for the server."""
ANSWER = 0.75
"""Seconds for it to give one: so a connection that leads nowhere is noticed well within two."""

log = logging.getLogger("resilient")


class Subscription(Protocol):
    """A subscribed connection; used by one thread, but for `bell`, `confirmed` and `unheard`."""

    bell: Bell
    confirmed: frozenset[str]
    """The channels on which everything that is sent now will be heard."""
    unheard: frozenset[str]
    """Those on which a part of it cannot be heard at present: nobody is kept waiting for that."""

    def open(self, channels: set[str]) -> None:
        """Connect, subscribe and have that confirmed.

        Raises:
            CannotListen: It is of no use to try again.
            BackendError: It failed.
        """
        ...

    def add(self, channels: set[str]) -> None:
        """Subscribe what is not subscribed yet; the confirmation may come with `receive`."""
        ...

    def receive(self) -> Iterator[tuple[str, str | None]]:
        """Wait until something arrives or the bell rings; the channels and messages that did.

        The message `None`: the server has lost what it had.

        Raises:
            BackendError: The connection is lost, or leads nowhere.
        """
        ...

    def close(self) -> None:
        """Close the connection; in a forked child without a farewell to the server."""
        ...


class Bell:
    """What others ring to interrupt a thread that waits on a connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ear, self._rope = socket.socketpair()
        self._ear.setblocking(False)
        self._rope.setblocking(False)
        self._number = self._ear.fileno()
        # It keeps nothing in the kernel, which a forked child would share.
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)
        self._beside: tuple[int, ...] = ()
        self.limit = math.inf
        """Seconds for which a wait lasts at most, whatever it is for."""

    def ring(self) -> None:
        """Interrupt the waiting, from any thread."""
        with self._lock, contextlib.suppress(OSError):
            self._rope.send(b"!")  # full: it rings already; closed: nobody waits

    def wait(self, seconds: float, *beside: int) -> str:
        """Wait until it rings, something happens on one of the files `beside`, or so long.

        Returns:
            What happened: `"file"`, else `"bell"`, else nothing.
        """
        if beside != self._beside:
            self._look_at(beside)
        happened = ""
        for file, _ in self._poll.poll(max(0, math.ceil(1000 * min(seconds, self.limit)))):
            if file != self._number:
                happened = "file"
                continue
            with contextlib.suppress(BlockingIOError):
                self._ear.recv(4096)
            happened = happened or "bell"
        return happened

    def _look_at(self, beside: tuple[int, ...]) -> None:
        for file in self._beside:
            self._poll.unregister(file)
        for file in beside:
            self._poll.register(file, select.POLLIN)
        self._beside = beside

    def close(self) -> None:
        """Close it, for good."""
        with self._lock:
            self._ear.close()
            self._rope.close()

    def forget(self) -> None:
        """Close what a forked child has inherited, and its parent goes on with."""
        self._lock = threading.Lock()  # the parent may have held it in the moment of the fork
        self.close()


class Silence:
    """For how long nothing has been heard, and when that is suspicious.

    Args:
        is_relied_on: Whether somebody would be misled if nothing were heard and nobody noticed.
    """

    def __init__(self, is_relied_on: Callable[[], bool]) -> None:
        self._is_relied_on = is_relied_on
        self.broken()

    def broken(self) -> None:
        """Something was heard."""
        self._began = time.monotonic()
        self._look_at = self._began + QUIET

    def left(self) -> float:
        """Seconds until it is to be looked at."""
        return self._look_at - time.monotonic()

    def is_suspicious(self) -> bool:
        """Whether the server is to be asked for a sign of life now."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + QUIET
        return now - self._began >= LULL or self._is_relied_on()

    def expect(self, seconds: float) -> None:
        """It is to be over within so many seconds."""
        self._look_at = time.monotonic() + seconds


class ListeningSource(ABC):
    """Where a hub's signals come from (`resilient.protocols.signals.SignalSource`).

    Args:
        name: The server, for the thread's name.
        patience: Seconds for which `start` waits for the confirmation.
    """

    is_readable = True
    """Whether any thread may read what arrives."""

    def __init__(self, name: str, patience: float) -> None:
        self._name = name
        self._patience = patience
        self._hub: Hub | None = None
        self._listener: Listener | None = None
        self._has_listened = False
        self.is_deaf = False
        self._wanted: tuple[str, tuple[str, ...], set[str]] = "", (), set()
        self._begin()
        forget_in_child(self._forget)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._process = secrets.token_hex(8)
        self._own: str | None = None

    def _forget(self) -> None:
        listener, self._listener = self._listener, None
        self._begin()
        if listener is not None:
            # Else the server would count this process among the parent's after its death.
            listener.subscription.bell.forget()
            listener.subscription.close()

    # --- what a backend says

    @abstractmethod
    def _subscription(self) -> Subscription:
        """A new subscription, not connected yet."""

    @abstractmethod
    def _own_channel(self, process: str) -> str:
        """The server's name for the channel of one process."""

    @abstractmethod
    def _broadcast(self, channel: str) -> str:
        """The server's name for a channel that every process hears."""

    # --- a source of signals

    @property
    def is_listening(self) -> bool:
        """Whether it hears everything that is sent now, so that `start` would not block."""
        listener = self._listener
        return self.is_deaf or (listener is not None and listener.hears_all())

    @property
    def _listening_on(self) -> Subscription | None:
        """The connection on which it listens, if it does."""
        listener = self._listener
        return None if listener is None else listener.subscription

    def is_relied_on(self) -> bool:
        """Whether somebody would be misled if nothing were heard and nobody noticed."""
        return self._hub is not None and self._hub.is_relied_on

    def start(self, hub: Hub) -> None:
        """Begin to listen; return once everything that is sent from now on will be heard.

        Raises:
            BackendError: The server could not be reached in time, or within the caller's budget
                (`resilient.engine.budget`); it will be tried again.
        """
        self._hub = hub
        if self.is_listening:
            return
        with self._lock:
            if self._listener is None or self._listener.ended:
                gap, self._has_listened = self._has_listened, True
                self._listener = self._begun(gap)
            listener = self._listener
        left = remaining()
        listener.await_confirmation(self._patience if left is None else min(left, self._patience))

    def _begun(self, gap: bool) -> Listener:
        """A listener at work; where no thread can be started, the next call tries again."""
        listener = Listener(self._name, self._subscription, self, gap=gap)
        try:
            listener.start()
        except RuntimeError as error:
            listener.subscription.bell.close()
            raise BackendError(f"{self._name}: nobody can listen: {error}") from error
        return listener

    def address(self, waiter: str) -> str:
        """The process's channel and the waiter's id there."""
        return f"{self.own_name()}|{waiter}"

    def read_for(self, flag: Flag, seconds: float) -> None:
        """Read in the calling thread until its flag is set, or not so long, if nobody does."""
        listener = self._listener
        if listener is not None and self.is_readable:
            listener.read_for(flag, seconds)

    def attend(self) -> None:
        """Have the listening thread read: somebody waits who cannot."""
        listener = self._listener
        if listener is not None and listener.is_resting:
            listener.call()

    def stop(self) -> None:
        """Stop listening and end the thread."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop(self._patience)

    # --- what the listener asks and reports

    @property
    def is_lonely(self) -> bool:
        """Whether no more than one waits."""
        return self._hub is None or self._hub.waiting <= 1

    def channels(self) -> set[str]:
        """What is to be subscribed: the process's own channel, and the broadcasts."""
        process, wanted = self._process, () if self._hub is None else self._hub.channels
        known = self._wanted
        if known[0] != process or known[1] is not wanted:  # asked often: before every cached read
            names = {self.own_name(), *map(self._broadcast, wanted)}
            known = self._wanted = process, wanted, names
        return known[2]

    def heard(self, channel: str, message: str | None) -> None:
        """Hand on a message."""
        hub = self._hub
        if hub is None:
            return
        if message is None:
            self._tell(channel, hub.wake_all)
        elif channel == self.own_name():
            self.named(message)
            return
        for wanted in hub.channels:
            if self._broadcast(wanted) == channel:
                self._tell(channel, hub.deliver, wanted, message)

    def named(self, message: str) -> None:
        """Wake those who are named in what came to this process's own channel."""
        hub = self._hub
        assert hub is not None  # it was begun by one
        for waiter in message.split(" "):
            self._tell(self._name, hub.wake, waiter)

    def own_name(self) -> str:
        """The channel of this process; a forked child has another one."""
        name = self._own
        if name is None:
            name = self._own = self._own_channel(self._process)
        return name

    def missed(self) -> None:
        """Tell everybody that something may have been missed."""
        if self._hub is not None:
            for channel in self._hub.channels:
                self._tell(channel, self._hub.deliver, channel, None)
            self._tell(self._name, self._hub.wake_all)

    def deafen(self) -> None:
        """Have everybody look by themselves from now on."""
        self.is_deaf = True
        if self._hub is not None:
            self._hub.deafen()

    def lost(self) -> None:
        """Tell those who trust in hearing everything that they do not."""
        if self._hub is not None:
            self._tell(self._name, self._hub.doubt)

    def _tell(self, channel: str, listener: Callable[..., None], *what: Any) -> None:
        try:
            listener(*what)
        except Exception:  # one listener's fault must not make the others deaf
            log.exception("a listener to %r failed", channel)
