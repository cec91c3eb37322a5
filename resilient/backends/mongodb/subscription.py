"""A change stream that hears what documents say (`waking.py`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pymongo
from bson.codec_options import CodecOptions
from pymongo import MongoClient
from pymongo.synchronous.change_stream import ChangeStream

from resilient.backends.mongodb.commands import Document
from resilient.backends.mongodb.failures import FAILURES, raised
from resilient.backends.mongodb.keys import COLLECTIONS, collection
from resilient.backends.mongodb.settings import Settings
from resilient.engine.listening import Bell
from resilient.errors import BackendError

__all__ = ["MongoSubscription"]

AWAIT = 0.25
"""Seconds for which the server holds back an answer without news: as long as a new channel has to
wait for its turn at most. With news it answers at once."""

_inherited: list[object] = []
"""What a forked child has of its parent's connections: nothing of it may be closed there."""


class MongoSubscription:
    """`resilient.engine.listening.Subscription` over one change stream of the whole database.

    It is filtered at the server. Channels that are added later need another stream, which begins
    where the one before has stopped: nothing is missed.
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
            if self._client is None:
                self._client = self._settings.client()
            self._watch(self._client, channels, None)
        except FAILURES as error:
            raise raised(self._settings.name, error) from error

    def add(self, channels: set[str]) -> None:
        """Listen to what is not listened to yet."""
        if channels <= self.confirmed:
            return
        before, client = self._stream, self._client
        assert before is not None
        assert client is not None
        try:
            self._watch(client, channels | self.confirmed, before.resume_token)
            before.close()
        except FAILURES as error:
            raise raised(self._settings.name, error) from error

    def receive(self) -> Iterator[tuple[str, str]]:
        """Wait until something arrives; the channels and messages that did."""
        stream = self._stream
        if stream is None:
            raise BackendError(f"{self._settings.name}: the subscription is closed")
        try:
            with pymongo.timeout(self._settings.timeout):
                change = stream.try_next()
        except FAILURES as error:
            raise raised(self._settings.name, error) from error
        if change is not None:
            yield from self._lines(change)
        self.bell.wait(0)

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

    def _watch(
        self, client: MongoClient[Document], channels: set[str] | frozenset[str], after: Any
    ) -> None:
        database = client.get_database(self._settings.database, codec_options=CodecOptions())
        names = "|".join(re.escape(channel) for channel in sorted(channels))
        with pymongo.timeout(self._settings.timeout):
            self._stream = database.watch(
                _filter(f"(?m)^({names})\\|"),
                max_await_time_ms=round(AWAIT * 1000),
                resume_after=after,
            )
        self.confirmed = frozenset(channels)

    def _lines(self, change: Document) -> Iterator[tuple[str, str]]:
        update = change.get("updateDescription") or {}
        said = (update.get("updatedFields") or {}).get("said")
        if said is None:
            said = (change.get("fullDocument") or {}).get("said") or ""
        for line in said.split("\n")[1:]:
            channel, _, message = line.partition("|")
            if channel in self.confirmed:
                yield channel, message


def _filter(pattern: str) -> list[Document]:
    """The changes of our collections that say something on these channels."""
    says = [{place: {"$regex": pattern}} for place in PLACES]
    ours = [collection(capability) for capability in COLLECTIONS]
    return [
        {"$match": {"ns.coll": {"$in": ours}, "$or": says}},
        {
            "$project": {
                "operationType": 1,
                **dict.fromkeys(PLACES, 1),
            }
        },
    ]


PLACES = ("updateDescription.updatedFields.said", "fullDocument.said")
