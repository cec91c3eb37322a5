"""Who asks a cluster which server has which slot, while others wait for that or do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import redis

from resilient.backends.redis import RedisBackend, from_url, topology
from resilient.backends.redis.topology import Topology
from resilient.engine.budget import within
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.errors import BackendError
from resilient.testing.conformance import Run
from tests.support.servers import free_port

CALLERS = 6
PATIENCE = 30.0
"""Seconds after which a test has failed: what it waits for does not come."""


class Silence:
    """A cluster whose servers say nothing until it is over, and nothing good then."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.asked = 0
        self.tell: Callable[[], object] = bool
        """What to do when it is asked."""

    def connected(self) -> Any:
        """In place of a client of the cluster."""
        self.asked += 1
        self.tell()
        assert self.is_over.wait(PATIENCE), "nobody was ready"
        raise redis.ConnectionError("it has hung up")


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silence]:
    """What every cluster meets with."""
    silence = Silence()
    monkeypatch.setattr(Topology, "_connected", lambda _: silence.connected())
    yield silence
    silence.is_over.set()


@pytest.fixture
def backend(run: Run, silence: Silence) -> Iterator[RedisBackend]:
    """A backend on such a cluster."""
    backend = from_url(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    with run.closing(backend):
        yield backend
        silence.is_over.set()


def reading(backend: RedisBackend) -> Any:
    """The plan of an operation."""
    return backend.require("cache").get("k")


def test_one_asks_for_all(
    run: Run, backend: RedisBackend, silence: Silence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits behind others, and what one was told is told to all, for a moment."""
    monkeypatch.setattr(topology, "REST", 2 * PATIENCE)
    asked, waiting = Topology.asked, iter(range(CALLERS))

    def counted(self: Topology, known: int = -1) -> Any:
        answer = asked(self, known)
        if next(waiting, None) == CALLERS - 1:
            silence.is_over.set()
        return answer

    monkeypatch.setattr(Topology, "asked", counted)

    async def outcome() -> Any:
        try:
            return await reading(backend)
        except BackendError as error:
            return error

    async def together() -> list[Any]:
        return await asyncio.gather(*(adrive(outcome()) for _ in range(CALLERS)))

    if run.mode == "async":
        outcomes = asyncio.run(together())
    else:
        with ThreadPoolExecutor(CALLERS) as pool:
            outcomes = list(pool.map(lambda _: drive(outcome()), range(CALLERS)))
    assert [type(each) for each in outcomes] == [BackendError] * CALLERS
    with pytest.raises(BackendError, match="it has hung up"):
        run(reading(backend))
    assert silence.asked == 1


def test_nobody_waits_for_longer_than_he_has(
    run: Run, backend: RedisBackend, silence: Silence
) -> None:
    """A caller's budget bounds its wait for whoever asks."""
    with pytest.raises(BackendError, match="in time"):
        run(within(0.2, reading(backend)))
    assert not silence.is_over.is_set()


def test_a_redirection_waits_for_nobody(silence: Silence) -> None:
    """Where a slot has gone is noted while the cluster is asked: an event loop may do that."""
    backend: Any = from_url(f"redis+cluster://127.0.0.1:{free_port()}")
    known = backend._transport._topology
    asking = known.asked()
    known.moved(7, ("127.0.0.1", 7000))
    assert not asking.done()
    assert known.map.slots == {7: ("127.0.0.1", 7000)}
    silence.is_over.set()
    assert isinstance(asking.exception(PATIENCE), redis.ConnectionError)
    backend.close()


def test_the_loops_own_threads_are_its_users(silence: Silence) -> None:
    """Whoever has one thread for its own work has it, however many ask the cluster."""

    async def main() -> None:
        backend = from_url(f"redis+cluster://127.0.0.1:{free_port()}")
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        silence.tell = partial(loop.call_soon_threadsafe, asked.set)
        readers = [asyncio.create_task(adrive(reading(backend))) for _ in range(CALLERS)]
        await asked.wait()
        await asyncio.wait_for(asyncio.to_thread(int), PATIENCE / 2)
        silence.is_over.set()
        await asyncio.wait(readers)
        assert all(isinstance(each.exception(), BackendError) for each in readers)
        await backend.aclose()

    asyncio.run(main())
