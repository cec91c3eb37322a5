"""What a codec is, and the first byte by which stored forms are told apart."""

from __future__ import annotations

from typing import Any, Protocol

from resilient.errors import CodecError
from resilient.protocols.values import Encoded

__all__ = [
    "BY_ANNOTATION",
    "COMPRESSED",
    "ENCRYPTED",
    "FAILURE",
    "SELF_DESCRIBING",
    "SIGNED_PICKLE",
    "Codec",
    "reason_of",
    "wrapped",
]

SELF_DESCRIBING = b"\x01"
BY_ANNOTATION = b"\x02"
SIGNED_PICKLE = b"\x03"
FAILURE = b"\x04"
COMPRESSED = b"\x05"
ENCRYPTED = b"\x06"
"""The first byte is the format and its version. A codec reads its own formats and no other, so
that a record never chooses how it is read: a pickle in the place of a value is an error."""


class Codec(Protocol):
    """Writes values as bytes and reads them back, equal and of the same types."""

    def encode(self, value: Any) -> Encoded:
        """Return the stored form of a value.

        Raises:
            CodecError: The value has no form from which it would come back as what it is.
        """
        ...

    def decode(self, data: Encoded) -> Any:
        """Return a stored value, a fresh object each time.

        Raises:
            CodecError: The bytes are damaged, foreign, or of a type that is no longer there.
        """
        ...


def reason_of(error: Exception) -> str:
    """What an error says of why a value has no stored form; never raises itself.

    Example:
        >>> reason_of(CodecError("a file cannot be stored")), reason_of(TypeError("not set"))
        ('a file cannot be stored', 'TypeError: not set')
    """
    try:
        return str(error) if isinstance(error, CodecError) else f"{type(error).__name__}: {error}"
    except Exception:  # the error is the user's, and so is how it is written
        return type(error).__name__


def wrapped(inner: Any, default: Codec) -> Any:
    """What a codec is around: what was given, around the default in its turn, or the default."""
    if inner is None:
        return default
    around = getattr(inner, "around", None)
    return inner if around is None else around(default)
