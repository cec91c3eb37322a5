"""Decoders of msgspec for types, made by one thread at a time."""

from __future__ import annotations

import os
import threading
from typing import Any

from msgspec.msgpack import Decoder

__all__ = ["decoder_of"]

_making = threading.RLock()
# A child would have for ever what a thread of its parent's had half made.
os.register_at_fork(
    before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release
)


def decoder_of(kind: Any) -> Decoder[Any]:
    """A decoder for values of a type.

    What msgspec knows of a class lies at the class while it is still being found out, and a second
    thread would take it as it is: the process dies of that (up to msgspec 0.22 at least).

    Raises:
        TypeError: msgspec has no form for the type.
    """
    with _making:
        return Decoder(kind)
