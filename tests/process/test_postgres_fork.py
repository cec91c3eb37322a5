"""Forked children of a process that uses PostgreSQL: what they inherit does no harm to anybody."""

from __future__ import annotations

import gc
import os
import tempfile
from contextlib import ExitStack
from typing import Any

import pytest

from resilient.backends.postgres import PostgresBackend, from_url
from resilient.backends.postgres.line import Line
from resilient.engine.drivers.sync import drive
from resilient.protocols.locks import Grant
from resilient.testing.conformance import Run
from tests.support.forks import in_child
from tests.support.postgres import PostgresAt

pytestmark = pytest.mark.process

FILES = 30


def lines_of(backend: PostgresBackend) -> list[Line]:
    """The idle connections of its blocking callers."""
    transport: Any = backend._transport
    idle: list[Line] = transport._blocking._idle
    return list(idle)


def works(backend: PostgresBackend, owner: str) -> bool:
    """Whether it grants a lock, and takes it back."""
    locks = backend.require("locks")
    granted = drive(locks.acquire(owner, ttl=30, owner=owner))
    return isinstance(granted, Grant) and drive(locks.release(owner, owner=owner))


def test_a_forgotten_connection_is_closed_once(postgres_server: PostgresAt, prefix: str) -> None:
    """In a child no file is closed by what is left of a connection whose number it has now."""
    run = Run("sync")
    backend = from_url(postgres_server.url, prefix=prefix)
    assert works(backend, "ann")
    run.listen(backend)  # on a connection of its own
    lines = lines_of(backend)
    numbers = {line.fileno() for line in lines}
    sessions = [line.pgconn.backend_pid for line in lines]

    def child() -> bool:
        with ExitStack() as files:
            taken = [files.enter_context(tempfile.TemporaryFile()) for _ in range(FILES)]
            assert numbers <= {file.fileno() for file in taken}, "its numbers are not free"
            before = [os.fstat(file.fileno()).st_ino for file in taken]
            for line in lines:
                line.close()
            lines.clear()
            gc.collect()
            mine = from_url(postgres_server.url, prefix=prefix)
            assert works(backend, "bob")
            assert works(mine, "cid")
            backend.close()
            mine.close()
            gc.collect()
            return before == [os.fstat(file.fileno()).st_ino for file in taken]

    assert in_child(child) == 0

    # The child has said no farewell in the name of its parent.
    assert works(backend, "dan")
    assert [line.pgconn.backend_pid for line in lines_of(backend)] == sessions
    backend.close()
    run.close()
