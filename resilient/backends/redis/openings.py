"""Connections to servers of a cluster that are opened beside the one thread that listens."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from redis import exceptions as redis_errors

from resilient.backends.redis.lanes import channel_of
from resilient.backends.redis.subscription import RedisSubscription
from resilient.backends.redis.topology import ClusterSettings, Place
from resilient.engine.listening import Bell
from resilient.errors import BackendError

__all__ = ["Opening", "Openings"]

AT_ONCE = 8
"""Servers that are connected to at once."""


class Opening:
    """One attempt to hear one server; used by one thread at a time.

    Attributes:
        channel: The process's own there.
        node: The connection.
        error: Why there is none.
        is_void: Whether nobody wants it any more.
    """

    def __init__(self, place: Place, lane: int) -> None:
        self.place = place
        self.lane = lane
        self.channel = ""
        self.node: RedisSubscription | None = None
        self.error: BackendError | None = None
        self.is_void = False

    def close(self) -> None:
        """Close what there is of it; who is at it closes what comes later."""
        self.is_void = True
        if self.node is not None:
            self.node.close()


class Openings:
    """Attempts under way. They have no lock, which a forked child might find held for ever.

    Args:
        settings: How to connect.
        own: The process's channel.
        is_relied_on: As for `Silence`.
        bell: What is rung at the end of each, and interrupts the waiting on what they have opened.
    """

    def __init__(
        self, settings: ClusterSettings, own: str, is_relied_on: Callable[[], bool], bell: Bell
    ) -> None:
        self._settings = settings
        self._own = own
        self._is_relied_on = is_relied_on
        self._bell = bell
        self._under_way: dict[Place, Opening] = {}
        self._todo: deque[Opening] = deque()
        self._ended: deque[Opening] = deque()

    def __bool__(self) -> bool:
        """Whether any is under way, or has ended and was not taken yet."""
        return bool(self._under_way)

    @property
    def has_ended(self) -> bool:
        """Whether any has ended and was not taken yet."""
        return bool(self._ended)

    def begin(self, lanes: Iterable[tuple[Place, int]]) -> None:
        """Connect to servers, each on its lane."""
        begun = [Opening(place, lane) for place, lane in lanes]
        self._under_way.update({opening.place: opening for opening in begun})
        self._todo.extend(begun)
        for _ in begun[:AT_ONCE]:
            threading.Thread(target=self._work, name="resilient-opening", daemon=True).start()

    def taken(self) -> Iterable[Opening]:
        """Those that have ended, well or not; each once."""
        while self._ended:
            opening = self._ended.popleft()
            if not opening.is_void:
                del self._under_way[opening.place]
                yield opening

    def close(self) -> None:
        """Give up all of them."""
        for opening in self._under_way.values():
            opening.close()
        self._under_way = {}

    # --- a thread beside

    def _work(self) -> None:
        while True:
            try:
                opening = self._todo.popleft()
            except IndexError:
                return
            try:
                if not opening.is_void:
                    self._open(opening)
            except BaseException as error:
                opening.error = _wrapped(self._settings.name, error)
            if opening.is_void:
                opening.close()
            self._ended.append(opening)
            self._bell.ring()

    def _open(self, opening: Opening) -> None:
        try:
            self._connect(opening, sharded=True)
        except BackendError as error:
            if not _has_no_shards(error.__cause__):
                raise
            self._connect(opening, sharded=False)

    def _connect(self, opening: Opening, *, sharded: bool) -> None:
        opening.channel = channel_of(self._own, opening.lane, sharded=sharded)
        settings = self._settings.at(opening.place)
        node = opening.node = RedisSubscription(settings, self._is_relied_on)
        try:
            node.open({opening.channel})
        except BaseException:
            node.close()
            raise
        finally:
            node.bell.close()  # nobody else may wait on that of the others yet
            node.bell = self._bell


def _has_no_shards(error: BaseException | None) -> bool:
    """Whether a server is too old for sharded channels, or its user may not use them."""
    if isinstance(error, redis_errors.NoPermissionError):
        return True
    return isinstance(error, redis_errors.ResponseError) and "unknown command" in str(error).lower()


def _wrapped(name: str, error: BaseException) -> BackendError:
    if isinstance(error, BackendError):
        return error.with_traceback(None)
    made = BackendError(f"{name}: {error!r}")
    made.__cause__ = error.with_traceback(None)
    return made
