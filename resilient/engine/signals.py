"""Waiting is woken, not polled: one hub a process and backend.

Whoever waits (for a lock, for a duplicate's result, for somebody else's computation) has a `Waiter`
on the hub. The backend's source, one listening connection or poller, tells the hub which waiter to
wake, or hands it a broadcast (a circuit's transition, an invalidation) for a channel's listeners.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Protocol
from weakref import ref

from resilient.engine import identity
from resilient.engine.crew import Crew
from resilient.engine.forks import forget_in_child
from resilient.protocols.signals import (
    Flag,
    Follower,
    LoopSource,
    ReadableSource,
    SignalSource,
    TrackingSource,
)

if TYPE_CHECKING:
    import asyncio

__all__ = ["CHANGES", "CROWDED", "GiftedWaiter", "Hub", "Listener", "Waiter"]

POLL = 0.05
"""Seconds between two looks where a backend has no source of signals."""
CROWDED = 1.0
"""Seconds after a wait for which this process expects to wait again."""
RECHECK = 1.0
"""Seconds after which a waiter looks by itself, in case a signal was missed."""
CREW = 32
"""Threads at most that wait for one source to listen, for tasks."""

CHANGES = "changes"
"""The channel on which a follower is told of changed records."""

Listener = Callable[[str | None], None]
"""Called with a broadcast, on the source's thread; with `None` when some may have been missed."""


class Waiter(Protocol):
    """One thread's or task's wait. The drivers make them.

    Attributes:
        id: No other waiter of any process has it.
        channel: Where it is heard, if not by the hub's source.
    """

    id: str
    channel: str

    def wake(self) -> None:
        """Wake it, from any thread; a wake-up before the wait counts."""
        ...


class GiftedWaiter(Waiter, Protocol):
    """One that may be given something together with the wake-up.

    Attributes:
        gift: What came with the last one: the fence of a lock that was handed over; else `""`.
    """

    gift: str


class Hub:
    """The waiters and listeners of this process on one backend. Thread-safe.

    Attributes:
        channels: Those that somebody listens to; another tuple when there is another one.
        follower: Who wants to know what becomes of records.
        is_deaf: Whether the source has found that nothing can be heard through it.
    """

    def __init__(self, source: SignalSource | None = None) -> None:
        self._source = source
        self._tracking = source if isinstance(source, TrackingSource) else None
        self._looping = source if isinstance(source, LoopSource) else None
        self._readable = source if isinstance(source, ReadableSource) else None
        # As a `WeakValueDictionary`, without its Python code.
        self._waiters: dict[str, ref[Waiter]] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self.channels: tuple[str, ...] = ()
        self.follower: Follower | None = None
        self.is_deaf = False
        self._doubters: list[Listener] = []
        self._lock = threading.Lock()
        self._crew = Crew("resilient-listening", CREW, linger=0)  # what it does is done once
        forget_in_child(self._crew.forget)
        self.crowded_until = -math.inf
        """On the local clock: who asks before that had better register at once, a trip fewer."""

    @property
    def has_source(self) -> bool:
        """Whether anything tells this process what others do."""
        return self._source is not None and not self.is_deaf

    @property
    def recheck(self) -> float:
        """Seconds after which a waiter looks by itself."""
        return RECHECK if self.has_source else POLL

    def start(self) -> None:
        """Have the source listen; on return it hears everything sent from now on."""
        if self._source is not None and not self.is_deaf:
            self._source.start(self)

    def astart(self, start: Callable[[], None] | None = None) -> asyncio.Future[None]:
        """The same for a task: connecting may block, and so is done by a thread.

        Args:
            start: What calls `start`, and does more.
        """
        import asyncio

        # In the task's context: that says how long it may take.
        work = partial(copy_context().run, start or self.start)
        return self._crew.ask(asyncio.get_running_loop(), work)

    def channel_here(self) -> str:
        """The channel that the running loop hears by itself; or none."""
        return "" if self._looping is None else self._looping.channel_here()

    async def listen_here(self) -> str:
        """Have the running loop hear a channel of its own; nothing where it cannot."""
        return "" if self._looping is None else await self._looping.listen_here(self)

    def read_for(self, flag: Flag, seconds: float) -> None:
        """Read for all in the calling thread, if it may, until its flag is set, or not so long."""
        if self._readable is not None:
            self._readable.read_for(flag, seconds)

    def attend(self) -> None:
        """Have the source read by itself: somebody waits who cannot."""
        if self._readable is not None:
            self._readable.attend()

    def add(self, waiter: Waiter) -> None:
        """Let a waiter be woken, for as long as somebody else refers to it."""
        # Removed when it is gone: `pop` is called with the dead reference, for a default.
        gone: Callable[[object], object] = partial(self._waiters.pop, waiter.id)
        self._waiters[waiter.id] = ref(waiter, gone)

    def address(self, waiter: Waiter) -> str:
        """What a store is given so that the server can wake this waiter."""
        if waiter.channel:
            return f"{waiter.channel}|{waiter.id}"
        source = self._source
        return waiter.id if source is None or self.is_deaf else source.address(waiter.id)

    def listen(self, channel: str, listener: Listener, *, doubts: bool = False) -> None:
        """Have a listener called with every broadcast on a channel from now on; may block."""
        self.enlist(channel, listener, doubts=doubts)
        self.start()

    def enlist(self, channel: str, listener: Listener, *, doubts: bool = False) -> None:
        """Have a listener called with every broadcast on a channel, once the source has started.

        Args:
            channel: The channel.
            listener: What is called, with `None` once it hears again after it may have missed some.
            doubts: Whether it is called with `None` also as soon as it hears nothing any more.
        """
        with self._lock:
            self._listeners.setdefault(channel, []).append(listener)
            self.channels = tuple(self._listeners)
            if doubts:
                self._doubters.append(listener)

    def dismiss(self, channel: str, listener: Listener) -> None:
        """Have a listener called no more."""
        with self._lock:
            kept = [each for each in self._listeners.get(channel, ()) if each is not listener]
            self._listeners[channel] = kept  # another list: one may be gone through just now

    def follow(self, follower: Follower) -> None:
        """Have a follower told what becomes of records, if the source can, once it has started."""
        self.follower = follower
        if self._tracking is not None:
            self.enlist(CHANGES, follower.changed)

    @property
    def tracks(self) -> bool:
        """Whether a follower hears of every change, whoever made it."""
        return self._tracking is not None and self._tracking.tracks

    def doubt(self) -> None:
        """Tell those who want to know that nothing is heard any more."""
        for listener in list(self._doubters):
            listener(None)

    def deafen(self) -> None:
        """From now on it is as if there were no source: waiters look by themselves."""
        self.is_deaf = True
        self.doubt()
        self.wake_all()

    def wake(self, waiter: str) -> None:
        """Wake the waiter of this id, if it still waits; `id=gift` gives it something."""
        waiter, _, gift = waiter.partition("=")
        reference = self._waiters.get(waiter)
        found = None if reference is None else reference()
        if found is not None:
            if gift:
                found.gift = gift  # type: ignore[attr-defined]  # those who wait for a lock have it
            found.wake()

    def is_waiting(self, waiter: str) -> bool:
        """Whether the waiter of this id is in this process and still refers to it."""
        return waiter in self._waiters

    def wake_all(self) -> None:
        """Wake every waiter: something changed, or something may have been missed."""
        # A copy of the references: waiters come and go in other threads meanwhile.
        for reference in list(self._waiters.values()):
            waiter = reference()
            if waiter is not None:
                waiter.wake()

    @property
    def is_listening(self) -> bool:
        """Whether `start` would have nothing to do."""
        return self._source is None or self.is_deaf or self._source.is_listening

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiters)

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    @property
    def is_relied_on(self) -> bool:
        """Whether a connection on which nothing is heard any more must be noticed soon.

        By those who wait, and by those who want to know at once when nothing is heard.
        """
        return bool(self._waiters) or bool(self._doubters)

    def deliver(self, channel: str, message: str | None) -> None:
        """Hand a broadcast to the channel's listeners."""
        for listener in self._listeners.get(channel, ()):
            listener(message)

    def stop(self) -> None:
        """Stop the source; a later wait starts it again. What happens meanwhile is not heard."""
        if self._source is not None:
            self._source.stop()
            self.doubt()


def new_waiter_id() -> str:
    """An id that no other waiter of any process has."""
    return identity.new_owner().rpartition("|")[2]
