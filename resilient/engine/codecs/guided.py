"""The form guided by an annotation: msgspec writes and reads the type that was promised.

It is shorter and faster than the self-describing form, and follows a class that gains a field
with a default. It is used only where msgspec gives back exactly what it was given, which
`shapes.py` decides for the annotation once and for each value again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from msgspec.msgpack import Encoder

from resilient.engine.codecs.annotations import UNKNOWN, classes_in, return_annotation
from resilient.engine.codecs.base import BY_ANNOTATION, Codec
from resilient.engine.codecs.shapes import Shape, Unguided, shape_of
from resilient.engine.codecs.tagged import ANY, SelfDescribing
from resilient.engine.decoders import decoder_of
from resilient.errors import CodecError
from resilient.protocols.values import Encoded

__all__ = ["codec_for", "codec_of"]


def codec_for(
    function: Callable[..., Any], part: Callable[[Any], Any] = lambda annotation: annotation
) -> Codec:
    """Return the codec for what a function returns, or for the part of it that is stored.

    The annotation is resolved at the first value, when every name that it uses is defined. Without
    one, or if it cannot be resolved, stored values describe themselves.

    Example:
        >>> from datetime import date
        >>> def due() -> tuple[date, int]: ...
        >>> codec = codec_for(due)
        >>> codec.decode(codec.encode((date(2024, 5, 1), 7)))
        (datetime.date(2024, 5, 1), 7)
    """
    return _Lazy(function, part)


def codec_of(annotation: Any) -> Codec:
    """Return the codec for the values of a type.

    Example:
        >>> codec = codec_of(set[int])
        >>> codec.decode(codec.encode({1, 2})), codec.decode(codec.encode("no set"))
        ({1, 2}, 'no set')
    """
    classes = classes_in(annotation)
    otherwise = SelfDescribing(classes) if classes else ANY
    try:
        shape = shape_of(annotation)
        # What describes itself anyway is stored as such, and can be read by hand.
        return otherwise if shape.is_plain else Guided(annotation, shape, otherwise)
    except Unguided:
        return otherwise


class Guided:
    """The codec of one annotation, which leaves to another what does not match it.

    Args:
        annotation: A type that msgspec reads back exactly.
        shape: Tells whether a value is of this type, all the way down.
        otherwise: The codec for other values.
    """

    def __init__(self, annotation: Any, shape: Shape, otherwise: SelfDescribing) -> None:
        try:
            self._decoder = decoder_of(annotation)
        except Exception as error:  # msgspec has conditions of its own, and says so in many ways
            raise Unguided from error
        self._matches = shape.matches
        self._otherwise = otherwise
        # The annotation may be another one when the value is read.
        digest = blake2b(shape.text.encode(), digest_size=4).digest()
        self._head = BY_ANNOTATION + digest

    def encode(self, value: Any) -> Encoded:
        """Return the stored form; see `Codec.encode`."""
        try:
            if self._matches(value):
                written: Any = self._head + _write(value)
                encoded: Encoded = written  # to call `Encoded` would take half as long again
                return encoded
        except Exception:
            pass  # beyond what msgspec can write, or half made: the other form decides
        return self._otherwise.encode(value)

    def decode(self, data: Encoded) -> Any:
        """Return the stored value; see `Codec.decode`."""
        if data[: len(self._head)] != self._head:
            return self._otherwise.decode(data)
        try:
            return self._decoder.decode(memoryview(data)[len(self._head) :])
        except Exception as error:  # damaged bytes, or a class that has changed
            raise CodecError(f"the stored value cannot be read: {error}") from error


class _Lazy:
    """The codec of a function, made when it is first used."""

    def __init__(self, function: Callable[..., Any], part: Callable[[Any], Any]) -> None:
        self._function = function
        self._part = part

    @functools.cached_property
    def _codec(self) -> Codec:
        annotation = return_annotation(self._function)
        return ANY if annotation is UNKNOWN else codec_of(self._part(annotation))

    def encode(self, value: Any) -> Encoded:
        self.encode = self._codec.encode  # type: ignore[method-assign]  # from the next call on
        return self._codec.encode(value)

    def decode(self, data: Encoded) -> Any:
        self.decode = self._codec.decode  # type: ignore[method-assign]  # likewise
        return self._codec.decode(data)


_write = Encoder().encode
