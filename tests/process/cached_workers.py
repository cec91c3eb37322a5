"""What the processes of the cache's tests do. Each is told how to call by `mode`."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import resilient
from resilient import LocalCache, cached
from tests.support import forks
from tests.support.processes import receive, tell

NAMESPACE = "test"
PATIENT = "10s"
"""For tests that count executions: a busy machine is no backend that is away."""


def told(path: str, word: str) -> None:
    """Append a line to a file that all processes share."""
    with open(path, "a") as file:
        file.write(f"{word} {os.getpid()} {time.monotonic()}\n")


def cold(url: str, prefix: str, mode: str, ran: str, callers: int, seconds: float) -> list[Any]:
    """Call one cold key many times at once: of each call its answer and when it came."""
    resilient.configure(url, prefix=prefix)

    def end() -> dict[str, Any]:
        told(ran, "ended")
        return {"user": 7, "tags": ("a", "b")}

    @cached("{user}", ttl=60, namespace=NAMESPACE, backend_timeout=PATIENT)
    def profile(user: int) -> dict[str, Any]:
        time.sleep(seconds)
        return end()

    @cached("{user}", ttl=60, namespace=NAMESPACE, backend_timeout=PATIENT)
    async def aprofile(user: int) -> dict[str, Any]:
        await asyncio.sleep(seconds)
        return end()

    def call(_: int) -> Any:
        return profile(7), time.monotonic()

    async def acall() -> Any:
        return await aprofile(7), time.monotonic()

    # The connections are made before, so that what is measured is not that.
    warm = cached(ttl=60, namespace="warm", backend_timeout=PATIENT)

    async def acalls() -> list[Any]:
        async def pid(number: int) -> int:
            return number

        tell("connected", await warm(pid)(os.getpid()))
        await asyncio.to_thread(receive)
        return await asyncio.gather(*[acall() for _ in range(callers)])

    if mode == "async":
        return asyncio.run(acalls())
    tell("connected", warm(lambda number: number)(os.getpid()))
    receive()
    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(call, range(callers)))


def some_cancelled(url: str, prefix: str, ran: str) -> list[str]:
    """Have thirty tasks wait for a value, cancel every third, the leader too; how they end.

    It is computed when the test says so.
    """
    resilient.configure(url, prefix=prefix)

    @cached(ttl=60, namespace=NAMESPACE, backend_timeout=PATIENT)
    async def f() -> str:
        told(ran, "began")
        await asyncio.to_thread(receive)
        return "value"

    async def main() -> list[str]:
        tasks = [asyncio.create_task(f()) for _ in range(30)]
        await asyncio.sleep(0.2)
        for task in tasks[::3]:
            task.cancel()
        tell("cancelled")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [task for task in asyncio.all_tasks() if is_ours(task)] == [asyncio.current_task()]
        return [r if isinstance(r, str) else type(r).__name__ for r in results]

    return asyncio.run(main())


def is_ours(task: asyncio.Task[Any]) -> bool:
    """Whether it is no task by which an async client watches its servers."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is None or "pymongo" not in code.co_filename


def computing(url: str, prefix: str, mode: str, answer: str) -> list[Any]:
    """Want the value; while computing it, wait for the test. The answer, and when it came."""
    resilient.configure(url, prefix=prefix)

    def compute() -> str:
        tell("computing", time.monotonic())
        receive()
        return answer

    @cached(ttl=60, namespace=NAMESPACE, backend_timeout=PATIENT, tags=("tag",))
    def f() -> str:
        return compute()

    @cached(ttl=60, namespace=NAMESPACE, backend_timeout=PATIENT, tags=("tag",))
    async def af() -> str:
        return await asyncio.to_thread(compute)

    tell("wanting")
    value = asyncio.run(af()) if mode == "async" else f()
    return [value, time.monotonic()]


def reading(url: str, prefix: str, local_ttl: float) -> int:
    """Read the value all the time, until told to stop.

    Whenever it is another one, tell it, and when the one before was asked for the last time.
    """
    resilient.configure(url, prefix=prefix)

    near = LocalCache(ttl=local_ttl)

    @cached(ttl=60, namespace=NAMESPACE, tags=("tag",), local=near, backend_timeout=PATIENT)
    def f(path: str) -> str:
        return Path(path).read_text()

    path = receive()
    stop = threading.Event()

    def wait() -> None:
        receive()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()
    before, asked = "", time.monotonic()
    while not stop.is_set():
        began = time.monotonic()
        value = f(path)
        if value != before:
            tell("value", [value, asked])
        before, asked = value, began
        time.sleep(0.0005)
    return cached.of(f).stats().local_hits


def invalidating(url: str, prefix: str, path: str, rounds: int) -> list[float]:
    """Change the value and invalidate it, by key, tag and namespace; when that was done."""
    resilient.configure(url, prefix=prefix)

    @cached(ttl=60, namespace=NAMESPACE, tags=("tag",), backend_timeout=PATIENT)
    def f(path: str) -> str:
        return Path(path).read_text()

    ends: list[Callable[[], Any]] = [
        lambda: cached.of(f).invalidate(path),
        lambda: resilient.invalidate_tags("tag"),
        cached.of(f).clear,
    ]
    done = []
    for number in range(1, rounds + 1):
        new = Path(f"{path}.new")
        new.write_text(str(number))
        new.replace(path)
        ends[number % 3]()
        done.append(time.monotonic())
        assert f(path) == str(number)
        time.sleep(0.2)
    return done


def forked(url: str, prefix: str) -> str:
    """Fork in the midst of use: both go on, and invalidate what the other one has at hand."""
    resilient.configure(url, prefix=prefix)
    from_child, to_child = os.pipe(), os.pipe()

    @cached("{x}", ttl=60, namespace=NAMESPACE, local=LocalCache(ttl=60), backend_timeout=PATIENT)
    def f(x: int) -> int:
        return x

    def right(calls: int) -> str:
        return "right" if [f(x) for x in range(calls)] == list(range(calls)) else "wrong"

    def heard(x: int) -> str:
        """Whether the other process's invalidation makes this one compute again."""
        before, deadline = cached.of(f).stats().computed, time.monotonic() + 30
        while cached.of(f).stats().computed == before and time.monotonic() < deadline:
            f(x)
        return "heard" if cached.of(f).stats().computed == before + 1 else "not heard"

    right(20)

    def child() -> None:
        os.write(from_child[1], right(40).encode())
        os.read(to_child[0], 1)
        os.write(from_child[1], f", {heard(1)}".encode())
        cached.of(f).invalidate(2)

    pid = forks.forked(child)
    told = os.read(from_child[0], 99).decode()
    values = right(60)
    os.write(to_child[1], b"1")
    cached.of(f).invalidate(1)
    told += os.read(from_child[0], 99).decode()
    result = f"parent: {values}; child: {told}; parent: {heard(2)}"
    assert forks.exit_code(pid) == 0
    return result
