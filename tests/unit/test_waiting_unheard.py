"""Waiting where commands are answered, and nothing can be heard: who waits looks by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import resilient
from resilient import cached, distributed_lock, idempotent, lock
from resilient.backends.redis.subscription import RedisSubscription
from resilient.backends.redis.transport import RedisTransport
from resilient.errors import BackendError
from resilient.resolving import resolve
from tests.support.modes import Mode
from tests.support.servers import RedisAt


@pytest.fixture(autouse=True)
def _unheard(redis_server: RedisAt, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that refuses every connection on which somebody would listen."""

    def refused(*_: Any) -> None:
        raise BackendError("refused", transient=True)

    async def refused_too(*_: Any) -> None:
        refused()

    monkeypatch.setattr(RedisSubscription, "open", refused)
    monkeypatch.setattr(RedisTransport, "hear", refused_too)
    with resilient.using(redis_server.url, prefix=prefix):
        yield


def released_by_another(name: str, begun: threading.Event) -> threading.Thread:
    """A thread that holds the lock, and releases it when somebody has begun to wait."""

    def hold() -> None:
        with lock(name, ttl=30):
            held.set()
            begun.wait()

    held = threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    return thread


def test_a_lock_is_waited_for(mode: Mode) -> None:
    """It is had soon after its release, far sooner than its TTL ends."""
    begun = threading.Event()
    thread = released_by_another("k", begun)
    threading.Timer(0.2, begun.set).start()

    async def section() -> str:
        return "done"

    assert mode.call(mode.decorate(distributed_lock("k", ttl=30, wait=20), section)) == "done"
    thread.join()
    close(mode)


def test_a_batch_waits_for_anothers_values(mode: Mode, redis_server: RedisAt, prefix: str) -> None:
    """What another process computes is not computed here."""
    begun, release = threading.Event(), threading.Event()
    options: dict[str, Any] = {"key_arg": "ids", "ttl": 60, "namespace": "n", "local": None}
    elsewhere = resolve(redis_server.url, prefix)

    @cached.batch("{ids}", backend=elsewhere, **options)
    def first(ids: list[int]) -> dict[int, str]:
        begun.set()
        release.wait()
        return dict.fromkeys(ids, "first")

    async def second(ids: list[int]) -> dict[int, str]:
        return dict.fromkeys(ids, "second")

    thread = threading.Thread(target=first, args=([1, 2],))
    thread.start()
    begun.wait()
    threading.Timer(0.2, release.set).start()
    batch = mode.decorate(cached.batch("{ids}", backend_timeout="10s", **options), second)
    assert mode.call(batch, [1, 2]) == {1: "first", 2: "first"}
    thread.join()
    elsewhere.close()
    close(mode)


def test_a_duplicate_waits_for_the_answer(mode: Mode) -> None:
    """It gets the first call's answer."""
    begun, release = threading.Event(), threading.Event()

    @idempotent("k", ttl=60, wait=20)
    def first() -> str:
        begun.set()
        release.wait()
        return "first"

    async def second() -> str:
        return "second"

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    threading.Timer(0.2, release.set).start()
    duplicate = mode.decorate(idempotent("k", ttl=60, wait=20), second)
    assert mode.call(duplicate) == "first"
    thread.join()
    close(mode)


def close(mode: Mode) -> None:
    """Give back what the loop has."""
    if mode.is_async:
        mode.call(resilient.aclose)
