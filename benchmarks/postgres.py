"""PostgreSQL: ours beside the plainest statement of psycopg that could do it."""

from __future__ import annotations

import atexit
import contextlib
from functools import cache
from typing import Any

import resilient
from benchmarks.checkpoints import STEPS, job_of_steps
from benchmarks.harness import Group, Mode, Place
from benchmarks.retries import MODES
from resilient.resolving import resolve

UPSERT = "INSERT INTO raw VALUES (%s, %s) ON CONFLICT (k) DO UPDATE SET v = excluded.v RETURNING v"
SELECT = "SELECT v FROM raw WHERE k = %s"


def groups() -> list[Group]:
    """A lock, a request that was made before, a value that is there, and a job's step."""
    return [made(mode) for mode in MODES for made in (_lock, _replay, _hit, _steps)]


def _lock(mode: Mode) -> Group:
    group = Group("PostgreSQL: a lock taken and released", mode)

    @group.case("psycopg: two upserts")
    def _(place: Place) -> Any:
        return _raw(place, *[(UPSERT, ["lock", 1])] * 2)

    @group.case("resilient, postgres")
    def _(place: Place) -> Any:
        return resilient.distributed_lock("k", backend=_backend(place))(place.body)

    return group


def _replay(mode: Mode) -> Group:
    group = Group("PostgreSQL: the same idempotent call again", mode)

    @group.case("psycopg: a select")
    def _(place: Place) -> Any:
        return _raw(place, (SELECT, ["k7"]))

    @group.case("resilient, postgres")
    def _(place: Place) -> Any:
        return resilient.idempotent("k:{n}", ttl=600, backend=_backend(place))(place.body)

    return group


def _hit(mode: Mode) -> Group:
    group = Group("PostgreSQL: a cached value, asked for at the server", mode)

    @group.case("psycopg: a select")
    def _(place: Place) -> Any:
        return _raw(place, (SELECT, ["k7"]))

    @group.case("resilient, postgres")
    def _(place: Place) -> Any:
        return resilient.cached("k:{n}", ttl=600, local=None, backend=_backend(place))(place.body)

    return group


def _steps(mode: Mode) -> Group:
    group = Group(f"PostgreSQL: a step, of a job with {STEPS}", mode)

    @group.case("psycopg: an upsert", per=STEPS)
    def _(place: Place) -> Any:
        return _raw(place, *[(UPSERT, ["lock", 1])] * STEPS)

    @group.case("resilient, postgres", per=STEPS)
    def _(place: Place) -> Any:
        return job_of_steps(place, _backend(place))

    return group


def _raw(place: Place, *statements: tuple[Any, list[Any]]) -> Any:
    """These statements on one connection that prepares them."""
    import psycopg

    if place.mode == "sync":
        connection = psycopg.connect(_url(), autocommit=True, prepare_threshold=1)
        place.exits.callback(connection.close)
        cursor = connection.cursor()

        def call(n: int) -> None:
            for text, values in statements:
                cursor.execute(text, values)
                cursor.fetchone()

        return call

    known: list[Any] = []

    async def acall(n: int) -> None:
        if not known:  # in the loop that runs the case
            made = await psycopg.AsyncConnection.connect(
                _url(), autocommit=True, prepare_threshold=1
            )
            place.exits.push_async_callback(made.close)
            known.append(made.cursor())
        for text, values in statements:
            await known[0].execute(text, values)
            await known[0].fetchone()

    return acall


def _backend(place: Place) -> resilient.Backend:
    backend = resolve(_url(), place.prefix)
    if place.mode == "sync":
        place.exits.callback(backend.close)
    else:
        place.exits.push_async_callback(backend.aclose)
    return backend


@cache
def _url() -> str:
    """One server for all cases, until the program ends."""
    from tests.support.postgres import postgres_server

    running = contextlib.ExitStack()
    atexit.register(running.close)
    server = running.enter_context(postgres_server())
    with server.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE raw (k text PRIMARY KEY, v bigint)")
        connection.execute("INSERT INTO raw SELECT 'k' || n, n FROM generate_series(1, 1000) AS n")
    return server.url
