"""Processes that hold locks while the primary of their server is replaced by its replica."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import resilient
from tests.support.processes import receive, tell

PATIENCE = 40.0


def hold(url: str, prefix: str, mode: str) -> dict[str, Any]:
    """Hold one lock that the replica has, and one that it has not; what became of both."""
    resilient.configure(url, prefix=prefix)
    return asyncio.run(_ahold()) if mode == "async" else _hold()


def _hold() -> dict[str, Any]:
    with resilient.lock("kept-sync", ttl=60, replicas=1) as kept:
        tell("kept", kept.fence)
        receive()  # the replica gets nothing from here on
        try:
            with resilient.lock("gone-sync", ttl=3) as gone:
                tell("gone", gone.fence)
                began = time.monotonic()
                while not gone.lost and time.monotonic() - began < PATIENCE:
                    time.sleep(0.02)
            told = False
        except resilient.LeaseLost:
            told = True
        _answered(lambda: kept.extend(60))
        kept.check()
        tell("over", kept.fence)
        receive()
    return {"told": told}


async def _ahold() -> dict[str, Any]:
    async with resilient.lock("kept-async", ttl=60, replicas=1) as kept:
        tell("kept", kept.fence)
        await asyncio.to_thread(receive)
        try:
            async with resilient.lock("gone-async", ttl=3) as gone:
                tell("gone", gone.fence)
                await asyncio.sleep(PATIENCE)  # cancelled when the loss is known
            told = False
        except resilient.LeaseLost:
            told = True
        while True:
            try:
                await kept.extend(60)
                break
            except resilient.BackendError:
                await asyncio.sleep(0.1)
        kept.check()
        tell("over", kept.fence)
        await asyncio.to_thread(receive)
    await resilient.aclose()
    return {"told": told}


def _answered(ask: Any) -> None:
    while True:
        try:
            ask()
            return
        except resilient.BackendError:
            time.sleep(0.1)
