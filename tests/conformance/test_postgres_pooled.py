"""The PostgreSQL backend behind a real PgBouncer in transaction mode: four sessions for all."""

from collections.abc import Iterator
from typing import Any

import pytest

from resilient.testing.conformance import (
    CacheConformance,
    CheckpointConformance,
    CircuitConformance,
    IdempotencyConformance,
    LockConformance,
    Run,
)
from tests.conformance.at_a_url import AtUrl
from tests.support.pgbouncer import installed, pgbouncer
from tests.support.postgres import PostgresAt

pytestmark = pytest.mark.skipif(installed() is None, reason="PgBouncer is not installed")

STRANDED = """\
SELECT (SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'),
       (SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE d.datname = current_database() AND l.locktype = 'advisory')
"""


@pytest.fixture(scope="module")
def url(postgres_server: PostgresAt) -> Iterator[str]:
    """A pooler over a database of its own, in which nothing is stranded when all is over."""
    with postgres_server.database() as database:
        with pgbouncer(database.url, sessions=4) as url:
            yield url
            with database.connect() as connection:
                found: Any = connection.execute(STRANDED).fetchone()
        assert found == (0, 0), "a transaction is left open, or a lock of a session is left behind"


class Pooled(AtUrl):
    """Random prefixes; nobody has a session of its own, and what was prepared may be gone."""

    examples = 4
    steps = 20

    @pytest.fixture(params=["async"], name="run")
    def _run(self, request: pytest.FixtureRequest) -> Iterator[Run]:
        """In loops only, which have the more connections."""
        run = Run(request.param)
        yield run
        run.close()


class TestLocks(Pooled, LockConformance):
    """Locks behind a pooler."""


class TestCircuits(Pooled, CircuitConformance):
    """Circuits behind a pooler."""


class TestCache(Pooled, CacheConformance):
    """Cached values behind a pooler."""


class TestIdempotency(Pooled, IdempotencyConformance):
    """Idempotent calls behind a pooler."""


class TestCheckpoints(Pooled, CheckpointConformance):
    """Jobs behind a pooler."""
