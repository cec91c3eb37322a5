"""What a loop's own connection hears beside the answers: the signals for the tasks that wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from resilient.errors import BackendError

__all__ = ["Hearing"]

Tell = Callable[[str | None], None]


class Say(Protocol):
    """Says something over a connection, and has the answer."""

    def __call__(self, *words: str) -> Awaitable[object]: ...


class Hearing:
    """What is to be heard, over each connection in turn.

    Attributes:
        channel: What is subscribed on each connection; empty while nobody waits, and where a server
            does not let a connection hear and be answered.
        is_refused: Whether it is that.
    """

    def __init__(self) -> None:
        self.channel = ""
        self.is_refused = False
        self._has_heard = False
        self._tell: Tell | None = None

    def want(self, channel: str, tell: Tell) -> None:
        """Have a channel heard, unless another task has just begun to: that one's is all tasks'.

        Args:
            channel: The channel.
            tell: Called with each message; with `None` when some may have been missed.
        """
        if not self.channel:
            self.channel, self._tell = channel, tell

    async def begin(self, say: Say) -> bool:
        """Subscribe over a new connection; whether it hears now.

        In version 3 of the protocol, in which that is no obstacle to anything else.

        Raises:
            BackendError: The connection is of no use.
        """
        try:
            await say("HELLO", "3")
            await say("SUBSCRIBE", self.channel)
        except BackendError as error:
            # The user lacks a right, or a proxy closes the connection or says nothing, each time.
            if not (error.transient and self._has_heard):
                self.refuse()
            if error.transient:
                raise
            return False
        self._has_heard = True
        return True

    def fell_silent(self) -> None:
        """There was no answer in time as it began: so it is each time, if it has never heard."""
        if not self._has_heard:
            self.refuse()

    def refuse(self) -> None:
        """Ask no connection to hear anything any more."""
        self.channel, self.is_refused = "", True

    def heard(self, message: bytes) -> None:
        """Something was sent to the channel, by whoever may."""
        if self._tell is not None:
            self._tell(message.decode(errors="replace"))

    def missed(self) -> None:
        """Something may have been sent that was not heard."""
        if self._tell is not None:
            self._tell(None)
