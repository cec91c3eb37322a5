"""Compression, as a codec around another one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from resilient.engine.codecs.base import COMPRESSED, Codec, wrapped
from resilient.errors import CodecError, ConfigurationError
from resilient.protocols.values import Encoded

if TYPE_CHECKING or sys.version_info < (3, 14):
    try:
        from backports import zstd
    except ImportError as error:
        raise ImportError(
            "Compressed needs backports.zstd: pip install 'resilient-decorators[zstd]'"
        ) from error
else:
    from compression import zstd

__all__ = ["Compressed"]


class Compressed:
    """A codec that compresses what another one writes, with Zstandard.

    It needs the extra `zstd` before Python 3.14, which has the algorithm itself.

    Args:
        codec: Writes what is compressed; `None`: the function's own codec.
        over: Shorter forms, in bytes, stay as they are: 1 kB is about where it begins to pay.
        level: Of Zstandard: 3 is its own default, 1 is quicker, 19 is small.
        limit: Bytes at most that a record may unfold to, against those that unfold to terabytes.

    Raises:
        ConfigurationError: An option is out of its range.

    Example:
        >>> from resilient.engine.codecs import ANY
        >>> codec = Compressed(over=100)
        >>> len(codec.around(ANY).encode("word " * 1000)) < 100
        True
    """

    def __init__(
        self,
        codec: Any = None,
        *,
        over: int = 1024,
        level: int = 3,
        limit: int = 256 * 1024 * 1024,
    ) -> None:
        for option, value in (("over", over), ("level", level), ("limit", limit)):
            if type(value) is not int or value < (0 if option == "over" else 1):
                raise ConfigurationError(f"Compressed({option}={value!r}): expected a number")
        if level > 22:
            raise ConfigurationError(f"Compressed(level={level!r}): expected 1 to 22")
        self._inner = codec
        self._over = over
        self._level = level
        self._limit = limit

    def around(self, default: Codec) -> Compressed:
        """The same, with a codec for where none was given."""
        return self._with(wrapped(self._inner, default))

    def placed(self, place: str) -> Compressed:
        """The same for one place."""
        placed = getattr(self._inner, "placed", None)
        return self if placed is None else self._with(placed(place))

    def encode(self, value: Any) -> Encoded:
        """Return the stored form; see `Codec.encode`."""
        plain = self._inner.encode(value)
        if len(plain) > self._limit:
            raise CodecError(f"a value of {len(plain)} bytes is over the limit of {self._limit}")
        if len(plain) <= self._over:
            return Encoded(plain)
        return Encoded(COMPRESSED + zstd.compress(plain, self._level))

    def decode(self, data: Encoded) -> Any:
        """Return the stored value; see `Codec.decode`."""
        if data[:1] != COMPRESSED:
            return self._inner.decode(data)
        try:
            unfolding = zstd.ZstdDecompressor()
            plain = unfolding.decompress(memoryview(data)[1:], self._limit)
        except zstd.ZstdError as error:
            raise CodecError(f"the stored value cannot be unfolded: {error}") from error
        if not unfolding.eof or unfolding.unused_data:
            raise CodecError("the stored value is cut off, or over the limit")
        return self._inner.decode(Encoded(plain))

    def _with(self, inner: Any) -> Compressed:
        return Compressed(inner, over=self._over, level=self._level, limit=self._limit)
