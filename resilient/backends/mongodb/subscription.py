"""How a process hears what documents say (`waking.py`): by a change stream, or by looking."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pymongo
from bson.int64 import Int64
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from pymongo.synchronous.client_session import ClientSession

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
"""Seconds more after which a connection that is silent is given up: so what leads nowhere is
noticed within two."""
LOOK = 0.05
"""Seconds between two looks where the server has no change streams."""
NO_STREAMS = 40573
"""The code by which a standalone server says that it has none."""
ALL = "$cmd.aggregate"
"""What stands for the collection of a cursor over all of them."""
EMPTY = {"batchSize": 0}
"""Changes come with `getMore` only, the first ones too."""
PERHAPS = ""
"""The channel of a message that says: something may have been said."""

SAID = ("updateDescription.updatedFields.said", "fullDocument.said")
"""Where the text is when a document was changed, and when it was inserted or replaced."""

_inherited: list[object] = []
"""What a forked child has of its parent's connections: nothing of it may be closed there."""


class _Stream(NamedTuple):
    """A change stream: the cursor at the server, and where it has come to."""

    cursor: Int64
    position: dict[str, Any]


class MongoSubscription:
    """`resilient.engine.listening.Subscription` over one change stream of the whole database.

    The server filters it. Channels that are added later need another stream, which begins where the
    one before has stopped: nothing is missed. pymongo's own stream would hide for several seconds
    that a connection is gone; whoever trusts in hearing everything must be told at once.

    A server that is no member of a replica set has no such thing. There `PERHAPS` is heard every 50
    ms, and whoever waits looks by itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: MongoClient[Document] | None = None
        self._session: ClientSession | None = None
        self._stream: _Stream | None = None
        self._process = os.getpid()
        self.bell = Bell()
        self.confirmed: frozenset[str] = frozenset()
        self.unheard: frozenset[str] = frozenset()

    def open(self, channels: set[str]) -> None:
        """Connect and listen."""
        with self._translating():
            self._client = self._settings.client(socketTimeoutMS=round(1000 * (AWAIT + ANSWER)))
            self._session = self._client.start_session(causal_consistency=False)
            with pymongo.timeout(self._settings.connect_timeout):
                self._ask({"ping": 1})
            self._stream = self._watching(frozenset(channels), {})
        self.confirmed = frozenset(channels)

    def add(self, channels: set[str]) -> None:
        """Listen to what is not listened to yet."""
        if channels <= self.confirmed:
            return
        wanted, before = self.confirmed | channels, self._stream
        if before is not None:
            with self._translating():
                self._stream = self._watching(wanted, before.position)
                self._ask({"killCursors": ALL, "cursors": [before.cursor]})
        self.confirmed = wanted
        self.bell.ring()  # who waits for this is told when `receive` returns

    def receive(self) -> Iterator[tuple[str, str | None]]:
        """Wait until something arrives; the channels and messages that did."""
        if self.bell.wait(0):
            return
        stream = self._stream
        if stream is None:
            self._look()
            yield PERHAPS, ""
            return
        more = {"getMore": stream.cursor, "collection": ALL, "maxTimeMS": round(AWAIT * 1000)}
        with self._translating():
            cursor = self._ask(more)["cursor"]
        if not cursor["id"]:  # the database was dropped
            raise BackendError(f"{self._settings.name}: the change stream was ended")
        self._stream = stream._replace(position=_position(cursor, stream.position))
        for change in cursor["nextBatch"]:
            yield from self._lines(change)

    def close(self) -> None:
        """Close the connection; in a forked child without a farewell to the server."""
        client, session = self._client, self._session
        self._client = self._session = self._stream = None
        self.confirmed = frozenset()
        if client is None:
            return
        if os.getpid() == self._process:
            client.close()
        else:
            _inherited.append((client, session))

    def _watching(self, channels: frozenset[str], position: dict[str, Any]) -> _Stream | None:
        """A stream from this position on, or from now on; none where the server has no such."""
        pipeline = [{"$changeStream": position}, *_filter(channels)]
        try:
            with pymongo.timeout(self._settings.timeout):
                reply = self._ask({"aggregate": 1, "pipeline": pipeline, "cursor": EMPTY})
        except OperationFailure as error:
            if error.code != NO_STREAMS:
                raise
            return None
        cursor, now = reply["cursor"], {"startAtOperationTime": reply.get("operationTime")}
        return _Stream(Int64(cursor["id"]), _position(cursor, position or now))

    def _ask(self, command: Document) -> Document:
        assert self._client is not None
        database = self._client[self._settings.database]
        return database.command(command, session=self._session)

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise raised(self._settings.name, error) from error

    def _look(self) -> None:
        """Let the time pass; and see whether the server is there, about once a second."""
        self.bell.wait(LOOK)
        if time.monotonic() % 1.0 < LOOK:
            with self._translating():
                self._ask({"ping": 1})

    def _lines(self, change: Document) -> Iterator[tuple[str, str]]:
        update = change.get("updateDescription") or {}
        said = (update.get("updatedFields") or {}).get("said")
        if said is None:
            said = (change.get("fullDocument") or {}).get("said") or ""
        for line in said.split("\n")[1:]:
            channel, _, message = line.partition("|")
            if channel in self.confirmed:
                yield channel, message


def _position(cursor: Document, otherwise: dict[str, Any]) -> dict[str, Any]:
    """Where a stream has come to, with the batch that has just arrived."""
    token = cursor.get("postBatchResumeToken")
    if token is None:
        batch = cursor.get("nextBatch")
        token = batch[-1]["_id"] if batch else None
    return otherwise if token is None else {"resumeAfter": token}


def _filter(channels: frozenset[str]) -> list[Document]:
    """What is said on these channels, and no more of each change than that."""
    names = "|".join(re.escape(channel) for channel in sorted(channels))
    ours = [collection(capability) for capability in COLLECTIONS]
    says = [{place: {"$regex": f"(?m)^({names})\\|"}} for place in SAID]
    return [
        {"$match": {"ns.coll": {"$in": ours}, "$or": says}},
        {"$project": dict.fromkeys(SAID, 1)},
    ]
