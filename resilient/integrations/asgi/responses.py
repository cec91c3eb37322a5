"""Responses: kept as the application makes them, and replayed byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, NamedTuple

from resilient.engine import codecs
from resilient.errors import CodecError
from resilient.integrations.asgi.types import ASGIApp, Message, Scope, Send
from resilient.protocols.values import Encoded

__all__ = [
    "REPLAYED_HEADERS",
    "Exchange",
    "NotKept",
    "Response",
    "ResponseCodec",
    "deliver",
    "is_final",
]

REPLAYED_HEADERS = (
    "content-type",
    "content-length",
    "content-encoding",
    "content-language",
    "content-disposition",
    "content-location",
    "location",
    "link",
    "etag",
    "last-modified",
    "retry-after",
)
"""What describes the body and the result, and is as true in a replay. Cookies are not among them:
they belong to one session, not to one result."""

# Not the outcome of the request, but a "not now".
TRANSIENT = {408, 409, 423, 425, 429}


def is_final(status: int) -> bool:
    """Whether a status is the outcome of the request: not an error of the server, nor a "not now".

    Example:
        >>> is_final(201), is_final(404), is_final(429), is_final(500)
        (True, True, False, False)
    """
    return status < 500 and status not in TRANSIENT


class Response(NamedTuple):
    """What an application answered; without a body if that was too long, or cut off."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | None


class ResponseCodec:
    """Stores responses with those headers that shall be replayed.

    Args:
        headers: The names of these, in lower case.
    """

    def __init__(self, headers: Collection[str]) -> None:
        self._kept = {name.encode() for name in headers}

    def encode(self, value: Response) -> Encoded:
        """The stored form; `CodecError` without a body, so that the call is done without it."""
        if value.body is None:
            raise CodecError("the response was too long to be kept, or was cut off")
        kept = [(name, text) for name, text in value.headers if name.lower() in self._kept]
        return codecs.encode((value.status, kept, value.body))

    def decode(self, data: Encoded) -> Response:
        """The response again."""
        return Response(*codecs.decode(data))


class NotKept(Exception):
    """Ends a call whose response is no outcome: the same request may be made again."""


class Exchange:
    """One run of the application: what it reads, and what it answers.

    The response is held back until it is recorded: a client must not see what a crash could still
    undo. One that grows beyond the limit is passed on as it comes, and will not be replayed: all
    but its end, since whoever has the whole of it may ask again at once.

    A client that hangs up does not stop the application, which is not told before its response is
    whole: the client will ask again. Once the application has begun to answer with an outcome, its
    call has taken effect, however the rest of the response fares.

    Args:
        app: The application.
        scope: The request.
        body: Its body.
        send: The server's.
        limit: Bytes of a response that is kept.
        is_outcome: Whether a response of this status is the outcome of the request.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        body: bytes,
        send: Send,
        limit: int,
        is_outcome: Callable[[int], bool],
    ) -> None:
        self._app = app
        # No extension: each is another way to answer (a path of a file, trailers).
        self._scope = {**scope, "extensions": {}}
        self._request: bytes | None = body
        self._server_send = send
        self._limit = limit
        self._is_outcome = is_outcome
        self._start: Message | None = None
        self._is_decided = False
        self._held = bytearray()
        self._end: Message | None = None
        self._unsent: Exception | None = None
        self._ended = False
        self._whole = asyncio.Event()
        self._running: asyncio.Future[None] | None = None
        self.is_passing = False
        """Whether the response goes to the client as it comes."""
        self.response: Response | None = None
        """What the application answered, once it is whole."""
        self.error: BaseException | None = None
        """What the application raised, or what stopped it."""

    async def run(self, _claim: Any) -> Response:
        """Run the application until its response is whole; what it answered.

        Raises:
            NotKept: Its answer is no outcome.
        """
        # A task of its own: the response does not wait for what is done after it (see `rest`).
        running = asyncio.ensure_future(self._app(self._scope, self._receive, self._send))
        running.add_done_callback(lambda _: self._whole.set())
        self._running = running
        try:
            await self._whole.wait()
            if not self._ended:
                running.result()  # raises what the application did
                raise RuntimeError("the ASGI application returned without a whole response")
        except BaseException as error:
            self.error = error
            running.cancel()
            with suppress(asyncio.CancelledError):  # once more: it has been told
                await asyncio.wait([running])
            if not self._is_decided:
                raise
        assert self._start is not None
        status, headers = self._start["status"], self._start.get("headers", ())
        is_kept = self._ended and not self.is_passing
        body = bytes(self._held) if is_kept else None
        response = Response(status, [(bytes(k), bytes(v)) for k, v in headers], body)
        if self._ended:
            self.response = response
        if not self._is_decided:
            raise NotKept
        return response

    async def rest(self) -> None:
        """Send the end of a response that was passed on; let the application do what it does after
        it, such as background tasks.
        """
        if self._end is not None:
            await self._pass_on(self._end)
        if self.response is None or self.error is not None or self._running is None:
            return
        await self._running
        if self._unsent is not None and not isinstance(self._unsent, OSError):
            raise self._unsent  # no hang-up: the server tells of a fault

    async def _receive(self) -> Message:
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._whole.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            if self._start is not None:
                raise RuntimeError("the ASGI application started two responses")
            self._is_decided = self._is_outcome(message["status"])
            self._start = message
        elif kind == "http.response.body":
            await self._take(message)

    async def _take(self, message: Message) -> None:
        if self._start is None or self._ended:
            raise RuntimeError(
                "the ASGI application sent a body before its start, or after its end"
            )
        chunk, more = message.get("body", b""), message.get("more_body", False)
        if not self.is_passing:
            self._held += chunk
            if len(self._held) > self._limit:
                self.is_passing = True
                await self._pass_on(self._start)
                chunk, self._held = bytes(self._held), bytearray()
        if self.is_passing:
            part = {"type": "http.response.body", "body": chunk, "more_body": more}
            if more:
                await self._pass_on(part)
            else:
                self._end = part
        if not more:
            self._ended = True
            self._whole.set()

    async def _pass_on(self, message: Message) -> None:
        """Send, while somebody listens; the application goes on to its end all the same."""
        if self._unsent is None:
            try:
                await self._server_send(message)
            except Exception as error:
                self._unsent = error


async def deliver(response: Response, send: Send, *more: tuple[bytes, bytes]) -> None:
    """Send a kept response, with some more headers."""
    headers = [*response.headers, *more]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body or b""})
