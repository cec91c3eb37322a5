"""The `Idempotency-Key` header: one request after the other, over the memory backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.responses import StreamingResponse

import resilient
from resilient import idempotent
from resilient.config import disabled
from resilient.engine import clock
from resilient.engine.clock import ManualClock
from resilient.integrations.asgi import IdempotencyMiddleware, by_authorization
from resilient.integrations.asgi.types import ASGIApp, Message, Receive, Scope, Send

pytestmark = pytest.mark.usefixtures("backend")


KEY = {"Idempotency-Key": "k"}


class App:
    """An application that answers in chunks, and counts how often it does."""

    def __init__(
        self,
        *chunks: bytes,
        status: int = 201,
        headers: list[tuple[bytes, bytes]] | None = None,
        during: Callable[[], Awaitable[Any]] | None = None,
        after: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self.chunks = chunks or (b"done",)
        self.status = status
        self.headers = [] if headers is None else headers
        self.during = during
        self.after = after
        self.runs = 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        self.runs += 1
        self.bodies.append((await receive())["body"])
        if self.during is not None:
            await self.during()
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        *some, last = self.chunks
        for chunk in some:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.after is not None:
            await self.after()
        await send({"type": "http.response.body", "body": last})


def protected(app: ASGIApp, **options: Any) -> IdempotencyMiddleware:
    """The application under the middleware."""
    return IdempotencyMiddleware(app, **{"ttl": 60, "user": by_authorization, **options})


def asked(app: ASGIApp, *requests: dict[str, Any]) -> list[httpx.Response]:
    """Make requests, by default a POST to `/pay`, one after the other."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [
                await client.request(**{"method": "POST", "url": "/pay", **request})
                for request in requests
            ]

    return asyncio.run(run())


def retried(app: ASGIApp, **request: Any) -> list[httpx.Response]:
    """The same request twice."""
    request = {"headers": KEY, **request}
    return asked(app, request, request)


# --- what is replayed --------------------------------------------------------------------------


def test_a_retry_gets_the_same_bytes() -> None:
    """Status, chosen headers and body; a cookie belongs to one session and is left out."""
    headers = [
        (b"content-type", b"application/x-odd"),
        (b"location", b"/payments/7"),
        (b"set-cookie", b"session=1"),
    ]
    app = App(b"\x00\xff", b"{ }\n", status=202, headers=headers)
    first, second = retried(protected(app), content=b"body")
    assert (app.runs, app.bodies) == (1, [b"body"])
    assert (first.status_code, first.content) == (202, b"\x00\xff{ }\n")
    assert (second.status_code, second.content) == (202, b"\x00\xff{ }\n")
    assert first.headers["set-cookie"] == "session=1"
    assert "idempotency-replayed" not in first.headers
    assert dict(second.headers) == {
        "content-type": "application/x-odd",
        "location": "/payments/7",
        "idempotency-replayed": "true",
    }


def test_the_headers_to_replay_are_chosen() -> None:
    """Of any case."""
    app = App(headers=[(b"X-Receipt", b"7"), (b"location", b"/7")])
    _, second = retried(protected(app, headers=["x-receipt"]))
    assert (second.headers["x-receipt"], "location" in second.headers) == ("7", False)


@pytest.mark.parametrize(
    "other",
    [
        {"url": "/refund"},
        {"url": "/pay/"},
        {"method": "PATCH"},
        {"headers": {**KEY, "Authorization": "Bearer bob"}},
        {"headers": {"Idempotency-Key": "K"}},
        {"url": "/" + "p" * 3000},
    ],
    ids=["path", "slash", "method", "user", "key", "long path"],
)
def test_another_request_never_sees_it(other: dict[str, Any]) -> None:
    """Another path, method, user or key is another request."""
    app = App()
    responses = asked(protected(app), {"headers": KEY}, {"headers": KEY, **other})
    assert app.runs == 2
    assert ["idempotency-replayed" in response.headers for response in responses] == [False, False]


def test_no_text_of_user_path_and_key_runs_into_another() -> None:
    """Separators and escapes in any of them make other records."""
    app = App()
    requests = [
        {"url": url, "headers": {"Idempotency-Key": key, "x-user": user}}
        for url in ("/a", "/a:b", "/a%3Ab:c", "/a%253Ab")
        for user in ("", "b", "b:c")
        for key in ("k", "b:k", "c:k", ":k", "%3Ak")
    ]

    def user(scope: Scope) -> str:
        name: bytes = dict(scope["headers"])[b"x-user"]
        return name.decode()

    asked(protected(app, user=user), *requests)
    assert app.runs == len(requests)


def test_a_quoted_key_is_the_key_without_quotes() -> None:
    """The draft writes it as a String of RFC 8941; most clients do not."""
    app = App()
    keys = ["k", '"k"', ' "k" ', '"a \\"b\\""', '"a \\"b\\""']
    asked(protected(app), *({"headers": {"Idempotency-Key": key}} for key in keys))
    assert app.runs == 2


@pytest.mark.parametrize("status", [200, 302, 400, 404, 422])
def test_outcomes_are_replayed(status: int) -> None:
    """Whatever the application has decided."""
    app = App(status=status)
    assert [each.status_code for each in retried(protected(app))] == [status, status]
    assert app.runs == 1


@pytest.mark.parametrize("status", [409, 425, 429, 500, 503])
def test_what_is_no_outcome_is_not_kept(status: int) -> None:
    """A server's error and a "not now" reach the client, and leave the key free."""
    app = App(status=status)
    assert [each.content for each in retried(protected(app))] == [b"done", b"done"]
    assert app.runs == 2


def test_which_status_is_an_outcome_is_chosen() -> None:
    """As Stripe does it: every response that came of a run."""
    app = App(status=500)
    responses = retried(protected(app, is_outcome=lambda _: True))
    assert ([each.status_code for each in responses], app.runs) == ([500, 500], 1)


def test_the_bodys_call_is_known() -> None:
    """`current_idempotency()` makes keys for other services inside a route."""
    derived: list[str] = []

    async def during() -> None:
        call = resilient.current_idempotency()
        assert call is not None
        derived.append(call.derive("stripe"))

    retried(protected(App(during=during)))
    assert len(derived) == 1


# --- what is refused ---------------------------------------------------------------------------


def test_another_payload_is_422() -> None:
    """Another body, or another query string."""
    app = App()
    one, *others = asked(
        protected(app),
        {"headers": KEY, "content": b"5"},
        {"headers": KEY, "content": b"6"},
        {"headers": KEY, "content": b"5", "params": {"dry": 1}},
        {"headers": KEY, "content": b""},
    )
    assert (one.status_code, app.runs) == (201, 1)
    assert [each.status_code for each in others] == [422] * 3
    assert others[0].headers["content-type"] == "application/problem+json"
    assert others[0].json()["status"] == 422
    assert "retry-after" not in others[0].headers


def test_what_makes_the_payload_is_chosen() -> None:
    """A client that writes its JSON in another order makes the same request."""
    app = App()
    same = protected(app, fingerprint=lambda scope, body: str(len(body)))
    asked(same, {"headers": KEY, "content": b"ab"}, {"headers": KEY, "content": b"ba"})
    assert app.runs == 1


def test_a_missing_key_is_400_where_it_is_required() -> None:
    """Below the named paths, or everywhere; elsewhere the request passes, each time."""
    app = App()
    some = protected(app, required=["/pay"])
    urls = ["/pay", "/pay/7", "/payments", "/"]
    responses = asked(some, *({"url": url} for url in urls))
    assert [each.status_code for each in responses] == [400, 400, 201, 201]
    assert responses[0].json()["title"] == "Idempotency-Key is missing"
    assert "idempotency-key-header" in responses[0].json()["type"]
    [everywhere] = asked(protected(app, required=True, documentation="https://e.x"), {})
    assert (everywhere.status_code, everywhere.json()["type"]) == (400, "https://e.x")
    assert asked(protected(app, required=True), {"method": "GET"})[0].status_code == 201


@pytest.mark.parametrize("key", ["", " ", '"', '""', "a b", "a,b", '"a"b', '"\\x"', "ä", "k" * 256])
def test_a_malformed_key_is_400(key: str) -> None:
    """Also where it is not required: the client believes that it is protected."""
    app = App()
    [response] = asked(protected(app), {"headers": [(b"Idempotency-Key", key.encode())]})
    assert (response.status_code, app.runs) == (400, 0)


def test_two_keys_are_400() -> None:
    """Nobody can tell which is meant."""
    [response] = asked(protected(App()), {"headers": [("Idempotency-Key", "a")] * 2})
    assert response.status_code == 400


def test_a_running_request_is_409() -> None:
    """With `Retry-After`; and with `wait` the duplicate gets the response."""

    async def run() -> None:
        running, go = asyncio.Event(), asyncio.Event()

        async def during() -> None:
            running.set()
            await go.wait()

        app = App(during=during)
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(protected(app))) as client,
            httpx.AsyncClient(transport=httpx.ASGITransport(protected(app, wait=9))) as patient,
        ):
            first = asyncio.create_task(client.post("http://t/pay", headers=KEY))
            await running.wait()
            refused = await client.post("http://t/pay", headers=KEY)
            other = await client.post("http://t/pay", headers=KEY, content=b"other")
            waits = asyncio.create_task(patient.post("http://t/pay", headers=KEY))
            await asyncio.sleep(0)
            go.set()
            responses = await asyncio.gather(first, waits)
        assert (refused.status_code, refused.headers["retry-after"]) == (409, "1")
        assert other.status_code == 422
        assert [each.status_code for each in responses] == [201, 201]
        assert app.runs == 1

    asyncio.run(run())


def test_a_long_request_is_413() -> None:
    """It would have to be held in memory; without a key it passes."""
    app = App()
    small = protected(app, max_request=10)

    async def chunks() -> Any:
        for _ in range(3):
            yield b"12345"

    announced, streamed, fits, passes = asked(
        small,
        {"headers": KEY, "content": b"x" * 11},
        {"headers": KEY, "content": chunks()},
        {"headers": KEY, "content": b"x" * 10},
        {"content": b"x" * 11},
    )
    assert [announced.status_code, streamed.status_code] == [413, 413]
    assert [fits.status_code, passes.status_code, app.runs] == [201, 201, 2]


# --- streams -----------------------------------------------------------------------------------


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


class Broken(Exception):
    """The application's own."""


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


# --- what goes wrong ---------------------------------------------------------------------------


def test_an_error_leaves_the_key_free() -> None:
    """It is the application's, and passes unchanged; also one of ours, from inside."""

    @idempotent("inner", ttl=60, wait=0)
    async def inner() -> None:
        await inner()

    async def broken() -> None:
        raise Broken

    for during, kind in ((broken, Broken), (inner, resilient.CallInProgress)):
        app = App(during=during)
        for _ in range(2):
            with pytest.raises(kind):
                asked(protected(app), {"headers": {"Idempotency-Key": kind.__name__}})
        assert app.runs == 2


def test_a_request_that_was_taken_over_is_409(backend: resilient.Backend) -> None:
    """Its response is the other's; the client asks again, and gets that."""

    async def loses_it() -> None:
        if app.runs > 1:
            return
        call = resilient.current_idempotency()
        assert call is not None
        record = await backend.aio.idempotency.get(call.key)
        await backend.aio.idempotency.expire(call.key, owner=record.owner)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(slow)) as client:
            assert (await client.post("http://test/pay", headers=KEY)).status_code == 201

    app = App(during=loses_it)
    slow = protected(app)
    first, again = retried(slow)
    assert (first.status_code, first.headers["retry-after"]) == (409, "1")
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert app.runs == 2


def test_disabled_requests_pass_through() -> None:
    """Every one of them runs."""
    app = App()
    with disabled():
        assert [each.content for each in retried(protected(app))] == [b"done"] * 2
    assert app.runs == 2


def test_other_requests_and_protocols_pass() -> None:
    """Safe methods, websockets and the lifespan are none of its business."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    for scope in ({"type": "websocket"}, {"type": "lifespan"}):
        asyncio.run(protected(app)(scope, nothing, nothing))
    assert seen == ["websocket", "lifespan"]
    counted = App()
    retried(protected(counted), method="GET")
    assert counted.runs == 2


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": -1},
        {"lease": 0},
        {"wait": "soon"},
        {"methods": "POST"},
        {"headers": [b"etag"]},
        {"required": "/pay"},
        {"user": None},
        {"fingerprint": "body"},
        {"is_outcome": 500},
        {"max_request": -1},
        {"max_response": True},
        {"on_takeover": "guess"},
        {"on_cancel": "free"},
        {"on_backend_error": "pass"},
        {"backend": 7},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_wrong_option_is_named(options: dict[str, Any]) -> None:
    """Before the first request."""
    with pytest.raises(resilient.ConfigurationError, match=f"{next(iter(options))}|backend"):
        protected(App(), **options)


def test_a_user_that_is_no_text_is_an_error() -> None:
    """`None` would be one user for all who are not known."""
    with pytest.raises(resilient.ConfigurationError, match="user= answered None"):
        asked(protected(App(), user=lambda _: None), {"headers": KEY})
