"""How commands reach MongoDB: counts, broken connections, late replies, loops and threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from resilient.backends.mongodb import MongoBackend, from_url, transport
from resilient.backends.mongodb.commands import Transaction
from resilient.backends.mongodb.exchanges import FIRST_PAUSE, LONGEST_PAUSE
from resilient.backends.mongodb.transport import CREW, MongoTransport
from resilient.engine.budget import NotAsked
from resilient.engine.drivers.aio import adrive
from resilient.engine.drivers.sync import drive
from resilient.engine.guard import NotHeld
from resilient.engine.plan import Ask, Together, all_of
from resilient.errors import BackendError, ConfigurationError
from resilient.protocols.checkpoints import Started
from resilient.protocols.locks import Grant
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.interrupts import interrupted
from tests.support.mongodb import MongoAt, MongoServer, mongo_server

pytestmark = pytest.mark.usefixtures("pymongos_sockets")


@pytest.fixture
def backend(run: Run, mongo_server: MongoAt, prefix: str) -> Iterator[MongoBackend]:
    """A backend on a shared server."""
    backend = from_url(mongo_server.url, prefix=prefix)
    with run.closing(backend):
        yield backend


@pytest.fixture
def proxy(mongo_server: MongoAt) -> Iterator[FaultProxy]:
    """A network in front of the shared server."""
    with FaultProxy(mongo_server.url) as proxy:
        yield proxy


def through(proxy: FaultProxy, options: str = "") -> str:
    """The URL of the network; else the client would find the server itself behind it."""
    return f"{proxy.url}?directConnection=true{options}"


@pytest.fixture
def behind(run: Run, proxy: FaultProxy, prefix: str) -> Iterator[MongoBackend]:
    """A backend behind that network, that waits for three seconds."""
    backend = from_url(through(proxy, "&timeout=3&serverSelectionTimeoutMS=3000"), prefix=prefix)
    with run.closing(backend):
        yield backend


@pytest.fixture(scope="module")
def private() -> Iterator[MongoServer]:
    """A server of this module's own, to be killed and restarted."""
    with mongo_server() as server:
        yield server


def locks(backend: MongoBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


def is_change(request: bytes) -> bool:
    """Whether a document is changed."""
    return b"findAndModify" in request


# --- commands


def test_one_command_each(run: Run, backend: MongoBackend) -> None:
    """Every operation on locks and calls is one command."""
    store, calls = locks(backend), backend.require("idempotency")
    operations: dict[str, Callable[[], Any]] = {
        "acquire": lambda: store.acquire("k", ttl=30, owner="ann"),
        "busy": lambda: store.acquire("k", ttl=30, owner="bob", waiter="rsl_x|y"),
        "renew": lambda: store.renew("k", owner="ann", ttl=30),
        "transfer": lambda: store.transfer("k", owner="ann", to="carl", ttl=30),
        "withdraw": lambda: store.withdraw("k", owner="bob", waiter="rsl_x|y"),
        "holder": lambda: store.holder("k"),
        "is held": lambda: store.is_held("k", owner="carl"),
        "release": lambda: store.release("k", owner="carl"),
        "force": lambda: store.force_release("k"),
        "claim": lambda: calls.claim("k", owner="ann", lease=30, ttl=600),
        "renew call": lambda: calls.renew("k", owner="ann", lease=30),
        "complete": lambda: calls.complete("k", owner="ann", result=b"r", ttl=600),
        "replay": lambda: calls.claim("k", owner="bob", lease=30, ttl=600),
        "get": lambda: calls.get("k"),
        "delete": lambda: calls.delete("k"),
    }
    run(store.holder("k"))
    run(calls.get("k"))

    sent = {}
    for name, make in operations.items():
        before = backend.commands
        run(make())
        sent[name] = backend.commands - before

    assert sent == dict.fromkeys(operations, 1)


def test_texts_are_texts(run: Run, backend: MongoBackend) -> None:
    """What looks like an expression is none: keys, owners and notes are taken as they are."""
    odd = "$$NOW.$owner"
    grant = run(locks(backend).acquire(odd, ttl=30, owner=odd, note="$$p.ttl"))
    assert grant.owner == odd
    held = run(locks(backend).holder(odd))
    assert (held.owner, held.note) == (odd, "$$p.ttl")
    assert run(locks(backend).release(odd, owner=odd)) is True


def test_what_does_not_fit(run: Run, backend: MongoBackend) -> None:
    """What is no text, or too large for a document, is the caller's mistake and not a failure."""
    with pytest.raises(ConfigurationError):
        run(locks(backend).acquire("\ud800", ttl=30))
    calls = backend.require("idempotency")
    run(calls.claim("k", owner="ann", lease=30, ttl=60))
    with pytest.raises(ConfigurationError):
        run(calls.complete("k", owner="ann", result=bytes(17_000_000), ttl=60))
    assert run(calls.complete("k", owner="ann", result=bytes(3_000_000), ttl=60)) is True


def test_clean_up_decides_nothing(run: Run, mongo: MongoAt) -> None:
    """What has expired is gone to everybody while its document is there, and its fence is known."""
    backend = from_url(mongo.url)
    with run.closing(backend), mongo.client() as client:
        store, calls = locks(backend), backend.require("idempotency")
        first = run(store.acquire("k", ttl=0.05, owner="ann"))
        claim = run(calls.claim("k", owner="ann", lease=0.05, ttl=0.05))
        time.sleep(0.06)
        database = client.get_default_database()
        for name in ("locks", "idempotency"):
            assert database[f"resilient.{name}"].count_documents({}) == 1

        assert run(store.holder("k")) is None
        assert run(store.renew("k", ttl=30, owner="ann")) is False
        assert run(calls.get("k")) is None
        assert run(calls.complete("k", owner="ann", result=b"r", ttl=30)) is False
        again = run(calls.claim("k", owner="bob", lease=30, ttl=30))
        assert (again.attempt, again.takeover) == (1, False)
        assert again.fence > claim.fence
        assert run(store.acquire("k", ttl=30, owner="bob")).fence > first.fence

        # Nor does it take away what lives: the index goes by a date far behind the lease.
        for name in ("locks", "idempotency"):
            document = database[f"resilient.{name}"].find_one({})
            assert document is not None
            left = document["gone"].timestamp() - document["at"] / 1e6
            assert left > 30 + 500


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


# --- transactions


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


# --- the network


def test_a_lost_reply_is_asked_again(run: Run, proxy: FaultProxy, behind: MongoBackend) -> None:
    """The server did it and the answer was lost: nobody notices, because asking twice is safe."""
    store, calls = locks(behind), behind.require("idempotency")
    first = run(store.acquire("k", ttl=30, owner="ann"))
    run(store.release("k", owner="ann"))
    run(calls.get("k"))

    proxy.drop_reply_when(is_change)
    grant = run(store.acquire("k", ttl=30, owner="ann"))
    proxy.drop_reply_when(is_change)
    assert run(store.release("k", owner="ann")) is True
    proxy.drop_reply_when(is_change)
    claim = run(calls.claim("k", owner="ann", lease=30, ttl=60))
    proxy.drop_reply_when(is_change)
    assert run(calls.complete("k", owner="ann", result=b"r", ttl=60)) is True

    assert grant.fence > first.fence
    assert (claim.attempt, claim.takeover) == (1, False)
    assert run(store.holder("k")) is None
    assert proxy.counts.dropped == 4


def test_what_must_not_be_sent_twice(run: Run, proxy: FaultProxy, behind: MongoBackend) -> None:
    """Whether something was deleted is not known when the answer is lost: the caller is told."""
    calls = behind.require("idempotency")
    run(calls.claim("k", owner="ann", lease=30, ttl=60))

    proxy.drop_reply_when(is_change)
    with pytest.raises(BackendError) as caught:
        run(calls.delete("k"))

    assert caught.value.transient
    assert run(calls.get("k")) is None


def test_a_silent_network(run: Run, proxy: FaultProxy, behind: MongoBackend) -> None:
    """No answer is an error after the time for one operation, and all is well afterwards."""
    store = locks(behind)
    run(store.acquire("k", ttl=60, owner="ann"))

    proxy.blackhole()
    started = time.monotonic()
    with pytest.raises(BackendError, match="did not answer in time") as caught:
        run(store.renew("k", owner="ann", ttl=60))
    assert time.monotonic() - started < 15
    assert caught.value.transient

    proxy.restore()
    assert _at_last(run, lambda: store.renew("k", owner="ann", ttl=60)) is True


def test_a_server_that_is_not_there(run: Run) -> None:
    """It is looked for as long as the URL says, and then that is said."""
    backend = from_url("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100")
    with run.closing(backend), pytest.raises(BackendError) as caught:
        run(locks(backend).acquire("k", ttl=30))
    assert "could not be reached" in str(caught.value)
    assert caught.value.transient
    assert caught.value.__cause__ is not None


def _at_last(run: Run, make: Callable[[], Any]) -> Any:
    """The answer, once the client has found the server again."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return run(make())
        except BackendError:
            if time.monotonic() > deadline:
                raise


# --- the server


def test_a_killed_server(run: Run, private: MongoServer, prefix: str) -> None:
    """Locks and outcomes that were confirmed survive it, and the connections are replaced."""
    backend = from_url(f"{private.url}?serverSelectionTimeoutMS=300", prefix=prefix)
    with run.closing(backend):
        store, calls = locks(backend), backend.require("idempotency")
        before = run(store.acquire("k", ttl=60, owner="ann"))
        run(calls.claim("k", owner="ann", lease=30, ttl=60))
        run(calls.complete("k", owner="ann", result=b"r", ttl=60))
        private.kill()
        with pytest.raises(BackendError) as caught:
            run(store.acquire("k", ttl=60, owner="ann"))
        assert caught.value.transient
        private.start()
        again = _at_last(run, lambda: store.acquire("k", ttl=60, owner="ann"))
        assert again.fence == before.fence
        assert run(calls.get("k")).result == b"r"


def test_an_empty_server_again(run: Run, mongo: MongoAt) -> None:
    """A database that is dropped while it is used fills again, and fences still grow."""
    backend = from_url(mongo.url)
    with run.closing(backend):
        first = run(locks(backend).acquire("k", ttl=30, owner="ann"))
        with mongo.client() as client:
            client.drop_database(client.get_default_database().name)
        again = run(locks(backend).acquire("k", ttl=30, owner="bob"))
    assert again.fence > first.fence


# --- many callers


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
    store = locks(backend)
    drive(store.acquire("k", ttl=30, owner="ann"))
    proxy.latency(0.3)

    with interrupted(0.1):
        drive(store.acquire("k", ttl=30, owner="ann"))
    proxy.latency(0)

    assert drive(store.is_held("k", owner="bob")) is False
    assert drive(store.release("k", owner="ann")) is True
    backend.close()
