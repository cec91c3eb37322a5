"""`integrations.fastapi.install`: refusals of the decorators, as HTTP statuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

import resilient
from resilient import Consecutive, circuit_breaker, distributed_lock, idempotent
from resilient.errors import Rejected
from resilient.integrations.fastapi import install


@pytest.fixture(name="app")
def _app() -> Iterator[FastAPI]:
    app = FastAPI()
    install(app)
    with resilient.using("memory://"):
        yield app


def answer(app: FastAPI, path: str) -> httpx.Response:
    """GET it."""

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(run())


def test_a_held_lock_is_409(app: FastAPI) -> None:
    """Of a `def` and of an `async def`; the answer names neither key nor process."""

    @app.get("/def")
    @distributed_lock("secret-key", wait=0)
    def route() -> str:
        return "ran"

    @app.get("/async")
    @distributed_lock("secret-key", wait=0)
    async def aroute() -> str:
        return "ran"

    assert answer(app, "/def").json() == "ran"
    with resilient.lock("secret-key", ttl=30):
        for path in ("/def", "/async"):
            refused = answer(app, path)
            assert refused.status_code == 409
            assert 1 <= int(refused.headers["retry-after"]) <= 30
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["status"] == 409
            assert "secret-key" not in refused.text


def test_an_open_circuit_is_503(app: FastAPI) -> None:
    """Until it may be tried again."""

    @app.get("/")
    @circuit_breaker("bank", trip=Consecutive(1), open_for=20)
    def route() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        answer(app, "/")
    refused = answer(app, "/")
    assert (refused.status_code, int(refused.headers["retry-after"]) <= 20) == (503, True)


def test_another_payload_is_422(app: FastAPI) -> None:
    """And a retry of it will not help."""

    @app.get("/{amount}")
    @idempotent("charge", ttl=60)
    def route(amount: int) -> int:
        return amount

    assert answer(app, "/5").json() == 5
    refused = answer(app, "/6")
    assert (refused.status_code, "retry-after" in refused.headers) == (422, False)


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        ("distributed_lock", 409),
        ("idempotent", 409),
        ("checkpointed", 409),
        ("rate_limited", 429),
        ("circuit_breaker", 503),
        ("bulkhead", 503),
    ],
)
def test_every_refusal_has_its_status(app: FastAPI, policy: str, status: int) -> None:
    """With at least a second to wait, where the error does not say how long."""

    @app.get("/{seconds}")
    def route(seconds: float) -> None:
        raise Rejected("no", policy=policy, key="k", retry_after=seconds or None)

    answers = [answer(app, path) for path in ("/0", "/0.2", "/2.5")]
    assert [each.status_code for each in answers] == [status] * 3
    assert [each.headers["retry-after"] for each in answers] == ["1", "1", "3"]
