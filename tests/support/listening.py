"""A source of signals over connections on which arrives what the test says."""

from __future__ import annotations

import queue
from collections.abc import Iterator

from resilient.engine.listening import Bell, ListeningSource

__all__ = ["Source"]

Message = tuple[str, str | None]


class Line:
    """A connection on which arrives what the test says, errors among it."""

    def __init__(self, arriving: queue.Queue[Message | BaseException]) -> None:
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()
        self.unheard: frozenset[str] = frozenset()
        self._arriving = arriving

    def open(self, channels: set[str]) -> None:
        self.confirmed = frozenset(channels)

    def add(self, channels: set[str]) -> None:
        self.confirmed |= channels

    def receive(self) -> Iterator[Message]:
        if self._arriving.empty():
            self.bell.wait(0.01)
            return
        arrived = self._arriving.get()
        if isinstance(arrived, BaseException):
            raise arrived
        yield arrived

    def close(self) -> None:
        self.confirmed = frozenset()


class Source(ListeningSource):
    """A source of signals over such connections."""

    def __init__(self) -> None:
        super().__init__("test", patience=10)
        self.arriving: queue.Queue[Message | BaseException] = queue.Queue()

    def _subscription(self) -> Line:
        return Line(self.arriving)

    def _own_channel(self, process: str) -> str:
        return process

    def _broadcast(self, channel: str) -> str:
        return channel
