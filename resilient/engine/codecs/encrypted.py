"""Encryption, as a codec around another one: AES-GCM, by the `cryptography` library.

The cipher is the one that is written here, and the key one of those that are configured: the record
has no say in how it is read. What is stored is vouched for together with its place, so that a
record which was changed, moved to another key or written without the key is none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as error:
    raise ImportError(
        "Encrypted needs cryptography: pip install 'resilient-decorators[encryption]'"
    ) from error

from resilient.engine.codecs.base import ENCRYPTED, Codec, wrapped
from resilient.errors import CodecError, ConfigurationError
from resilient.protocols.values import Encoded

__all__ = ["Encrypted"]

NONCE = 12
"""Bytes of a nonce: NIST SP 800-38D, 8.2.2. They are random: change the key within 2**32 values."""
KEY_BYTES = (16, 24, 32)


class Encrypted:
    """A codec that encrypts what another one writes, with AES-GCM. It needs the extra `encryption`.

    Args:
        key: The secret: 16, 24 or 32 bytes, such as `secrets.token_bytes(32)` once gave it.
        codec: Writes what is encrypted; `None`: the function's own codec.
        previous: Keys of the past: records encrypted with them are still read.

    Raises:
        ConfigurationError: A key is no AES key.

    Example:
        >>> from resilient.engine.codecs import ANY
        >>> codec = Encrypted(b"from the secret store, 32 bytes.").around(ANY).placed("user:7")
        >>> codec.decode(codec.encode({"name": "Ada"}))
        {'name': 'Ada'}
    """

    def __init__(self, key: bytes, codec: Any = None, *, previous: Iterable[bytes] = ()) -> None:
        keys: tuple[object, ...] = (key, *previous)
        if not all(isinstance(each, bytes) and len(each) in KEY_BYTES for each in keys):
            raise ConfigurationError("Encrypted needs keys of 16, 24 or 32 bytes")
        self._ciphers = [AESGCM(each) for each in keys if isinstance(each, bytes)]
        self._inner = codec
        self._place = b""

    def around(self, default: Codec) -> Encrypted:
        """The same, with a codec for where none was given."""
        return self._with(wrapped(self._inner, default), self._place)

    def placed(self, place: str) -> Encrypted:
        """The same for one place: a record that was moved there from another is none."""
        placed = getattr(self._inner, "placed", None)
        inner = self._inner if placed is None else placed(place)
        return self._with(inner, place.encode("utf-8", "surrogatepass"))

    def encode(self, value: Any) -> Encoded:
        """Return the stored form; see `Codec.encode`."""
        nonce = os.urandom(NONCE)
        plain = self._inner.encode(value)
        return Encoded(ENCRYPTED + nonce + self._ciphers[0].encrypt(nonce, plain, self._vouched))

    def decode(self, data: Encoded) -> Any:
        """Return the stored value; see `Codec.decode`."""
        if data[:1] != ENCRYPTED or len(data) < 1 + NONCE:
            raise CodecError("the stored value is not encrypted by this codec")
        nonce, sealed = data[1 : 1 + NONCE], data[1 + NONCE :]
        for cipher in self._ciphers:
            try:
                plain = cipher.decrypt(nonce, sealed, self._vouched)
            except InvalidTag:
                continue
            return self._inner.decode(Encoded(plain))
        raise CodecError("the stored value was changed, moved, or encrypted with another key")

    @property
    def _vouched(self) -> bytes:
        return ENCRYPTED + self._place

    def _with(self, inner: Any, place: bytes) -> Encrypted:
        made = object.__new__(Encrypted)
        made._ciphers, made._inner, made._place = self._ciphers, inner, place
        return made
