"""Outcomes of a cached function as records: its values, and exceptions that are results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient.engine.codecs import ANY, Codec, Json, codec_for
from resilient.engine.codecs.base import FAILURE, wrapped
from resilient.engine.failure import Failure
from resilient.errors import CodecError, ConfigurationError
from resilient.protocols.values import Encoded

__all__ = ["Outcomes", "Records", "records_for"]


class Outcomes:
    """The default codec of a function, and beside its values a form for exceptions."""

    def __init__(self, values: Codec) -> None:
        self._values = values

    def encode(self, value: Any) -> Encoded:
        """Return the stored form; see `Codec.encode`."""
        if type(value) is Failure:
            return Encoded(FAILURE + ANY.encode(value.error))
        return self._values.encode(value)

    def decode(self, data: Encoded) -> Any:
        """Return the stored value; see `Codec.decode`."""
        if data[:1] != FAILURE:
            return self._values.decode(data)
        error = ANY.decode(Encoded(data[1:]))
        if not isinstance(error, Exception):
            raise CodecError("the stored exception is none")
        return Failure(error)


class Records:
    """The stored form of what a function answers, each at its place.

    Args:
        codec: The codec, with everything that is around it: compression, encryption.
    """

    __slots__ = ("_codec", "_place")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        # A codec that vouches for a value vouches for where it is stored too.
        self._place = getattr(codec, "placed", None)

    def encode(self, key: str, value: Any) -> Encoded:
        """The record of a value under a key; `CodecError` if it has none."""
        codec: Codec = self._codec if self._place is None else self._place(key)
        return codec.encode(value)

    def decode(self, key: str, data: Encoded) -> Any:
        """The value of the record under a key; `CodecError` if it is none of this function's."""
        codec: Codec = self._codec if self._place is None else self._place(key)
        return codec.decode(data)


def records_for(
    function: Callable[..., Any],
    codec: Any,
    where: str,
    *,
    with_errors: bool = False,
    part: Callable[[Any], Any] = lambda annotation: annotation,
) -> Records:
    """The records of a function: by its own codec, or as its `codec=` says.

    Args:
        function: The function.
        codec: What its decorator was given.
        where: What messages call it.
        with_errors: Whether exceptions are stored too.
        part: What is stored of what the function returns, by its annotation.

    Raises:
        ConfigurationError: `codec` is none, or has no form for the exceptions of `error_ttl`.
    """
    if isinstance(codec, str):
        if codec != "json":
            raise ConfigurationError(f'{where}: codec={codec!r} is not "json", and no codec')
        codec = Json()
    if codec is not None and not (hasattr(codec, "encode") and hasattr(codec, "decode")):
        raise ConfigurationError(f"{where}: codec={codec!r} has no encode() and decode()")
    if isinstance(codec, Json) and with_errors:
        raise ConfigurationError(f"{where}: error_ttl: exceptions have no JSON form")
    return Records(wrapped(codec, Outcomes(codec_for(function, part))))
