"""No outcome outlives `forget`, whatever is under way: neither at hand nor on its way to others."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient import idempotent
from resilient.protocols.idempotency import Completed
from tests.support.fixtures import Target
from tests.support.modes import Mode


class Around:
    """A store in front of another one, with something to do before or after one operation."""

    def __init__(self, backend: resilient.Backend) -> None:
        self.store: Any = backend.idempotency
        self.before: dict[str, Callable[[], Any]] = {}
        self.after: dict[str, Callable[[], Any]] = {}
        self.results: list[Any] = []
        self.put_in_front(backend)

    def put_in_front(self, backend: Any) -> None:
        """Stand in for the backend's store."""
        backend.idempotency = self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            await self.do(self.before.pop(name, None))
            answer = await method(*args, **kwargs)
            await self.do(self.after.pop(name, None))
            return answer

        return ask

    async def do(self, something: Callable[[], Any] | None) -> None:
        """Do it, and take down its result."""
        if something is not None:
            result = something()
            self.results.append(await result if inspect.isawaitable(result) else result)


def twins(mode: Mode) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Two functions that make the same call, each with outcomes of its own at hand."""
    ran: list[int] = []

    async def body() -> int:
        ran.append(1)
        return len(ran)

    one, other = (mode.decorate(idempotent("k", ttl=60, local=10), body) for _ in range(2))
    return one, other


@pytest.mark.parametrize("operation", ["claim", "complete"])
def test_forgotten_with_the_reply(mode: Mode, target: Target, operation: str) -> None:
    """An outcome that was forgotten while its reply was under way is answered, and not kept."""
    call, twin = twins(mode)
    with resilient.using(target.url, prefix=target.prefix) as backend:
        if operation == "claim":
            mode.call(twin)
        store = Around(backend)
        store.after[operation] = idempotent.of(call).forget
        assert mode.call(call) == 1
        assert store.results == [True]
        assert [mode.call(call), mode.call(call)] == [2, 2]


def test_replayed_while_it_is_forgotten(mode: Mode, target: Target) -> None:
    """What is replayed just before the call is forgotten is not replayed after it."""
    call, _ = twins(mode)
    with resilient.using(target.url, prefix=target.prefix) as backend:
        assert mode.call(call) == 1
        store = Around(backend)
        store.before["delete"] = call
        assert mode.call(idempotent.of(call).forget) is True
        assert store.results == [1]
        assert [mode.call(call), mode.call(call)] == [2, 2]


class Forgetting(Around):
    """Has a call forgotten just after somebody was answered with its outcome."""

    def __init__(self, backend: resilient.Backend, mode: Mode) -> None:
        super().__init__(backend)
        self.mode = mode
        self.is_forgotten = threading.Event()

    async def claim(self, key: str, **options: Any) -> Any:
        """Claim the call; its outcome takes a while to arrive."""
        answer = await self.store.claim(key, **options)
        if isinstance(answer, Completed) and not self.is_forgotten.is_set():
            assert await self.store.delete(key)
            self.is_forgotten.set()
            await self.mode.sleep(0.2)
        return answer


def test_who_calls_after_it_was_forgotten_is_not_told_what_it_was(
    mode: Mode, target: Target
) -> None:
    """One who waits for the outcome has just been answered, and does not know it yet.

    Who calls from then on finds it waiting, and does not share that answer.
    """
    ran: list[int] = []

    async def body() -> int:
        ran.append(1)
        number = len(ran)
        await mode.sleep(0.1)
        return number

    call = mode.decorate(idempotent("k", ttl=60, wait=20), body)
    with resilient.using(target.url, prefix=target.prefix) as backend:
        store = Forgetting(backend, mode)

        async def late() -> Any:
            while not store.is_forgotten.is_set():
                await mode.sleep(0.001)
            return await mode.within(call)

        assert mode.together(call, call, mode.function(late)) == [1, 1, 2]
        if mode.is_async:
            mode.call(resilient.aclose)
