"""What the processes of the idempotency tests do."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import resilient
from tests.support.processes import receive, tell


def duplicates(url: str, prefix: str, mode: str, ran: str, callers: int) -> list[Any]:
    """Make the same call many times at once; every answer."""
    resilient.configure(url, prefix=prefix)

    def effect() -> dict[str, Any]:
        with open(ran, "a") as file:
            file.write("ran\n")
        return {"order": "A-7", "lines": [1, 2, 3]}

    @resilient.idempotent("charge:{order_id}", ttl=60, lease=5, wait=60)
    def charge(order_id: str) -> dict[str, Any]:
        time.sleep(0.3)
        return effect()

    @resilient.idempotent("charge:{order_id}", ttl=60, lease=5, wait=60)
    async def acharge(order_id: str) -> dict[str, Any]:
        await asyncio.sleep(0.3)
        return effect()

    if mode == "sync":
        with ThreadPoolExecutor(callers) as pool:
            return list(pool.map(charge, ["A-7"] * callers))

    async def together() -> list[Any]:
        return list(await asyncio.gather(*(acharge("A-7") for _ in range(callers))))

    return asyncio.run(together())


def owner(url: str, prefix: str, mode: str, lease: float, name: str) -> str:
    """Make the call, and be at it until told to go on."""
    resilient.configure(url, prefix=prefix)
    tell("asking")
    try:
        return _call(mode, lease, name)
    except resilient.LeaseLost:
        return "refused"


def _call(mode: str, lease: float, name: str) -> str:
    def body() -> str:
        call = resilient.current_idempotency()
        assert call is not None
        tell("running", [time.monotonic(), call.attempt, call.fence])
        receive(60)
        return name

    if mode == "sync":
        return resilient.idempotent("k", ttl=60, lease=lease, wait=30)(body)()

    @resilient.idempotent("k", ttl=60, lease=lease, wait=30)
    async def call() -> str:
        # Shielded: a stopped process that is resumed goes on to its late finish.
        return await asyncio.to_thread(body)

    return asyncio.run(call())


def touch(path: str) -> None:
    """Make a file."""
    Path(path).touch()
