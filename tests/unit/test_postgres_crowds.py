"""Many callers of PostgreSQL at once: threads, tasks and loops, and a server that is full."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from resilient.backends.postgres import PostgresBackend, blocking, from_url
from resilient.backends.postgres.settings import Settings
from resilient.engine.budget import remaining, within
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.errors import BackendError
from resilient.testing.faults import FaultProxy
from tests.support.interrupts import (
    at_each_moment,
    nobody_gets_the_answer_to_an_interrupted_question,
)
from tests.support.postgres import PostgresAt


@pytest.fixture(name="postgres_server")
def _on_every_version(every_postgres: PostgresAt) -> PostgresAt:
    """All of these tests run on every version that is installed."""
    return every_postgres


@pytest.fixture
def url(postgres_server: PostgresAt) -> str:
    """Of the shared server."""
    return postgres_server.url


@pytest.fixture
def backend(served: PostgresBackend) -> PostgresBackend:
    """A backend on the shared server."""
    return served


def locks(backend: PostgresBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


def test_a_server_that_is_full(
    postgres_server: PostgresAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom the server refuses waits for the connection there is; it is not asked all the time."""
    role = f"few_{prefix.strip(':').replace('-', '_')}"
    with postgres_server.connect(autocommit=True) as admin:
        admin.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT 1 IN ROLE postgres"
        )
    attempts = []
    line = Settings.line

    def counted(settings: Settings, patience: float) -> Any:
        attempts.append(patience)
        return line(settings, patience)

    monkeypatch.setattr(Settings, "line", counted)
    parts = urlsplit(postgres_server.url)
    place = f"{role}:few@{parts.hostname}:{parts.port}"
    backend = from_url(urlunsplit(parts._replace(netloc=place)), prefix=prefix)

    async def one(number: int) -> Any:
        return await adrive(locks(backend).acquire(f"k{number}", ttl=30, owner=str(number)))

    async def crowd() -> list[Any]:
        first = [await one(0)]
        grants = first + await asyncio.gather(*map(one, range(1, 200)))
        await backend.aclose()
        return grants

    grants = asyncio.run(crowd())
    assert [grant.owner for grant in grants] == list(map(str, range(200)))
    assert len(attempts) < 30


def test_nobody_is_refused(postgres_server: PostgresAt, prefix: str) -> None:
    """A hundred threads at once are all served, over fewer connections."""
    backend = from_url(postgres_server.url, prefix=prefix)
    start = threading.Barrier(100)

    def one(number: int) -> Any:
        start.wait()
        return drive(locks(backend).acquire(f"k{number}", ttl=30, owner=str(number)))

    with ThreadPoolExecutor(100) as pool:
        grants = list(pool.map(one, range(100)))
    backend.close()

    assert [grant.owner for grant in grants] == list(map(str, range(100)))


def test_a_connection_that_comes_too_late(
    postgres_server: PostgresAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no time left when it is open leaves it to others: none is lost for good."""
    backend = from_url(postgres_server.url, prefix=prefix)
    connect = Settings.line

    def in_the_last_moment(settings: Settings, patience: float) -> Any:
        line = connect(settings, patience)
        while remaining():
            time.sleep(0.01)
        return line

    with monkeypatch.context() as patch, pytest.raises(BackendError, match="in time"):
        patch.setattr(Settings, "line", in_the_last_moment)
        drive(within(1.0, locks(backend).holder("k")))

    pool = backend._transport._blocking
    assert set(pool._taken) == set(pool._idle)
    assert drive(locks(backend).holder("k")) is None
    backend.close()


def test_the_loops_own_threads_are_its_users(
    postgres_server: PostgresAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has one thread for its own work has it, however long connecting takes."""
    connect, go_on = Settings.line, threading.Event()

    async def main() -> None:
        backend = from_url(postgres_server.url, prefix=prefix)
        loop, connecting = asyncio.get_running_loop(), asyncio.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))

        def slow(settings: Settings, patience: float) -> Any:
            loop.call_soon_threadsafe(connecting.set)
            assert go_on.wait(30)
            return connect(settings, patience)

        monkeypatch.setattr(Settings, "line", slow)
        asked = asyncio.create_task(adrive(locks(backend).holder("k")))
        await connecting.wait()
        await asyncio.wait_for(asyncio.to_thread(int), 15)
        go_on.set()
        await asyncio.wait([asked])
        await backend.aclose()

    asyncio.run(main())


def test_an_interrupted_thread(proxy: FaultProxy, prefix: str) -> None:
    """After Ctrl-C between question and answer, nobody gets that answer."""
    backend = from_url(proxy.url, prefix=prefix)
    nobody_gets_the_answer_to_an_interrupted_question(backend, proxy)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_warm", [True, False])
def test_whoever_is_interrupted_keeps_no_connection(
    postgres_server: PostgresAt, prefix: str, monkeypatch: pytest.MonkeyPatch, is_warm: bool
) -> None:
    """Nor the right to open one, wherever it is as it takes or gives it back: another has it."""
    monkeypatch.setattr(blocking, "MOST", 1)
    backend = from_url(postgres_server.url, prefix=prefix)

    def hold() -> Any:
        if not is_warm:
            backend._transport._blocking.close()
        return drive(locks(backend).holder("k"))

    moments = 0
    with ThreadPoolExecutor(1) as others:
        for moments in at_each_moment(hold):
            assert others.submit(drive, locks(backend).holder("k")).result(20) is None, moments
    backend.close()
    assert moments > 20
