"""A network in front of a server of any kind, in which the reply to a change can be lost."""

from __future__ import annotations

from resilient.testing.faults import FaultProxy

__all__ = ["Lossy"]

CHANGES = {"redis": [b"EVAL"], "postgres": [b"resilient.", b"resilient_"], "mongodb": [b"findAndM"]}
"""What is in a request of ours, and in nothing by which clients watch their servers."""


class Lossy:
    """What stands in front of it.

    Attributes:
        url: Where it is reached.
        pace: What part of its rounds a test does: pymongo looks at its server anew after each loss,
            at most twice a second.
    """

    def __init__(self, proxy: FaultProxy, kind: str) -> None:
        self._proxy = proxy
        self.pace = 0.1 if kind == "mongodb" else 1.0
        self._marks = CHANGES[kind]
        # Or else a client that asks who is there is told the server's own address.
        self.url = f"{proxy.url}?directConnection=true" if kind == "mongodb" else proxy.url

    def lose(self) -> None:
        """What is asked next is done, and its answer swallowed with the connection."""
        self._proxy.drop_reply_when(lambda request: any(mark in request for mark in self._marks))

    @property
    def lost(self) -> int:
        """How many answers were."""
        return self._proxy.counts.dropped
