"""How commands reach MongoDB: counts, broken connections, late replies, loops and threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient.backends.mongodb import MongoBackend, from_url
from resilient.errors import BackendError, ConfigurationError
from resilient.testing.conformance import Run
from resilient.testing.faults import FaultProxy
from tests.support.mongodb import MongoAt, MongoServer, mongo_server, through

pytestmark = pytest.mark.usefixtures("pymongos_sockets")


@pytest.fixture
def url(mongo_server: MongoAt) -> str:
    """Of the shared server."""
    return mongo_server.url


@pytest.fixture
def backend(served: MongoBackend) -> MongoBackend:
    """A backend on the shared server."""
    return served


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
    assert "Topology" not in str(caught.value)
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
