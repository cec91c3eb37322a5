"""Commands as data: each operation is one.

An operation that changes something is a `findAndModify` whose pipeline decides at the server, by
the server's clock (`$$NOW`). Its arguments are in one literal, `$$p`: so the pipeline of an
operation is always the same, and nothing that a user has written is taken for an expression.
https://www.mongodb.com/docs/manual/reference/command/findAndModify/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import bson
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from resilient.backends.mongodb.failures import LostRace
from resilient.backends.mongodb.keys import collection

__all__ = [
    "Change",
    "Command",
    "Document",
    "Look",
    "Pipeline",
    "Removal",
    "Transaction",
    "Update",
    "compiled",
]

Document = dict[str, Any]
Pipeline = Sequence[RawBSONDocument]

MAJORITY = {"w": "majority"}


class Command(Protocol):
    """What the transport sends.

    Attributes:
        capability: Whose collection it is about.
        repeatable: Whether it may be sent again when its answer was lost.
    """

    capability: str
    repeatable: bool

    def document(self) -> Document:
        """The command, as the server takes it: a new document each time."""
        ...

    def answer(self, reply: Document) -> Any:
        """What the asker gets of the reply."""
        ...


def compiled(*stages: Mapping[str, Any]) -> Pipeline:
    """A pipeline, encoded once and for all."""
    return [RawBSONDocument(bson.encode(stage)) for stage in stages]


class Change:
    """One `findAndModify` of one document.

    Args:
        capability: Whose collection.
        key: The document's `_id`.
        pipeline: What becomes of it. It may be there, or not.
        arguments: What the pipeline finds in `$$p`; numbers are 64 bits wide there.
        read: Makes of the document afterwards what the asker gets; of `None` if there is none.
        upsert: Whether the document is made if there is none. Not so, nothing happens then.
        repeatable: Whether it may be sent again when its answer was lost.
        fields: Which fields of the document come back; nothing: all of them.
    """

    __slots__ = (
        *("_arguments", "_fields", "_pipeline", "_read", "_upsert"),
        *("capability", "key", "repeatable"),
    )

    def __init__(
        self,
        capability: str,
        key: str,
        pipeline: Pipeline,
        arguments: Mapping[str, Any],
        *,
        read: Callable[[Document | None], Any],
        upsert: bool = False,
        repeatable: bool = True,
        fields: Sequence[str] = (),
    ) -> None:
        self.capability = capability
        self.key = key
        self._fields = dict.fromkeys(fields, 1)
        self.repeatable = repeatable
        self._pipeline = pipeline
        self._arguments = arguments
        self._read = read
        self._upsert = upsert

    def document(self) -> Document:
        """The command."""
        return {
            "findAndModify": collection(self.capability),
            "query": {"_id": self.key},
            "update": self._pipeline,
            "new": True,
            "fields": self._fields,
            "upsert": self._upsert,
            "let": {"p": {"$literal": _wide(self._arguments)}},
            "writeConcern": MAJORITY,
        }

    def answer(self, reply: Document) -> Any:
        """The document afterwards, read."""
        document = reply.get("value")
        if document is None and self._upsert:
            raise LostRace  # MongoDB answers with a duplicate key; not all that speak its protocol
        return self._read(document)


class Look:
    """One `aggregate`, which changes nothing: the documents with these keys, and the time.

    Args:
        capability: Whose collection.
        match: Which documents: a query.
        stages: What is made of them.
        arguments: What the stages find in `$$p`.
        read: Makes of the documents what the asker gets.
    """

    __slots__ = ("_arguments", "_match", "_read", "_stages", "capability", "repeatable")

    def __init__(
        self,
        capability: str,
        match: Mapping[str, Any],
        stages: Pipeline,
        arguments: Mapping[str, Any] | None = None,
        *,
        read: Callable[[list[Document]], Any],
    ) -> None:
        self.capability = capability
        self.repeatable = True
        self._match = match
        self._stages = stages
        self._arguments = arguments or {}
        self._read = read

    def document(self) -> Document:
        """The command. All that it finds is in its one reply."""
        return {
            "aggregate": collection(self.capability),
            "pipeline": [{"$match": self._match}, *self._stages],
            "cursor": {"batchSize": 1_000_000},
            "let": {"p": {"$literal": _wide(self._arguments)}},
            "readConcern": {"level": "majority"},
        }

    def answer(self, reply: Document) -> Any:
        """The documents, read."""
        return self._read(reply["cursor"]["firstBatch"])


class Update:
    """One `update` of several documents, of each by the same pipeline.

    Args:
        capability: Whose collection.
        keys: The documents' `_id`s.
        pipeline: What becomes of each.
        arguments: What the pipeline finds in `$$p`; numbers are 64 bits wide there.
        upsert: Whether a document is made where there is none.
    """

    __slots__ = ("_arguments", "_keys", "_pipeline", "_upsert", "capability", "repeatable")

    def __init__(
        self,
        capability: str,
        keys: Sequence[str],
        pipeline: Pipeline,
        arguments: Mapping[str, Any],
        *,
        upsert: bool = False,
    ) -> None:
        self.capability = capability
        self.repeatable = True
        self._keys = keys
        self._pipeline = pipeline
        self._arguments = arguments
        self._upsert = upsert

    def document(self) -> Document:
        """The command."""
        updates: list[Document]
        if self._upsert:
            each = {"u": self._pipeline, "upsert": True}
            updates = [{"q": {"_id": key}, **each} for key in self._keys]
        else:
            updates = [{"q": {"_id": {"$in": self._keys}}, "u": self._pipeline, "multi": True}]
        return {
            "update": collection(self.capability),
            "updates": updates,
            "ordered": False,
            "let": {"p": {"$literal": _wide(self._arguments)}},
            "writeConcern": MAJORITY,
        }

    def answer(self, reply: Document) -> None:
        """Nothing: it is done."""
        _confirmed(reply)


class Removal:
    """One `delete` of documents, by their `_id`s."""

    __slots__ = ("_keys", "capability", "repeatable")

    def __init__(self, capability: str, keys: Sequence[str]) -> None:
        self.capability = capability
        self.repeatable = True
        self._keys = keys

    def document(self) -> Document:
        """The command."""
        return {
            "delete": collection(self.capability),
            "deletes": [{"q": {"_id": {"$in": self._keys}}, "limit": 0}],
            "writeConcern": MAJORITY,
        }

    def answer(self, reply: Document) -> None:
        """Nothing: it is done."""
        _confirmed(reply)


def _wide(arguments: Mapping[str, Any]) -> Document:
    return {
        name: Int64(value) if type(value) is int else value for name, value in arguments.items()
    }


def _confirmed(reply: Document) -> None:
    """An `update` says of each document what went wrong with it, and answers nevertheless."""
    for error in reply.get("writeErrors", ()):
        raise OperationFailure(str(error.get("errmsg")), error.get("code"), error)


class Transaction:
    """Several commands, of which all come to pass or none.

    Args:
        steps: The commands, in this order.
        read: Makes of their answers what the asker gets.
        ends: Whether after this answer of a step nothing may come to pass. The others are not made
            then, and `read` is given the answers so far.
        divisible: Whether they may be made one after the other where the server has no transactions
            (it is no member of a replica set). Not so, the asker gets `None` there.
    """

    __slots__ = ("divisible", "ends", "read", "steps")

    def __init__(
        self,
        steps: Sequence[Command],
        *,
        read: Callable[[list[Any]], Any],
        ends: Callable[[Any], bool] = lambda answer: False,
        divisible: bool = False,
    ) -> None:
        self.steps = steps
        self.read = read
        self.ends = ends
        self.divisible = divisible

    @property
    def repeatable(self) -> bool:
        """Whether all of them may be sent again."""
        return all(step.repeatable for step in self.steps)
