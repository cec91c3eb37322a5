"""Several commands that make one answer of MongoDB: indexes first, transactions, guarded writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from resilient.backends.mongodb import MongoBackend, from_url
from resilient.backends.mongodb.commands import Transaction
from resilient.backends.mongodb.exchanges import FIRST_PAUSE, LONGEST_PAUSE
from resilient.engine.drivers.sync import drive
from resilient.engine.guard import NotHeld
from resilient.engine.plan import Ask
from resilient.protocols.checkpoints import Started
from resilient.protocols.locks import Grant
from resilient.testing.conformance import Run
from tests.support.mongodb import MongoAt

pytestmark = pytest.mark.usefixtures("pymongos_sockets")


@pytest.fixture
def url(mongo_server: MongoAt) -> str:
    """Of the shared server."""
    return mongo_server.url


@pytest.fixture
def backend(served: MongoBackend) -> MongoBackend:
    """A backend on the shared server."""
    return served


class _Database:
    """It notes what it is asked."""

    def __init__(self, asked: list[dict[str, Any]]) -> None:
        self._asked = asked

    def command(self, document: dict[str, Any], session: Any) -> None:
        self._asked.append(document if session is None else {**document, "session": True})


class _Nothing:
    """A command that asks for nothing."""

    capability, repeatable = "locks", True

    def document(self) -> dict[str, Any]:
        return {"aggregate": 1}

    def answer(self, reply: dict[str, Any]) -> Any:
        return reply


def locks(backend: MongoBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


def test_a_user_who_may_not_create_indexes(
    mongo: MongoAt, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing depends on the index: it is said once, and all goes on."""
    backend = from_url(mongo.url)
    asked: list[dict[str, Any]] = []
    database: Any = _Database(asked)
    exchange = backend._transport.exchanges.about(_Nothing(), is_connected=True, session=None)
    create, _ = next(exchange)
    assert create is not None
    create(database)
    go_on, _ = exchange.throw(OperationFailure("not authorized", 13))
    assert go_on is not None
    go_on(database)
    exchange.close()
    assert [next(iter(document)) for document in asked] == ["createIndexes", "aggregate"]
    assert "may not create the index" in caplog.text


def test_all_locks_or_none(run: Run, backend: MongoBackend) -> None:
    """Several locks are one transaction: where one is held, nothing has happened to the others."""
    store = locks(backend)
    grants = run(store.acquire_all(["a", "b", "c"], ttl=30, owner="ann"))
    assert [type(grant) for grant in grants] == [Grant] * 3
    assert [run(store.is_held(key, owner="ann")) for key in "abc"] == [True] * 3
    run(store.release("a", owner="ann"))

    busy = run(store.acquire_all(["a", "b"], ttl=30, owner="bob"))

    assert busy.owner == "ann"
    assert run(store.holder("a")) is None


def test_crossing_locks(mongo_server: MongoAt, prefix: str) -> None:
    """Many want the same locks in opposite orders at once: one has all of them, and none waits."""
    backend = from_url(f"{mongo_server.url}?timeout=30", prefix=prefix)
    start = threading.Barrier(8)

    def one(number: int) -> Any:
        keys = ["a", "b", "c"] if number % 2 else ["c", "b", "a"]
        start.wait()
        return drive(locks(backend).acquire_all(keys, ttl=60, owner=str(number)))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(8)))
    backend.close()

    assert sum(isinstance(answer, list) for answer in answers) == 1


def test_writes_under_a_lock(run: Run, backend: MongoBackend) -> None:
    """A write under a lock is made while it is held, and refused by the server afterwards."""
    store, cache = locks(backend), backend.require("cache")
    calls, jobs = backend.require("idempotency"), backend.require("checkpoints")
    run(calls.claim("k", owner="ann", lease=60, ttl=600))
    run(cache.fetch("k", owner="ann", lease=60))
    started = run(jobs.start("job", owner="ann", lease=60, ttl=600))
    assert isinstance(started, Started)
    run(store.acquire("k", ttl=60, owner="ann"))
    guard = store.guard("k", owner="ann")
    outer = store.guard("outer", owner="ann")
    run(store.acquire("outer", ttl=60, owner="ann"))

    async def under(plan: Any, *guards: Any) -> Any:
        operation = plan.send(None)
        try:
            command = operation.command
            for each in guards:
                command = each.wrap(command)
            return await Ask(operation.transport, command)
        finally:
            plan.close()

    writes: list[Callable[[], Any]] = [
        lambda: cache.fill("k", b"v", owner="ann", ttl=60),
        lambda: calls.complete("k", owner="ann", result=b"r", ttl=600),
        lambda: jobs.save("job", b"state", fence=started.fence, ttl=600),
    ]
    for write in writes:
        run(under(write(), guard, outer))
    assert run(cache.get("k")).value == b"v"
    assert run(calls.get("k")).result == b"r"
    run(store.release("k", owner="ann"))
    for write in writes:
        with pytest.raises(NotHeld, match="ann"):
            run(under(write(), guard, outer))
    latest = run(jobs.latest("job"))
    assert latest.sequence == 1


def test_a_server_without_transactions(mongo: MongoAt) -> None:
    """Locks are taken in turn there; a write looks at its lock first, which is a command more."""
    transport = from_url(mongo.url)._transport

    def asked_for(divisible: bool) -> tuple[list[str], Any]:
        steps = [_Nothing(), _Nothing()]
        transaction = Transaction(steps, read=lambda answers: answers, divisible=divisible)
        asked: list[dict[str, Any]] = []
        exchange = transport.exchanges.about(transaction, is_connected=True, session=_Session())
        ask, _ = next(exchange)
        try:
            while True:
                before = len(asked)
                assert ask is not None
                ask(_Database(asked))
                if len(asked) > before and asked[-1] == {"aggregate": 1, "session": True}:
                    ask, _ = exchange.throw(OperationFailure("no transaction numbers here", 20))
                else:
                    ask, _ = exchange.send({"n": before})
        except StopIteration as done:
            return [next(iter(document)) for document in asked], done.value

    assert asked_for(divisible=False) == (["createIndexes", "aggregate"], None)
    names, answers = asked_for(divisible=True)
    assert names == ["aggregate", "aggregate", "aggregate"]
    assert answers == [{"n": 1}, {"n": 2}]


def test_a_lasting_conflict(mongo: MongoAt) -> None:
    """Who stands still in a transaction is waited for, ever more patiently, while there is time."""
    conflict = OperationFailure("write conflict", 112)

    def attempts(seconds: float, most: int) -> tuple[list[float], Any]:
        exchanges = from_url(f"{mongo.url}?timeout={seconds}")._transport.exchanges
        exchanges._indexed.add("locks")
        transaction = Transaction([_Nothing()], read=lambda answers: answers)
        exchange = exchanges.about(transaction, is_connected=True, session=_Session())
        asked: list[dict[str, Any]] = []
        pauses: list[float] = []
        ask, took = next(exchange)
        try:
            while True:
                before = len(asked)
                if ask is None:
                    pauses.append(took)
                else:
                    ask(_Database(asked))
                if len(asked) > before and len(pauses) < most:
                    ask, took = exchange.throw(conflict)
                else:
                    ask, took = exchange.send({"n": len(pauses)})
        except StopIteration as done:
            return pauses, done.value
        except OperationFailure as error:
            return pauses, error

    pauses, answer = attempts(3600, 40)
    assert answer == [{"n": 40}]
    assert 0 < pauses[0] <= FIRST_PAUSE
    assert max(pauses[:3]) < min(pauses[20:])
    assert max(pauses) <= LONGEST_PAUSE
    assert attempts(0.001, 40) == ([], conflict)


class _Session:
    """One that is in no transaction, because there are none."""

    in_transaction = False

    def start_transaction(self, *concerns: object) -> None:
        pass

    def commit_transaction(self) -> None:
        pass
