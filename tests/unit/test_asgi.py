"""The idempotency middleware: what is replayed, what is refused, and what goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

import resilient
from resilient import idempotent
from resilient.config import disabled
from resilient.integrations.asgi.types import Receive, Scope, Send
from tests.support.asgi_apps import KEY, App, Broken, asked, protected, retried

pytestmark = pytest.mark.usefixtures("backend")


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
