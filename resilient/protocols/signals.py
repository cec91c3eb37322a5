"""What a backend promises about waking those who wait."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

__all__ = [
    "Bell",
    "Flag",
    "Follower",
    "Hub",
    "LoopSource",
    "ReadableSource",
    "SignalSource",
    "TrackingSource",
]


class Hub(Protocol):
    """Where a source delivers what it hears: `resilient.engine.signals.Hub`. Thread-safe."""

    def wake(self, waiter: str) -> None:
        """Wake the waiter of this id, if it still waits; `id=gift` gives it something."""
        ...

    def is_waiting(self, waiter: str) -> bool:
        """Whether the waiter of this id still waits in this process."""
        ...

    def doubt(self) -> None:
        """Tell those who want to know that nothing is heard any more."""
        ...

    def deafen(self) -> None:
        """Go on as if there were no source: nothing can ever be heard through it."""
        ...

    def wake_all(self) -> None:
        """Wake every waiter of this process: something changed, or something may be missed."""
        ...

    def deliver(self, channel: str, message: str | None) -> None:
        """Hand a broadcast to the channel's listeners; `None`: messages may have been missed."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that somebody listens to: a source need not hear any other."""
        ...

    @property
    def follower(self) -> Follower | None:
        """Who wants to know what becomes of records."""
        ...

    @property
    def waiting(self) -> int:
        """How many wait."""
        ...

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits: a source that looks may look less often while nobody does."""
        ...

    @property
    def is_relied_on(self) -> bool:
        """Whether a connection on which nothing is heard any more must be noticed soon."""
        ...


class Follower(Protocol):
    """Who wants to know what becomes of the records that it has read, whoever changes them.

    A subject is a cache key, or `#` and a tag.
    """

    def concerns(self, subject: str) -> bool:
        """Whether it has read that, or is reading it; asked for every record that is changed."""
        ...

    def changed(self, message: str | None) -> None:
        """`"born subject"`: the birth of what is there now, 0 if nothing is; `None`: see `hear`."""
        ...


class SignalSource(Protocol):
    """One listening connection or poller a process and backend.

    It is started by the first waiter or listener, never before, and lives on a daemon thread.
    """

    @property
    def is_listening(self) -> bool:
        """Whether it hears everything that is sent now, so that `start` would not block."""
        ...

    def start(self, hub: Hub) -> None:
        """Begin to listen; return once everything that is sent from now on will be heard.

        Called again it only makes sure that the source listens (a fork, a lost connection). After
        a gap, be it that it was stopped, it delivers `None` on every channel and wakes everybody.
        """
        ...

    def address(self, waiter: str) -> str:
        """What a store is given so that the server can wake this waiter of this process."""
        ...

    def stop(self) -> None:
        """Stop listening and end the thread."""
        ...


@runtime_checkable
class LoopSource(SignalSource, Protocol):
    """One that tasks can hear in their own event loop, without its thread.

    What a server is given for such a waiter is the loop's channel, and the waiter's id behind a
    `|`. After a gap everybody who waits is woken, as by the thread.
    """

    def channel_here(self) -> str:
        """The channel on which the running loop hears everything that is sent now; or none."""
        ...

    async def listen_here(self, hub: Hub) -> str:
        """Have the running loop listen: its channel, or none where only a thread can."""
        ...


class Bell(Protocol):
    """What interrupts a thread that reads."""

    def ring(self) -> None:
        """Interrupt it."""
        ...


class Flag(Protocol):
    """What a thread waits for.

    Attributes:
        bell: What whoever sets the flag rings, while the thread reads.
    """

    bell: Bell | None

    def is_set(self) -> bool:
        """Whether it is set."""
        ...


@runtime_checkable
class ReadableSource(SignalSource, Protocol):
    """One whose connection a thread that waits may read itself, in the place of the source's own.

    What it is woken by needs no switch from that thread to this one then.
    """

    def read_for(self, flag: Flag, seconds: float) -> None:
        """Read in the calling thread until its flag is set, or for so many seconds.

        It may return sooner: another thread reads, or has to. The flag is set all the same.
        """
        ...

    def attend(self) -> None:
        """Have the source's own thread read: somebody waits who cannot."""
        ...


@runtime_checkable
class TrackingSource(SignalSource, Protocol):
    """One that can tell of changed records, too: of expired and evicted ones, and of those that
    were written by other means than this library.

    It tells of them on the channel `resilient.engine.signals.CHANGES`, to a `Follower`.
    """

    @property
    def tracks(self) -> bool:
        """Whether it does so now; a server may be too old, or not allow it."""
        ...
