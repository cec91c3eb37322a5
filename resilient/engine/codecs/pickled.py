"""Signed pickles: for what no other codec can store, and by explicit choice only.

A pickle is a program: who can write one into the store runs code in every reader. The signature
is what keeps strangers out, so it is checked before a byte is unpickled, in constant time, by the
one algorithm that is written here; the record has no say in how it is checked.
"""

from __future__ import annotations

import hmac
import pickle
from collections.abc import Iterable
from typing import Any

from resilient.engine.codecs.base import SIGNED_PICKLE
from resilient.engine.names import name_of
from resilient.errors import CodecError, ConfigurationError
from resilient.protocols.values import Encoded

__all__ = ["SignedPickle"]

_MAC_BYTES = 32
_MINIMUM_KEY_BYTES = 16


class SignedPickle:
    """A codec that pickles, and signs with HMAC-SHA256.

    Who has the key can run code in every process that reads. A signature vouches for a value,
    not for the place where it is stored: give each use a purpose, so that a record of one is
    none of another.

    Args:
        key: The secret, 16 bytes or more, such as `secrets.token_bytes(32)` once gave it.
        previous: Keys of the past: records signed with them are still read.
        purpose: What the values are for; a record is read only under the purpose it was written.

    Raises:
        ConfigurationError: A key is not of bytes, or too short.

    Example:
        >>> codec = SignedPickle(b"from the secret store, 32 bytes.", purpose="reports")
        >>> codec.decode(codec.encode({"rows": range(3)}))
        {'rows': range(0, 3)}
    """

    def __init__(self, key: bytes, *, previous: Iterable[bytes] = (), purpose: str = "") -> None:
        self._keys = (key, *previous)
        self._purpose = purpose
        if not all(map(_is_key, self._keys)):
            raise ConfigurationError(
                f"SignedPickle needs keys of bytes, {_MINIMUM_KEY_BYTES} or more of them"
            )
        context = purpose.encode()
        # With its length, so that no purpose runs into the pickle behind it.
        self._context = SIGNED_PICKLE + len(context).to_bytes(4, "big") + context

    def placed(self, place: str) -> SignedPickle:
        """The codec for one place: a record that was moved there from another is none."""
        first, *previous = self._keys
        return SignedPickle(first, previous=previous, purpose=f"{self._purpose}\0{place}")

    def encode(self, value: Any) -> Encoded:
        """Return the signed pickle of a value; see `Codec.encode`."""
        try:
            body = pickle.dumps(value, protocol=5)
        except Exception as error:  # a class's own `__reduce__` may raise anything
            raise CodecError(f"a {name_of(type(value))} cannot be pickled: {error}") from error
        return Encoded(SIGNED_PICKLE + self._mac(self._keys[0], body) + body)

    def decode(self, data: Encoded) -> Any:
        """Return the value of a pickle that was signed with one of the keys; see `Codec.decode`."""
        mac, body = data[1 : 1 + _MAC_BYTES], data[1 + _MAC_BYTES :]
        # Every key is tried, so that the time tells nothing of which one it was.
        known = [hmac.compare_digest(mac, self._mac(key, body)) for key in self._keys]
        if data[:1] != SIGNED_PICKLE or not any(known):
            raise CodecError("the stored value is no pickle signed with the key of this codec")
        try:
            return pickle.loads(body)
        except Exception as error:  # a class that is no longer there, or was changed
            raise CodecError(f"the stored value cannot be unpickled: {error}") from error

    def _mac(self, key: bytes, body: bytes) -> bytes:
        return hmac.digest(key, self._context + body, "sha256")


def _is_key(key: object) -> bool:
    return isinstance(key, bytes) and len(key) >= _MINIMUM_KEY_BYTES
