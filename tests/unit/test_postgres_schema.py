"""The tables and functions on PostgreSQL: made once, by hand too, and kept small."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from resilient.backends.postgres import ddl, from_url
from resilient.engine.drivers.sync import drive
from resilient.errors import BackendError, ConfigurationError
from resilient.protocols.circuit_table import TRANSITIONS
from resilient.protocols.circuits import CircuitState
from resilient.protocols.locks import Grant
from tests.support.postgres import PostgresAt


@pytest.fixture(name="postgres_server")
def _on_every_version(every_postgres: PostgresAt) -> PostgresAt:
    """All of these tests run on every version that is installed."""
    return every_postgres


def count(server: PostgresAt, table: str) -> int:
    """How many rows a table has."""
    with server.connect() as connection:
        found: Any = connection.execute(
            f"SELECT count(*) FROM resilient.{table}".encode()
        ).fetchone()
    return int(found[0])


def test_twenty_make_it_at_once(postgres: PostgresAt) -> None:
    """Twenty backends find an empty database at the same moment: all are served."""
    backends = [from_url(postgres.url, prefix="p:") for _ in range(20)]

    def one(number: int) -> Any:
        return drive(backends[number].require("locks").acquire(f"k{number}", ttl=30))

    with ThreadPoolExecutor(20) as pool:
        grants = list(pool.map(one, range(20)))
    for backend in backends:
        backend.close()

    assert all(isinstance(grant, Grant) for grant in grants)
    assert count(postgres, "version") == 1
    assert count(postgres, "lock") == 20


def test_a_schema_that_is_dropped_is_made_again(postgres: PostgresAt) -> None:
    """A process that lives meanwhile goes on, and its statements are prepared as before."""
    backend = from_url(postgres.url, prefix="")
    locks = backend.require("locks")
    for number in range(6):  # the fall falls before, upon and after what is prepared
        assert isinstance(drive(locks.acquire(f"k{number}", ttl=30)), Grant)
        with postgres.connect(autocommit=True) as connection:
            connection.execute("DROP SCHEMA resilient CASCADE")
    assert isinstance(drive(locks.acquire("k", ttl=30)), Grant)
    assert backend._transport._settings.server.prepares
    backend.close()


def test_by_hand_for_a_role_without_rights(postgres: PostgresAt) -> None:
    """An operator runs what `ddl` prints, twice; then a role may use it that may not make it."""
    database = postgres.url.rpartition("/")[2]
    poor = f"poor_{database}"
    with postgres.connect(autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {poor} LOGIN".encode())
    backend = from_url(postgres.url.replace("postgres@", f"{poor}@") + "?schema=own", prefix="")
    try:
        with pytest.raises(BackendError, match=r"(?s)42501.*ddl") as caught:
            drive(backend.require("locks").acquire("k", ttl=30))
        assert not caught.value.transient
        with postgres.connect(autocommit=True) as connection:
            for _ in range(2):
                connection.execute(ddl("own").encode())
            usage = f"GRANT USAGE ON SCHEMA own TO {poor}"
            tables = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA own"
            connection.execute(f"{usage}; {tables} TO {poor}".encode())
        assert isinstance(drive(backend.require("locks").acquire("k", ttl=30)), Grant)
        drive(backend.require("cache").set("k", b"v", ttl=30))
    finally:
        backend.close()
        with postgres.connect(autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {poor}; DROP ROLE {poor}".encode())


def test_schemas_share_nothing(postgres: PostgresAt) -> None:
    """Each schema is a store of its own."""
    one = from_url(f"{postgres.url}?schema=one", prefix="")
    two = from_url(f"{postgres.url}?schema=two", prefix="")
    assert isinstance(drive(one.require("locks").acquire("k", ttl=30, owner="ann")), Grant)
    assert isinstance(drive(two.require("locks").acquire("k", ttl=30, owner="bob")), Grant)
    one.close()
    two.close()


@pytest.mark.parametrize(("version", "which"), [(1000, "a later"), (1, "an unreleased")])
def test_another_version(postgres: PostgresAt, version: int, which: str) -> None:
    """Tables of another version are left alone, and that is said."""
    first = from_url(postgres.url, prefix="")
    drive(first.require("locks").acquire("k", ttl=30))
    first.close()
    with postgres.connect(autocommit=True) as connection:
        connection.execute("UPDATE resilient.version SET version = %s", [version])
    backend = from_url(postgres.url, prefix="")
    with pytest.raises(ConfigurationError, match=f"by {which} version .* of version {version},"):
        drive(backend.require("locks").acquire("k", ttl=30))
    backend.close()


def test_the_table_of_transitions(postgres: PostgresAt) -> None:
    """The server's functions lead where the table of the state machine says, and nowhere else."""
    backend = from_url(postgres.url, prefix="")
    drive(backend.require("circuits").view("k"))
    backend.close()
    events = {event for _, event in TRANSITIONS}
    with postgres.connect() as connection:
        found = {}
        for state in CircuitState:
            for event in events:
                row: Any = connection.execute(
                    "SELECT resilient.circuit_target(%s, %s)", [state.value, event]
                ).fetchone()
                if row[0] is not None:
                    found[state, event] = CircuitState(row[0])
    assert found == TRANSITIONS


def test_what_has_expired_is_removed(postgres: PostgresAt) -> None:
    """Later writes collect it in small batches; what is alive stays."""
    backend = from_url(postgres.url, prefix="")
    cache, calls = backend.require("cache"), backend.require("idempotency")
    jobs: Any = backend.require("checkpoints")
    for number in range(60):
        drive(cache.set(f"k{number}", b"v", ttl=30))
        drive(calls.claim(f"k{number}", owner="ann", lease=30, ttl=30))
    started = drive(jobs.start("job", owner="ann", lease=30, ttl=30))
    drive(jobs.save("job", b"state", fence=started.fence, ttl=30))
    drive(jobs.step("job", "one", b"r", fence=started.fence, ttl=30))
    with postgres.connect(autocommit=True) as connection:
        # As if all but the last of them had expired an hour ago.
        for table in ("cache", "idempotency", "job"):
            aged = f"UPDATE resilient.{table} SET expires = expires - 3600000000"
            connection.execute(f"{aged} WHERE key <> 'k59'".encode())
        for table in ("cache", "idempotency", "job"):
            connection.execute("SELECT resilient.sweep(%s, resilient.clock())", [table])
    backend.close()

    left = {t: count(postgres, t) for t in ("cache", "idempotency", "job", "checkpoint", "step")}
    assert left == {"cache": 1, "idempotency": 1, "job": 0, "checkpoint": 0, "step": 0}


@pytest.mark.parametrize("table", ["cache", "lock"])
def test_writes_sweep_by_themselves(postgres: PostgresAt, table: str) -> None:
    """Nobody needs to call for it: a write in some 250 does, also of locks that are always free."""
    backend = from_url(postgres.url, prefix="")
    cache, locks = backend.require("cache"), backend.require("locks")

    async def write(key: str) -> None:
        if table == "cache":
            await cache.set(key, b"v", ttl=30)
        else:
            assert isinstance(await locks.acquire(key, owner="ann", ttl=30), Grant)
            assert await locks.release(key, owner="ann")

    for key in ("old", "new"):
        drive(write(key))
    with postgres.connect(autocommit=True) as connection:
        connection.execute(f"UPDATE resilient.{table} SET expires = expires - 7200000000".encode())
    for _ in range(100):
        for _ in range(100):
            drive(write("new"))
        if count(postgres, table) == 1:
            break
    backend.close()
    assert count(postgres, table) == 1
