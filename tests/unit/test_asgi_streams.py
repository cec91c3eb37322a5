"""Streams, hang-ups and cancellation behind the idempotency middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from starlette.responses import StreamingResponse

import resilient
from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.integrations.asgi.types import ASGIApp, Message, Receive, Scope, Send
from tests.support.asgi_apps import KEY, App, Broken, asked, protected, retried

pytestmark = pytest.mark.usefixtures("backend")


def test_a_long_response_is_passed_on_and_never_run_again() -> None:
    """The first client gets all of it; the next one learns that the request is done."""
    app = App(*[b"x" * 1000] * 10)
    first, second = retried(protected(app, max_response=2500))
    assert (first.status_code, first.content) == (201, b"x" * 10_000)
    assert (second.status_code, second.json()["title"]) == (409, "Request is done")
    assert ("retry-after" in second.headers, app.runs) == (False, 1)


async def raw(
    app: ASGIApp, *received: Message, sent: list[Message], fails: BaseException | None = None
) -> None:
    """One request by hand: what the server receives, then nothing; what it is to send.

    With `fails` it can send one chunk, and nothing more.
    """
    messages = list(received)

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if fails is not None and len(sent) >= 2:
            raise fails
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/", "headers": [(b"idempotency-key", b"k")],
        "asgi": {"spec_version": "2.3" if fails is None else "2.4"},
    }  # fmt: skip
    await app(scope, receive, send)


REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}


GONE: Message = {"type": "http.disconnect"}


def test_a_response_is_held_back_until_it_is_recorded() -> None:
    """What a crash could undo is not shown; beyond the limit the memory is not used for it."""

    async def run() -> None:
        sent: list[Message] = []
        seen: list[int] = []

        async def after() -> None:
            seen.append(len(sent))

        await raw(protected(App(b"1", b"2", after=after)), REQUEST, sent=sent)
        await raw(
            protected(App(b"1", b"2", after=after), max_response=0, ttl=1, user=lambda _: "x"),
            REQUEST,
            sent=sent,
        )
        assert seen == [0, 2 + 2]

    asyncio.run(run())


@pytest.mark.parametrize("fails", [None, OSError("gone")], ids=["disconnect", "send"])
def test_a_hang_up_in_a_long_response_never_runs_it_again(fails: OSError | None) -> None:
    """By a message, or by an error where ASGI 2.4 sends: the stream goes on to its end."""

    async def run() -> None:
        runs: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()

            async def rows() -> AsyncIterator[bytes]:
                for _ in range(5):
                    yield b"x" * 1000
                    await asyncio.sleep(0.001)
                runs.append("ended")

            await StreamingResponse(rows(), 201)(scope, receive, send)

        again = protected(app, max_response=1500)
        first: list[Message] = []
        second: list[Message] = []
        await raw(again, REQUEST, GONE, sent=first, fails=fails)
        await raw(again, REQUEST, sent=second)
        assert (first[0]["status"], second[0]["status"], runs) == (201, 409, ["ended"])

    asyncio.run(run())


def test_whoever_has_all_of_a_long_response_is_told_that_it_is_done() -> None:
    """Its end comes when that is recorded, in whatever chunks: no retry finds it running."""

    async def run(*chunks: bytes) -> None:
        again, later = protected(App(*chunks), max_response=1500), list[Message]()

        class Sent(list[Message]):
            def append(self, message: Message) -> None:
                super().append(message)
                if message.get("more_body") is False:
                    retries.append(asyncio.create_task(raw(again, REQUEST, sent=later)))

        retries, sent = list[asyncio.Task[None]](), Sent()
        await raw(again, REQUEST, sent=sent)
        await asyncio.gather(*retries)
        assert b"".join(each["body"] for each in sent[1:]) == b"".join(chunks)
        assert [each.get("status") for each in later] == [409, None]
        assert b"Request is done" in later[1]["body"]

    for chunks in ([b"x" * 1000] * 5, [b"x" * 5000]):
        with resilient.using("memory://"):
            asyncio.run(run(*chunks))


def test_what_the_server_refuses_to_send_is_told_to_it() -> None:
    """A response against the protocol is the server's to complain of; the request is done."""

    async def run() -> None:
        sent: list[Message] = []
        app = App(*[b"x" * 1000] * 5)
        again = protected(app, max_response=1500)
        with pytest.raises(RuntimeError, match="too much"):
            await raw(again, REQUEST, sent=sent, fails=RuntimeError("too much"))
        await raw(again, REQUEST, sent=sent)
        assert ([each.get("status") for each in sent], app.runs) == ([201, None, 409, None], 1)

    asyncio.run(run())


@pytest.mark.parametrize("limit", [0, 100], ids=["passing", "held"])
@pytest.mark.parametrize("status", [201, 500])
@pytest.mark.parametrize("end", ["raises", "returns", "is cancelled"])
def test_an_outcome_that_has_begun_is_done(end: str, status: int, limit: int) -> None:
    """However the rest fares: the error is the server's, a retry is told. A 500 is no outcome."""

    async def run() -> None:
        runs: list[int] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            runs.append(1)
            await send({"type": "http.response.start", "status": status})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            begun.set()
            if end == "raises":
                raise Broken
            if end == "is cancelled":
                await asyncio.sleep(60)

        kinds = {"raises": Broken, "returns": RuntimeError, "is cancelled": asyncio.CancelledError}
        again = protected(app, max_response=limit, on_cancel="release")
        begun = asyncio.Event()
        first = asyncio.create_task(raw(again, REQUEST, sent=[]))
        await begun.wait()
        if end == "is cancelled":
            first.cancel()
        with pytest.raises(kinds[end]):
            await first
        sent: list[Message] = []
        with suppress(Broken, RuntimeError, TimeoutError):
            async with asyncio.timeout(0.2):
                await raw(again, REQUEST, sent=sent)
        if status == 500:
            assert len(runs) == 2
        else:
            assert (sent[0]["status"], runs) == (409, [1])

    asyncio.run(run())


def test_an_application_answers_once() -> None:
    """A second start and a body after the end are errors, as they are of a server."""
    start = {"type": "http.response.start", "status": 200}
    body = {"type": "http.response.body", "body": b""}
    for messages in ([start, start], [start, body, body], [body]):

        async def app(scope: Scope, receive: Receive, send: Send, told: Any = messages) -> None:
            for message in told:
                await send(message)

        with pytest.raises(RuntimeError, match="the ASGI application"):
            asked(protected(app, user=lambda _, told=messages: repr(told)), {"headers": KEY})


def test_what_is_done_after_the_response_is_not_waited_for() -> None:
    """A background task keeps no client waiting; its error is the server's, the response stands."""

    async def run() -> None:
        goes_on = asyncio.Event()
        runs: list[int] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            runs.append(1)
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"done"})
            await goes_on.wait()
            raise Broken

        sent: list[Message] = []
        again = protected(app)
        first = asyncio.create_task(raw(again, REQUEST, sent=sent))
        for _ in range(1000):
            if len(sent) == 2:
                break
            await asyncio.sleep(0.001)
        await raw(again, REQUEST, sent=sent)
        assert not first.done()
        goes_on.set()
        with pytest.raises(Broken):
            await first
        await raw(again, REQUEST, sent=sent)
        assert runs == [1]
        assert [each.get("body") for each in sent] == [None, b"done"] * 3

    asyncio.run(run())


def test_a_cancelled_request_leaves_nothing_running() -> None:
    """A server that gives a request up stops the application with it; by choice its key is free."""

    async def run() -> None:
        ended: list[str] = []
        running = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            running.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        again = protected(app, on_cancel="release")
        for _ in range(2):
            running.clear()
            task = asyncio.create_task(raw(again, REQUEST, sent=[]))
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert ended == ["cancelled"] * 2

    asyncio.run(run())


@pytest.mark.parametrize(("on_takeover", "status", "runs"), [("rerun", 201, 2), ("raise", 409, 1)])
def test_a_cancelled_request_is_like_one_whose_process_died(
    on_takeover: str, status: int, runs: int
) -> None:
    """It may have taken effect: its key is taken while the lease lasts, then `on_takeover` says."""
    manual = ManualClock()

    async def run() -> None:
        running = asyncio.Event()

        async def during() -> None:
            running.set()
            if app.runs == 1:
                await asyncio.sleep(60)

        app = App(during=during)
        again = protected(app, lease=5, on_takeover=on_takeover)
        task = asyncio.create_task(raw(again, REQUEST, sent=[]))
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        at_once: list[Message] = []
        later: list[Message] = []
        await raw(again, REQUEST, sent=at_once)
        manual.advance(6)
        await raw(again, REQUEST, sent=later)
        assert (at_once[0]["status"], later[0]["status"], app.runs) == (409, status, runs)

    with clock.installed(manual), resilient.using("memory://"):
        asyncio.run(run())


def test_a_client_that_hangs_up_does_not_stop_the_request() -> None:
    """It will come again for the response; one that goes before its body was read asks nothing."""

    async def run() -> None:
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            listening = asyncio.ensure_future(receive())
            await asyncio.sleep(0.01)
            heard.append(str(listening.done()))
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"done"})
            heard.append((await listening)["type"])

        sent: list[Message] = []
        again = protected(app)
        await raw(again, {**REQUEST, "more_body": True}, GONE, sent=sent)
        assert (heard, sent) == ([], [])
        await raw(again, REQUEST, GONE, sent=sent)
        await raw(again, REQUEST, sent=sent)
        assert heard == ["False", "http.disconnect"]
        assert [each.get("body") for each in sent] == [None, b"done", None, b"done"]

    asyncio.run(run())
