"""Idempotent calls whose server is stopped: before, during and after the body."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import resilient
from resilient import BackendError, idempotent
from resilient.integrations.asgi import IdempotencyMiddleware
from resilient.integrations.asgi.types import Receive, Scope, Send
from tests.support.fixtures import NETWORKED, PrivateServer, alternating
from tests.support.modes import Mode, ModeName
from tests.support.servers import RedisServer

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(120)]

LEASE = 1.5


class Once:
    """A call that must take effect once, and is told what to do meanwhile."""

    def __init__(
        self, mode: Mode, during: Callable[[], Any] = lambda: None, **options: Any
    ) -> None:
        self.began: list[float] = []

        def body() -> str:
            self.began.append(time.monotonic())
            if len(self.began) == 1:
                during()
            return "done"

        decorator = idempotent("k", **{"ttl": 60, "lease": LEASE, "wait": 0, **options})
        self.call = mode.decorate(decorator, body)


def test_a_server_that_is_away_before_the_body(private_redis: RedisServer) -> None:
    """By default nothing runs, and the call is free when it is back; by choice it runs."""
    with Mode("sync") as mode, resilient.using(private_redis.url):
        closed, open_ = Once(mode), Once(mode, on_backend_error="run")
        private_redis.kill()
        with pytest.raises(BackendError):
            mode.call(closed.call)
        assert closed.began == []
        assert mode.call(open_.call) == "done"
        private_redis.start()
        assert [mode.call(closed.call) for _ in range(2)] == ["done"] * 2
        assert (len(closed.began), len(open_.began)) == (1, 1)


@alternating("sync", NETWORKED, of="private_server")
def test_a_server_that_is_away_during_the_body(private_server: PrivateServer, mode: Mode) -> None:
    """Back inside the lease: the outcome is recorded after all, and replayed."""
    with resilient.using(private_server.url):
        back = threading.Timer(0.3, private_server.start)

        def outage() -> None:
            private_server.kill()
            back.start()

        once = Once(mode, outage, lease=30)
        assert mode.call(once.call) == "done"
        back.join()
        assert mode.call(once.call) == "done"
        assert len(once.began) == 1
        if mode.is_async:
            mode.call(resilient.aclose)


@pytest.mark.parametrize(("name", "on_backend_error"), [("async", "raise"), ("sync", "run")])
def test_a_server_that_comes_back_too_late(
    private_redis: RedisServer, name: ModeName, on_backend_error: str
) -> None:
    """The caller is told, or answered, by choice; nobody runs it again inside the lease."""
    with Mode(name) as mode, resilient.using(private_redis.url):
        once = Once(mode, private_redis.kill, on_backend_error=on_backend_error)
        if on_backend_error == "run":
            assert mode.call(once.call) == "done"
        else:
            with pytest.raises(BackendError) as info:
                mode.call(once.call)
            assert "has taken effect" in info.value.__notes__[0]
        private_redis.start()
        deadline = time.monotonic() + 30
        while len(once.began) == 1:
            assert time.monotonic() < deadline
            try:
                mode.call(once.call)
            except resilient.CallInProgress:
                time.sleep(0.02)
        first, second = once.began
        assert second - first > 0.95 * LEASE
        if mode.is_async:
            mode.call(resilient.aclose)


@alternating("async", NETWORKED, of="private_server")
def test_a_server_that_is_away_after_the_body(private_server: PrivateServer, mode: Mode) -> None:
    """What was recorded is replayed when it is back; meanwhile nothing runs."""
    with resilient.using(private_server.url):
        once = Once(mode)
        assert mode.call(once.call) == "done"
        private_server.kill()
        with pytest.raises(BackendError):
            mode.call(once.call)
        private_server.start()
        assert mode.call(once.call) == "done"
        assert len(once.began) == 1
        if mode.is_async:
            mode.call(resilient.aclose)


def test_a_web_request_while_the_server_is_away(private_redis: RedisServer) -> None:
    """503 if nothing ran; but an effect that cannot be recorded is answered as what it was."""
    runs: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        runs.append(scope["path"])
        private_redis.kill()
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    protected = IdempotencyMiddleware(app, ttl=60, lease=0.5, user=lambda _: "")

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(protected)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"Idempotency-Key": "k"}
            answers = [await client.post(path, headers=headers) for path in ("/one", "/two")]
        await resilient.aclose()
        return answers

    with resilient.using(private_redis.url):
        effect, refused = asyncio.run(run())
    assert runs == ["/one"]
    assert (effect.status_code, effect.content) == (201, b"done")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
