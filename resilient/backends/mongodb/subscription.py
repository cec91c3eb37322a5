"""How a process hears what documents say (`waking.py`): by a change stream, or by looking."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.synchronous.change_stream import ChangeStream

from resilient.backends.mongodb.commands import Document
from resilient.backends.mongodb.failures import FAILURES, raised
from resilient.backends.mongodb.keys import COLLECTIONS, collection
from resilient.backends.mongodb.settings import Settings
from resilient.engine.listening import Bell
from resilient.errors import BackendError

__all__ = ["PERHAPS", "MongoSubscription"]

AWAIT = 0.25
"""Seconds for which the server holds back an answer without news: so long has a new channel to wait
at most. With news it answers at once."""
ANSWER = 1.25
"""Seconds more after which a connection that is silent is given up, and another one tried: so what
leads nowhere is noticed within about two."""
LOOK = 0.05
"""Seconds between two looks where the server has no change streams."""
NO_STREAMS = 40573
"""The code by which a standalone server says that it has none."""
PERHAPS = ""
"""The channel of a message that says: something may have been said."""

SAID = ("updateDescription.updatedFields.said", "fullDocument.said")
"""Where the text is when a document was changed, and when it was inserted or replaced."""

_inherited: list[object] = []
"""What a forked child has of its parent's connections: nothing of it may be closed there."""


class MongoSubscription:
    """`resilient.engine.listening.Subscription` over one change stream of the whole database.

    The server filters it. Channels that are added later need another stream, which begins where the
    one before has stopped: nothing is missed. A connection that breaks is replaced in the same way.

    A server that is no member of a replica set has no such thing. There `PERHAPS` is heard every 50
    ms, and whoever waits looks by itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: MongoClient[Document] | None = None
        self._stream: ChangeStream[Document] | None = None
        self._process = os.getpid()
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()

    def open(self, channels: set[str]) -> None:
        """Connect and listen."""
        try:
            self._client = self._settings.client(socketTimeoutMS=round(1000 * (AWAIT + ANSWER)))
            self._watch(self._client, frozenset(channels), None)
        except FAILURES as error:
            raise raised(self._settings.name, error) from error

    def add(self, channels: set[str]) -> None:
        """Listen to what is not listened to yet."""
        if channels <= self.confirmed:
            return
        before, client = self._stream, self._client
        assert client is not None
        try:
            after = None if before is None else before.resume_token
            self._watch(client, self.confirmed | channels, after)
            if before is not None:
                before.close()
        except FAILURES as error:
            raise raised(self._settings.name, error) from error
        self.bell.ring()  # who waits for this is told when `receive` returns

    def receive(self) -> Iterator[tuple[str, str | None]]:
        """Wait until something arrives; the channels and messages that did."""
        stream, rings = self._stream, self.bell.wait(0)
        if rings:
            return
        if stream is None:
            self._look()
            yield PERHAPS, ""
            return
        try:
            change = stream.try_next()
        except FAILURES as error:
            raise raised(self._settings.name, error) from error
        if change is not None:
            yield from self._lines(change)
        elif not stream.alive:
            raise BackendError(f"{self._settings.name}: the change stream was ended")

    def close(self) -> None:
        """Close the connection; in a forked child without a farewell to the server."""
        client, self._client, self._stream = self._client, None, None
        self.confirmed = frozenset()
        if client is None:
            return
        if os.getpid() == self._process:
            client.close()
        else:
            _inherited.append(client)

    def _watch(self, client: MongoClient[Document], channels: frozenset[str], after: Any) -> None:
        database = client.get_database(self._settings.database, codec_options=CodecOptions())
        try:
            self._stream = database.watch(
                _filter(channels), max_await_time_ms=round(AWAIT * 1000), resume_after=after
            )
        except OperationFailure as error:
            if error.code != NO_STREAMS:
                raise
            self._stream = None
        self.confirmed = channels

    def _look(self) -> None:
        """Let the time pass; and see whether the server is there, about once a second."""
        self.bell.wait(LOOK)
        assert self._client is not None
        if time.monotonic() % 1.0 < LOOK:
            try:
                self._client.admin.command("ping")
            except FAILURES as error:
                raise raised(self._settings.name, error) from error

    def _lines(self, change: Document) -> Iterator[tuple[str, str]]:
        update = change.get("updateDescription") or {}
        said = (update.get("updatedFields") or {}).get("said")
        if said is None:
            said = (change.get("fullDocument") or {}).get("said") or ""
        for line in said.split("\n")[1:]:
            channel, _, message = line.partition("|")
            if channel in self.confirmed:
                yield channel, message


def _filter(channels: frozenset[str]) -> list[Document]:
    """What is said on these channels, and no more of each change than that."""
    names = "|".join(re.escape(channel) for channel in sorted(channels))
    ours = [collection(capability) for capability in COLLECTIONS]
    says = [{place: {"$regex": f"(?m)^({names})\\|"}} for place in SAID]
    return [
        {"$match": {"ns.coll": {"$in": ours}, "$or": says}},
        {"$project": dict.fromkeys(SAID, 1)},
    ]
