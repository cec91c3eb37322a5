"""Signed pickles: what is changed, or read by another codec, is refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from resilient.engine.codecs import ANY, SignedPickle, codec_of
from resilient.errors import CodecError, ConfigurationError
from resilient.protocols.values import Encoded
from tests.support.encoded import MyList, Row, assert_kept

KEY = b"k" * 32


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled before it was checked",)


def test_a_signed_pickle_comes_back() -> None:
    """It stores what nothing else does, and each time a fresh object."""
    codec = SignedPickle(KEY)
    value = {"range": range(3), "list": MyList([1])}

    assert_kept(value, codec)
    assert type(codec.decode(codec.encode(value))["list"]) is MyList


def test_a_changed_record_is_refused_before_it_is_unpickled() -> None:
    """Not a bit of it may change, whoever wrote it."""
    codec = SignedPickle(KEY)
    stored = codec.encode([1, "x"])

    for place in range(len(stored)):
        changed = bytearray(stored)
        changed[place] ^= 1
        with pytest.raises(CodecError):
            codec.decode(Encoded(bytes(changed)))
    bomb = stored[:33] + pickle.dumps(Bomb())
    for data in (bomb, b"\x03" + pickle.dumps(Bomb()), pickle.dumps(Bomb()), b"\x03", b""):
        with pytest.raises(CodecError):
            codec.decode(Encoded(data))


def test_keys_and_purposes_are_kept_apart() -> None:
    """A record is read with its key or as one of the previous, for its purpose only."""
    old, new = SignedPickle(KEY), SignedPickle(b"n" * 32, previous=[KEY])
    stored = old.encode(1)

    assert new.decode(stored) == 1
    for codec in (SignedPickle(b"n" * 32), SignedPickle(KEY, purpose="reports")):
        with pytest.raises(CodecError, match="no pickle signed"):
            codec.decode(stored)
    with pytest.raises(CodecError, match="no pickle signed"):
        old.decode(new.encode(1))


def test_no_other_codec_reads_a_pickle() -> None:
    """A record never chooses how it is read."""
    stored = SignedPickle(KEY).encode(1)

    for codec in (ANY, codec_of(Row), codec_of(int)):
        with pytest.raises(CodecError, match="pickle"):
            codec.decode(stored)


@pytest.mark.parametrize("key", ["text" * 10, b"short", b"", None])
def test_a_weak_key_is_refused(key: Any) -> None:
    """A key is 16 bytes or more, and is not shown."""
    with pytest.raises(ConfigurationError, match="SignedPickle"):
        SignedPickle(key)

    assert "kkkk" not in repr(SignedPickle(KEY))


def test_what_cannot_be_pickled_is_a_codec_error() -> None:
    """As with every codec: when it is stored."""
    with pytest.raises(CodecError, match="function"):
        SignedPickle(KEY).encode(lambda: 1)
