"""An application behind the idempotency middleware, and requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from resilient.integrations.asgi import IdempotencyMiddleware, by_authorization
from resilient.integrations.asgi.types import ASGIApp, Receive, Scope, Send

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


class Broken(Exception):
    """The application's own."""
