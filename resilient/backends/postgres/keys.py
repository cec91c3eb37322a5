"""The names of rows and channels under one prefix."""

from __future__ import annotations

import hashlib

from resilient.errors import ConfigurationError

__all__ = ["Keys", "is_shared"]

_SHARED = "rsl_all_"
LONGEST = 2000
"""Bytes of a key with its prefix: an index entry has no room for more than some 2700."""


class Keys:
    """The names under one prefix."""

    def __init__(self, prefix: str, schema: str) -> None:
        self.prefix = prefix
        self._schema = schema

    def name(self, key: str, family: str = "") -> str:
        """The row of an entity."""
        name = f"{family}:{self.prefix}{key}" if family else self.prefix + key
        if len(name) > LONGEST // 4 and len(name.encode(errors="replace")) > LONGEST:
            raise ConfigurationError(
                f"the key {key[:40]!r}... is longer than the {LONGEST} bytes that PostgreSQL's "
                "indexes have room for: put a digest of it into the key"
            )
        return name

    def own_channel(self, process: str) -> str:
        """The channel of one process."""
        return f"rsl_{process}"

    def broadcast(self, channel: str) -> str:
        """The channel on which every process hears the same; a name has at most 63 bytes."""
        whole = "\0".join((self._schema, self.prefix, channel))
        return f"{_SHARED}{hashlib.sha256(whole.encode()).hexdigest()[:24]}"


def is_shared(channel: str) -> bool:
    """Whether every process hears the channel, or one only."""
    return channel.startswith(_SHARED)
