"""Many callers of MongoDB at once: threads, tasks and loops, and what they cost."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient.backends.mongodb import MongoBackend, from_url, transport
from resilient.backends.mongodb.transport import CREW, MongoTransport
from resilient.engine.budget import NotAsked
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.plan import Together, all_of
from resilient.protocols.locks import Grant
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.interrupts import nobody_gets_the_answer_to_an_interrupted_question
from tests.support.mongodb import MongoAt, through

pytestmark = pytest.mark.usefixtures("pymongos_sockets")


@pytest.fixture
def url(mongo_server: MongoAt) -> str:
    """Of the shared server."""
    return mongo_server.url


@pytest.fixture
def backend(served: MongoBackend) -> MongoBackend:
    """A backend on the shared server."""
    return served


def locks(backend: MongoBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


def test_one_winner_each_time(mongo_server: MongoAt, prefix: str) -> None:
    """32 callers want a lock that nobody has ever had, eight times: one has it each time."""
    backend = from_url(f"{mongo_server.url}?timeout=30", prefix=prefix)
    start = threading.Barrier(32)

    def one(number: int) -> list[bool]:
        won = []
        for turn in range(8):
            start.wait()
            answer = drive(locks(backend).acquire(f"k{turn}", ttl=60, owner=str(number)))
            won.append(isinstance(answer, Grant))
        return won

    with ThreadPoolExecutor(32) as pool:
        turns = list(zip(*pool.map(one, range(32)), strict=True))
    backend.close()

    assert [sum(turn) for turn in turns] == [1] * 8


def test_nobody_is_refused(mongo_server: MongoAt, prefix: str) -> None:
    """Hundreds of tasks at once are all served, over fewer connections."""
    backend = from_url(f"{mongo_server.url}?timeout=30", prefix=prefix)

    async def one(number: int) -> Any:
        return await adrive(locks(backend).acquire(f"k{number}", ttl=30, owner=str(number)))

    async def crowd() -> list[Any]:
        grants = await asyncio.gather(*map(one, range(200)))
        await backend.aclose()
        return grants

    grants = asyncio.run(crowd())
    assert [grant.owner for grant in grants] == list(map(str, range(200)))


def test_what_is_asked_together_is_sent_together(
    mongo_server: MongoAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocking caller's commands, too, are under way side by side; the threads for it end."""
    backend = from_url(mongo_server.url, prefix=prefix)
    before = set(threading.enumerate())
    send, all_under_way = MongoTransport.send, threading.Barrier(CREW + 1)

    def met(self: MongoTransport, command: Any) -> Any:
        all_under_way.wait(30)
        return send(self, command)

    names = [str(number) for number in range(2 * (CREW + 1))]
    with monkeypatch.context() as patched:
        patched.setattr(MongoTransport, "send", met)
        plans = [locks(backend).acquire(f"k{name}", ttl=60, owner=name) for name in names]
        grants = drive(all_of(plans))
    assert [grant.owner for grant in grants] == names
    backend.close()
    since = set(threading.enumerate()) - before
    assert [thread for thread in since if thread.name == "resilient-mongodb"] == []
    assert all(drive(all_of([locks(backend).is_held(f"k{n}", owner=n) for n in names])))
    backend.close()


def test_more_than_there_is_time_for(
    mongo_server: MongoAt, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have to be sent late is not sent, and that is said; something always is."""
    backend = from_url(mongo_server.url, prefix=prefix)

    async def together() -> list[Any]:
        return await Together(
            [locks(backend).acquire(f"k{n}", ttl=60, owner="ann") for n in range(40)]
        )

    budget = [10.0]
    with monkeypatch.context() as patched:
        patched.setattr(transport, "remaining", lambda: budget.pop() if budget else 4.9)
        first, *others = drive(together())
    assert isinstance(first, Grant)
    assert {type(answer) for answer in others} == {NotAsked}
    with monkeypatch.context() as patched:
        patched.setattr(transport, "remaining", lambda: 0.0)
        assert {type(answer) for answer in drive(together())} == {Grant}, "as for a single one"
    backend.close()


def test_every_loop_has_its_own(mongo_server: MongoAt, prefix: str) -> None:
    """One backend serves loop after loop; each loop's shutdown closes what it had."""
    backend = from_url(mongo_server.url, prefix=prefix)

    async def once() -> Any:
        return await adrive(locks(backend).acquire("k", ttl=30, owner="ann"))

    grants = [asyncio.run(once()) for _ in range(3)]
    backend.close()

    assert len({grant.fence for grant in grants}) == 1


def test_a_closed_backend_serves_again(run: Run, mongo_server: MongoAt, prefix: str) -> None:
    """Closing gives back connections, and nothing else."""
    backend = from_url(mongo_server.url, prefix=prefix)
    for _ in range(2):
        with run.closing(backend):
            assert isinstance(run(locks(backend).acquire("k", ttl=30, owner="ann")), Grant)


def test_an_interrupted_thread(proxy: FaultProxy, prefix: str) -> None:
    """After Ctrl-C between question and answer, nobody gets that answer."""
    backend = from_url(through(proxy), prefix=prefix)
    nobody_gets_the_answer_to_an_interrupted_question(backend, proxy)
