"""Reading and packing the wire format without hiredis: exactly as with it."""

from __future__ import annotations

from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.backends.redis.resp import PUSHED, UNFINISHED, PlainPush, PlainReader, plain_pack

STREAMS = [
    b"+OK\r\n",
    b":-12\r\n",
    b"$3\r\na\r\n\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*3\r\n$1\r\nx\r\n*2\r\n:1\r\n$-1\r\n+s\r\n:1\r\n",
    b"-NOSCRIPT No matching script\r\n+after\r\n",
    b"*2\r\n-ERR inside\r\n:2\r\n",
    b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*0\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
    b">2\r\n$10\r\ninvalidate\r\n_\r\n",
]


class Failure(Exception):
    """An error reply."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Failure) and self.args == other.args

    __hash__ = Exception.__hash__


def replies(reader: Any, pieces: list[bytes], unfinished: object) -> list[Any]:
    """All replies of a stream that arrives in pieces."""
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (reply := reader.gets()) is not unfinished:
            found.append(reply)
    return found


@pytest.mark.parametrize("stream", STREAMS)
def test_reads_like_hiredis(stream: bytes) -> None:
    """In one piece, and byte by byte."""
    expected = replies(
        hiredis.Reader(replyError=Failure, notEnoughData=UNFINISHED), [stream], UNFINISHED
    )

    assert expected
    for pieces in ([stream], [bytes([byte]) for byte in stream]):
        assert replies(PlainReader(Failure), pieces, UNFINISHED) == expected


def test_what_is_sent_unasked_is_told_from_replies() -> None:
    """By its type, as with hiredis."""
    stream = b">2\r\n$7\r\nmessage\r\n:1\r\n*1\r\n:1\r\n"
    compiled = replies(
        hiredis.Reader(replyError=Failure, notEnoughData=UNFINISHED), [stream], UNFINISHED
    )
    assert [type(reply) is PUSHED for reply in compiled] == [True, False]
    plain = replies(PlainReader(Failure), [stream], UNFINISHED)
    assert [type(reply) is PlainPush for reply in plain] == [True, False]


@given(st.lists(st.one_of(st.text(), st.binary(), st.integers(), st.floats(allow_nan=False))))
def test_packs_like_hiredis(words: list[Any]) -> None:
    """Text as UTF-8, numbers as Python writes them."""
    assert plain_pack(["SET", *words]) == hiredis.pack_command(("SET", *words))
