"""The names of documents, collections and channels under one prefix."""

from __future__ import annotations

import hashlib

__all__ = ["COLLECTIONS", "Keys", "collection"]

COLLECTIONS = ("locks", "idempotency", "checkpoints", "cache", "tags", "circuits")
"""Of the documents that say something to processes."""


def collection(capability: str) -> str:
    """The collection that keeps a capability's documents."""
    return f"resilient.{capability}"


class Keys:
    """The names under one prefix."""

    def __init__(self, prefix: str, database: str) -> None:
        self.prefix = prefix
        self._database = database

    def name(self, key: str, family: str = "") -> str:
        """The `_id` of an entity's document."""
        return f"{family}:{self.prefix}{key}" if family else self.prefix + key

    def own_channel(self, process: str) -> str:
        """The channel of one process."""
        return f"rsl_{process}"

    def broadcast(self, channel: str) -> str:
        """The channel on which every process hears the same."""
        whole = "\0".join((self._database, self.prefix, channel))
        return f"rsl_all_{hashlib.sha256(whole.encode()).hexdigest()[:24]}"
