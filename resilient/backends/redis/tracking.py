"""What the server tells of changed cache records, whoever changes them: client-side caching.

https://redis.io/docs/latest/develop/reference/client-side-caching/ (broadcasting mode)

An invalidation says that a key was changed, not by whom, and several changes of one turn of the
server's loop are one invalidation: so whether it was our own fill that we hear of, or another's
write after it, cannot be told. The record's birth tells. It is asked on the very connection that
the invalidations come on, in order with them: what is said to be there is there until the next
one. Only of what this process has at hand or is reading, and only a few bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from resilient.backends.redis.cache_records import BORN
from resilient.backends.redis.keys import Keys
from resilient.engine.signals import CHANGES

__all__ = ["Tracking"]

Words = tuple[str | bytes | int, ...]


class Tracking:
    """Which keys are followed, and what is asked of them.

    Attributes:
        channel: What stands for it among the channels of a subscription.
        emptied: The channel on which is told that the server has lost everything.
        begin: The command; the server must speak version 3 of the protocol on that connection.
        greets: Whether that is asked for, by `HELLO`: not where a proxy ends the connection then.
        was_greeted: Whether it has ever been answered: so it is no such proxy.
    """

    def __init__(self, keys: Keys, concerns: Callable[[str], bool]) -> None:
        self.greets, self.was_greeted = True, False
        self._keys = keys
        self._concerns = concerns
        self._tags = keys.tag("")
        values = keys.primary("cache")
        self.channel = keys.broadcast(CHANGES)
        self.emptied = keys.broadcast("cache")
        self.begin: Words = ("CLIENT", "TRACKING", "ON", "BCAST")
        self.begin += ("PREFIX", values, "PREFIX", self._tags)

    def subject(self, name: bytes) -> str | None:
        """Whose record a key's is, if that concerns anybody here."""
        text = name.decode(errors="surrogateescape")
        if text.startswith(self._tags):
            subject: str | None = f"#{text.removeprefix(self._tags)}"
        else:
            subject = self._keys.key_of("cache", text)
        return subject if subject is not None and self._concerns(subject) else None

    def question(self, name: bytes) -> Words:
        """Asks for the birth of a value, or the number of a tag: either is as long."""
        return "GETRANGE", name, 0, BORN - 1

    def told(self, subject: str, answer: object) -> tuple[str, str]:
        """What a follower is told; whatever is no birth is nothing that can be served."""
        is_birth = isinstance(answer, bytes) and len(answer) == BORN and answer.isdigit()
        born = answer.decode() if isinstance(answer, bytes) and is_birth else "0"
        return self.channel, f"{born} {subject}"
