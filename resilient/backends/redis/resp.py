"""The wire format, where redis-py gives no access to it: packing, and reading as bytes arrive.

hiredis does both where it is installed (`pip install redis[hiredis]`); else the few lines below.
https://redis.io/docs/latest/develop/reference/protocol-spec/ (version 2, and of version 3 what is
sent unasked or in answer to `HELLO`)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

from redis.exceptions import InvalidResponse

__all__ = ["PUSHED", "UNFINISHED", "PlainReader", "Reader", "new_reader", "pack"]

UNFINISHED: Any = object()
"""What a reader gives when the rest of a reply has not arrived yet."""

MakeError = Callable[[str], Exception]


class Reader(Protocol):
    """Takes bytes as they arrive and gives replies."""

    def feed(self, data: bytes) -> object:
        """Take what has arrived."""
        ...

    def gets(self) -> Any:
        """The next reply, an error reply as an exception object, or `UNFINISHED`.

        Raises:
            redis.exceptions.InvalidResponse: What has arrived is no reply.
        """
        ...


class PlainPush(list[Any]):
    """What the server has sent unasked."""


class PlainReader:
    """The reader for where hiredis is not installed."""

    def __init__(self, make_error: MakeError) -> None:
        self._make_error = make_error
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._buffer += data

    def gets(self) -> Any:
        """The next reply, an error reply as an exception object, or `UNFINISHED`."""
        try:
            reply, end = self._parse(0)
        except IndexError:
            return UNFINISHED
        except ValueError as error:
            raise InvalidResponse(str(error)) from error
        del self._buffer[:end]
        return reply

    def _parse(self, start: int) -> tuple[Any, int]:
        """The reply that begins here and where it ends; `IndexError` if it is not whole."""
        line_end = self._buffer.find(b"\r\n", start)
        if line_end < 0:
            raise IndexError
        kind, line = self._buffer[start], bytes(self._buffer[start + 1 : line_end])
        end = line_end + 2
        if kind == ord(":"):
            return int(line), end
        if kind == ord("+"):
            return line, end
        if kind == ord("_"):
            return None, end
        if kind == ord("-"):
            return self._make_error(line.decode(errors="replace")), end
        size = int(line)
        if size < 0:
            return None, end
        if kind == ord("$"):
            if len(self._buffer) < end + size + 2:
                raise IndexError
            return bytes(self._buffer[end : end + size]), end + size + 2
        is_map = kind == ord("%")
        items = []
        for _ in range(2 * size if is_map else size):
            item, end = self._parse(end)
            items.append(item)
        if kind == ord(">"):
            return PlainPush(items), end
        return dict(zip(items[::2], items[1::2], strict=True)) if is_map else items, end


def plain_pack(words: Sequence[str | bytes | int | float]) -> bytes:
    """A command as the server reads it."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


def _compiled_reader(kind: Any, make_error: MakeError) -> Reader:
    reader: Reader = kind(
        protocolError=InvalidResponse, replyError=make_error, notEnoughData=UNFINISHED
    )
    return reader


try:
    import hiredis
except ImportError:
    pack: Callable[[Sequence[str | bytes | int | float]], bytes] = plain_pack
    new_reader: Callable[[MakeError], Reader] = PlainReader
    PUSHED: Any = PlainPush
else:
    pack = cast(Callable[[Sequence[str | bytes | int | float]], bytes], hiredis.pack_command)
    new_reader = partial(_compiled_reader, hiredis.Reader)
    PUSHED = getattr(hiredis, "PushNotification", None)  # since 3.2
"""The type of what a reader gives that was sent unasked; `None`: it cannot be told from a reply."""
