"""JSON, for values that other programs read."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from resilient.engine.names import name_of
from resilient.errors import CodecError
from resilient.protocols.values import Encoded

__all__ = ["Json"]


class Json:
    """A codec of bare JSON, which other programs can read and write.

    It takes `None`, booleans, numbers, texts, lists, and dicts with texts as keys, exactly: what
    JSON would give back as another type is refused.

    Example:
        >>> Json().encode({"id": 7, "tags": ["a"]})
        b'{"id":7,"tags":["a"]}'
    """

    def encode(self, value: Any) -> Encoded:
        """Return the stored form; see `Codec.encode`."""
        try:
            _check(value)
            return Encoded(msgspec.json.encode(value))
        except (OverflowError, RecursionError, UnicodeEncodeError) as error:
            raise CodecError(f"a {name_of(type(value))} has no JSON form: {error}") from error

    def decode(self, data: Encoded) -> Any:
        """Return the stored value; see `Codec.decode`."""
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise CodecError(f"the stored value is no JSON: {error}") from error


def _check(value: Any) -> None:
    kind = type(value)
    if kind is list:
        for item in value:
            _check(item)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise CodecError(f"a dict with a {name_of(type(key))} as a key has no JSON form")
            _check(item)
    elif kind is float:
        if not math.isfinite(value):
            raise CodecError(f"{value} has no JSON form")
    elif not (value is None or kind in (bool, int, str)):
        raise CodecError(f"a {name_of(kind)} has no JSON form that comes back as what it is")
