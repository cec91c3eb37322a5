"""How calls reach PostgreSQL: statements, poolers, and a server that is killed or unlike others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from resilient.backends.postgres import PostgresBackend, from_url
from resilient.engine import chance
from resilient.engine.guard import NotHeld
from resilient.engine.plan import Ask, Together
from resilient.errors import BackendError, ConfigurationError
from resilient.protocols.checkpoints import Started
from resilient.protocols.circuits import CircuitRules, CircuitState
from resilient.protocols.locks import Grant, Held
from resilient.testing.conformance import Run
from tests.support.postgres import PostgresAt, PostgresServer, postgres_server

RULES = CircuitRules(100, 100, 0.5, None, 30.0, 5, 10.0, 600.0)


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


@pytest.fixture(scope="module")
def private() -> Iterator[PostgresServer]:
    """A server of this module's own, to be killed and restarted."""
    with postgres_server() as server:
        yield server


def locks(backend: PostgresBackend) -> Any:
    """Its locks."""
    return backend.require("locks")


# --- statements


def test_one_statement_each(
    run: Run, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation of every capability is one statement, once it is prepared."""
    monkeypatch.setattr(chance, "random", lambda: 0.5)  # else it may be another one, that sweeps
    store, circuits, cache = locks(backend), backend.require("circuits"), backend.require("cache")
    calls, jobs = backend.require("idempotency"), backend.require("checkpoints")
    started = run(jobs.start("job", owner="ann", lease=30, ttl=600))
    assert isinstance(started, Started)
    fence, names = started.fence, map(str, count())
    operations: dict[str, Callable[[], Any]] = {
        "acquire": lambda: store.acquire("k", ttl=30, owner="ann"),
        "renew": lambda: store.renew("k", owner="ann", ttl=30),
        "release": lambda: store.release("k", owner="ann"),
        "acquire all": lambda: store.acquire_all(["a", "b", "c"], owner="ann", ttl=30),
        "holder": lambda: store.holder("a"),
        "record": lambda: circuits.record("k", rules=RULES, outcomes="0101"),
        "admit": lambda: circuits.admit("k", rules=RULES, token="t"),
        "view": lambda: circuits.view("k"),
        "force": lambda: circuits.force("other", CircuitState.OPEN),
        "fetch": lambda: cache.fetch("k", owner="ann", lease=30, tags=["red", "blue"]),
        "fill": lambda: cache.fill("k", b"v", owner="ann", ttl=30, tags=["red", "blue"]),
        "get": lambda: cache.get("k"),
        "invalidate": lambda: cache.invalidate_tags(["red", "green"]),
        "claim": lambda: calls.claim("k", owner="ann", lease=30, ttl=600),
        "complete": lambda: calls.complete("k", owner="ann", result=b"r", ttl=600),
        "start": lambda: jobs.start("job", owner="ann", lease=30, ttl=600),
        "save": lambda: jobs.save("job", b"state", fence=fence, lease=30, ttl=600),
        "step": lambda: jobs.step("job", next(names), b"r", fence=fence, ttl=600),
        "latest": lambda: jobs.latest("job"),
    }
    for make in operations.values():
        for _ in range(3):  # the third time it is prepared, which is a statement more
            run(make())

    sent = {}
    for name, make in operations.items():
        before = backend.statements
        run(make())
        sent[name] = backend.statements - before

    assert sent == dict.fromkeys(operations, 1)


def test_who_takes_a_lock_sweeps_at_times(
    run: Run, backend: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which changes nothing of what it gets: a free lock, or who holds it."""
    monkeypatch.setattr(chance, "random", lambda: 0.0)
    taken = run(locks(backend).acquire("k", ttl=30, owner="ann"))
    assert isinstance(taken, Grant)
    assert run(locks(backend).acquire("k", ttl=30, owner="ann")) == taken
    held = run(locks(backend).acquire("k", ttl=30, owner="bob"))
    assert isinstance(held, Held)
    assert held.owner == "ann"
    assert run(locks(backend).release("k", owner="ann"))


def test_a_pooler_that_shares_sessions(run: Run, backend: PostgresBackend) -> None:
    """What was prepared in a session may be gone with it: then statements go unprepared."""
    for _ in range(5):
        run(locks(backend).acquire("k", ttl=30, owner="ann"))
    run(backend.require("cache").set("k", b"v", ttl=30))
    transport: Any = backend._transport
    lines = [*transport._blocking._idle]
    for looped in transport._loops.values():
        lines += [wire.line for wire in looped._idle]
    assert lines
    for line in lines:
        # Another client of the pooler had the session, and cleaned it up.
        line.pgconn.nonblocking = 0
        line.pgconn.exec_(b"DEALLOCATE ALL")
        line.pgconn.nonblocking = 1

    for _ in range(5):
        assert isinstance(run(locks(backend).acquire("k", ttl=30, owner="ann")), Grant)
    assert transport._settings.server.prepares is False


def test_writes_under_a_lock(run: Run, backend: PostgresBackend) -> None:
    """A write under a lock is made while it is held, and refused by the server afterwards."""
    store, cache = locks(backend), backend.require("cache")
    calls, jobs = backend.require("idempotency"), backend.require("checkpoints")
    run(calls.claim("k", owner="ann", lease=30, ttl=600))
    run(cache.fetch("k", owner="ann", lease=30))
    started = run(jobs.start("job", owner="ann", lease=30, ttl=600))
    assert isinstance(started, Started)
    run(store.acquire("k", ttl=30, owner="ann"))
    guard = store.guard("k", owner="ann")

    async def under(plan: Any) -> Any:
        operation = plan.send(None)
        try:
            answer = await Ask(operation.transport, guard.wrap(operation.command))
        finally:
            plan.close()
        return answer

    writes: list[Callable[[], Any]] = [
        lambda: cache.fill("k", b"v", owner="ann", ttl=30),
        lambda: cache.invalidate_tags(["red"]),
        lambda: calls.complete("k", owner="ann", result=b"r", ttl=600),
        lambda: jobs.save("job", b"state", fence=started.fence, ttl=600),
    ]
    first, _, third, row = [run(under(write())) for write in writes]
    assert (first, third, row[0]) == (True, True, 1)
    run(store.release("k", owner="ann"))
    for write in writes:
        with pytest.raises(NotHeld, match="ann"):
            run(under(write()))
    latest = run(jobs.latest("job"))
    assert latest is not None
    assert latest.sequence == 1


# --- the server


def test_a_killed_server(run: Run, private: PostgresServer, prefix: str) -> None:
    """Locks and open circuits survive it; connections are replaced without an error."""
    backend = from_url(private.url, prefix=prefix)
    with run.closing(backend):
        before = run(locks(backend).acquire("k", ttl=60, owner="ann"))
        run(backend.require("circuits").force("k", CircuitState.OPEN))
        run(backend.require("cache").set("k", b"v", ttl=60))
        private.kill()
        with pytest.raises(BackendError, match="could not be reached") as caught:
            while True:  # what served the connection may outlive the server by a moment
                run(locks(backend).acquire("k", ttl=60, owner="ann"))
        assert caught.value.transient
        private.start()
        assert run(locks(backend).acquire("k", ttl=60, owner="ann")).fence == before.fence
        assert run(backend.require("circuits").view("k")).state is CircuitState.OPEN
        assert run(backend.require("cache").get("k")) is None, "an unlogged table is empty then"


def test_a_session_that_is_ended(run: Run, backend: PostgresBackend, postgres_server: Any) -> None:
    """An administrator ends all sessions: the next operation opens another one."""
    run(locks(backend).acquire("k", ttl=30, owner="ann"))
    transport: Any = backend._transport
    lines = [*transport._blocking._idle]
    for looped in transport._loops.values():
        lines += [wire.line for wire in looped._idle]
    with postgres_server.connect(autocommit=True) as connection:
        for line in lines:
            connection.execute("SELECT pg_terminate_backend(%s)", [line.pgconn.backend_pid])

    assert run(locks(backend).renew("k", owner="ann", ttl=30)) is True


def test_an_empty_database_again(run: Run, postgres: PostgresAt) -> None:
    """A schema that is dropped while it is used is made again."""
    backend = from_url(postgres.url, prefix="")
    with run.closing(backend):
        first = run(locks(backend).acquire("k", ttl=30, owner="ann"))
        for _ in range(3):
            run(locks(backend).renew("k", ttl=30, owner="ann"))
        with postgres.connect(autocommit=True) as connection:
            connection.execute("DROP SCHEMA resilient CASCADE")
        again = run(locks(backend).acquire("k", ttl=30, owner="bob"))
    assert again.owner == "bob"
    assert again.fence > first.fence


REFUSED_AT_COMMIT = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.key LIKE '%bad%' THEN RAISE EXCEPTION 'not today'; END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON resilient.lock
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def test_a_commit_that_is_refused(run: Run, postgres: PostgresAt) -> None:
    """The answer came before it, and counts no more; what was sent with it is as it was."""
    backend = from_url(f"{postgres.url}?timeout=60", prefix="")
    store = locks(backend)

    async def renewed() -> list[Any]:
        return await Together(
            [store.renew(key, owner="ann", ttl=30) for key in ("good", "bad", "good")]
        )

    with run.closing(backend):
        for _ in range(3):  # until it is prepared
            for key in ("good", "bad", "very bad"):
                run(store.acquire(key, ttl=30, owner="ann"))
            run(store.release("very bad", owner="ann"))
        with postgres.connect(autocommit=True) as connection:
            connection.execute(REFUSED_AT_COMMIT)
        with pytest.raises(BackendError, match="not today"):
            run(store.acquire("very bad", ttl=30, owner="ann"))
        assert run(store.holder("very bad")) is None
        good, bad, again = run(renewed())
    assert (good, again) == (True, True)
    assert isinstance(bad, BackendError)
    assert "not today" in str(bad)


def test_an_isolation_that_would_not_do(run: Run, postgres: PostgresAt) -> None:
    """Under another level a function would not see what was committed while it waited."""
    level = "options=-c%20default_transaction_isolation%3Dserializable"
    url = f"{postgres.url}?timeout=60&{level}"  # in which the tables are made as well
    backend = from_url(url, prefix="")
    with run.closing(backend), pytest.raises(BackendError, match="read committed"):
        run(locks(backend).acquire("k", ttl=30, owner="ann"))


# --- keys and values


def test_what_does_not_fit(run: Run, backend: PostgresBackend) -> None:
    """A key that is too long for an index, or is no text, is refused before anything is sent."""
    with pytest.raises(ConfigurationError, match="2000 bytes"):
        run(locks(backend).acquire("k" * 3000, ttl=30))
    with pytest.raises(ConfigurationError, match="UTF-8"):
        run(locks(backend).acquire("\ud800", ttl=30))
    assert isinstance(run(locks(backend).acquire("é" * 900, ttl=30)), Grant)


def test_large_values(run: Run, backend: PostgresBackend) -> None:
    """Values far beyond any buffer, many at once."""
    cache = backend.require("cache")
    values = [bytes([number]) * 3_000_000 for number in range(4)]

    run.together(*[cache.set(f"k{n}", value, ttl=30) for n, value in enumerate(values)])
    found = run.together(*[cache.get(f"k{n}") for n in range(4)])

    assert [entry.value for entry in found if entry is not None] == values
