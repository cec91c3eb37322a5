"""How a loop reads its items: one by one or in chunks, from the first or after a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from resilient.engine.options import check_whole_number
from resilient.errors import ConfigurationError

__all__ = ["Reading", "chained"]


class Reading(NamedTuple):
    """The options of one loop.

    Attributes:
        size: Items in a chunk; `None`: they are given one by one.
        key: The key of an item, after which its source begins; `None`: the source is read from the
            first item, and what is done is skipped.
        verify: Whether what is skipped is compared with what was done.
    """

    size: int | None = None
    key: Callable[[Any], Any] | None = None
    verify: bool = False

    def check(self, items: object, what: str) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigurationError: An option, or the source, is wrong.
        """
        if self.size is not None:
            check_whole_number(what, "size", self.size)
        if self.key is None:
            if (
                callable(items)
                and not hasattr(items, "__iter__")
                and not hasattr(items, "__aiter__")
            ):
                raise ConfigurationError(
                    f"{what}: a source that is called with the last key needs key=, the key of an "
                    "item"
                )
            return
        key: Any = self.key
        if not callable(key) or not callable(items):
            raise ConfigurationError(
                f"{what}: with key= the items are a function that is called with the key of the "
                "last item that is done (None at first) and answers those after it"
            )
        if self.verify:
            raise ConfigurationError(
                f"{what}: verify=True compares items that are read again, and with key= none is"
            )


def chained(digest: bytes, item: Any) -> bytes:
    """The digest of some items and of one more."""
    from hashlib import blake2b

    from resilient.engine import codecs

    return blake2b(digest + codecs.encode(item), digest_size=16).digest()
