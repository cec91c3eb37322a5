"""`python -m benchmarks.fillfactors`: how full PostgreSQL should make its pages, and which indexes.

An update that finds room in its row's page, and changes no column of an index, writes no index
(HOT, https://www.postgresql.org/docs/current/storage-hot.html). Many rows are made first and then
changed, as by many callers at once; the columns are the share of such updates, and the sizes of the
table and its indexes in KiB. What was chosen is in `resilient/backends/postgres/sql/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

import resilient
from resilient.resolving import resolve
from tests.support.postgres import postgres_server

ROWS = 1000
FACTORS = (100, 90, 80, 70, 50, 30)
INDEXED = "with an index on expires"
COUNTERS = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = %s::regclass"
SIZES = "SELECT pg_relation_size(%s::regclass), pg_indexes_size(%s::regclass)"


def locks(backend: resilient.Backend) -> None:
    """Locks that are taken, renewed and released, four times."""
    store = backend.sync.locks
    for _ in range(4):
        for n in range(ROWS):
            store.acquire(f"k{n}", owner="ann", ttl=30)
        for n in range(ROWS):
            store.renew(f"k{n}", owner="ann", ttl=30)
        for n in range(ROWS):
            store.release(f"k{n}", owner="ann")


def calls(backend: resilient.Backend) -> None:
    """Calls that are claimed, and completed with 100 bytes."""
    store = backend.sync.idempotency
    for n in range(ROWS):
        store.claim(f"k{n}", owner="ann", lease=30, ttl=600)
    for n in range(ROWS):
        store.complete(f"k{n}", owner="ann", result=b"x" * 100, ttl=600)


def jobs(backend: resilient.Backend) -> None:
    """Jobs that are started, renewed four times, and finished with 100 bytes."""
    store = backend.sync.checkpoints
    runs: list[Any] = [store.start(f"k{n}", owner="ann", lease=30, ttl=60) for n in range(ROWS)]
    for _ in range(4):
        for n in range(ROWS):
            store.renew(f"k{n}", owner="ann", lease=30)
    for n, run in enumerate(runs):
        store.finish(f"k{n}", b"x" * 100, fence=run.fence, ttl=600)


WORK: dict[str, Callable[[resilient.Backend], None]] = {
    "lock": locks,
    "idempotency": calls,
    "job": jobs,
}


def main() -> None:
    """Measure each table with each fill factor, and with one more index."""
    with postgres_server() as server, server.connect(autocommit=True) as connection:
        resolve(server.url).sync.locks.holder("k")  # makes the tables
        print(f"{'table':12} {'fillfactor':>26} {'HOT':>6} {'table':>6} {'index':>6}")
        for table in WORK:
            for factor in FACTORS:
                print(measured(connection, server.url, table, factor), flush=True)
            index = sql.SQL("CREATE INDEX ON {} (expires)").format(named(table))
            connection.execute(index)
            print(measured(connection, server.url, table, 50, INDEXED), flush=True)


def measured(
    connection: psycopg.Connection[Any], url: str, table: str, factor: int, note: str = ""
) -> str:
    """One line of the table."""
    name = named(table)
    full = f"resilient.{table}"
    options = sql.SQL("ALTER TABLE {} SET (fillfactor = {}, autovacuum_enabled = false)")
    connection.execute(sql.SQL("TRUNCATE {}").format(name))
    connection.execute(options.format(name, sql.Literal(factor)))
    connection.execute("SELECT pg_stat_reset_single_table_counters(%s::regclass)", [full])
    backend = resolve(url)
    WORK[table](backend)
    backend.close()  # the counters of its sessions are told then
    deadline = time.monotonic() + 10
    updates = hot = 0
    while updates < ROWS and time.monotonic() < deadline:
        time.sleep(0.2)
        updates, hot = connection.execute(COUNTERS, [full]).fetchone() or (0, 0)
    heap, indexes = connection.execute(SIZES, [full, full]).fetchone() or (0, 0)
    shown = f"{factor} {note}".strip()
    share = f"{100 * hot / max(updates, 1):.0f} %"
    return f"{table:12} {shown:>26} {share:>6} {heap // 1024:>6} {indexes // 1024:>6}"


def named(table: str) -> sql.Identifier:
    """The table in the schema of the backend."""
    return sql.Identifier("resilient", table)


if __name__ == "__main__":
    main()
