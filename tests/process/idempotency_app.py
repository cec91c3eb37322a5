"""A FastAPI application that real servers run in several processes; it writes down each effect."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

import resilient
from resilient.integrations.asgi import IdempotencyMiddleware, by_authorization
from resilient.integrations.fastapi import install

EFFECTS = os.environ["TEST_EFFECTS"]

resilient.configure()  # RESILIENT_URL and RESILIENT_PREFIX
app = FastAPI()
app.add_middleware(
    IdempotencyMiddleware,
    ttl=60,
    user=by_authorization,
    required=("/pay",),
    max_request=100_000,
    max_response=100_000,
)
install(app)


def effect(text: str) -> None:
    """What must happen once."""
    with open(EFFECTS, "a") as file:
        file.write(f"{text}\n")


@app.post("/pay/{order}")
async def pay(order: str, request: Request) -> Response:
    """Take a while, and effect."""
    body = await request.body()
    await asyncio.sleep(0.3)
    effect(order)
    answer = order.encode() + b"\x00\xff" + body
    return Response(answer, 201, {"location": f"/pay/{order}", "x-worker": str(os.getpid())})


@app.post("/export")
async def export() -> Response:
    """A long answer, as a stream that takes a while."""
    effect("export")

    async def rows() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000
            await asyncio.sleep(0.01)

    return StreamingResponse(rows())


@app.post("/busy")
def busy() -> None:
    """What somebody else holds."""
    with resilient.lock("busy", ttl=30), resilient.lock("busy", ttl=30, wait=0):
        raise AssertionError
