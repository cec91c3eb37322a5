"""The backend itself, and how its URL reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from resilient.backends.sqlite.database import Database, Synchronous
from resilient.backends.sqlite.signals import SqliteSignals
from resilient.backends.sqlite.transport import Look, SqliteTransport
from resilient.engine.backend import Traits
from resilient.engine.crew import aside
from resilient.engine.durations import seconds
from resilient.engine.plan import Ask
from resilient.engine.transactional import Transaction, TransactionalBackend
from resilient.engine.urls import number_of
from resilient.errors import ConfigurationError

__all__ = ["SqliteBackend", "from_url"]

T = TypeVar("T")

TIMEOUT = 10.0
OPTIONS = ("synchronous", "timeout")


class SqliteBackend(TransactionalBackend):
    """Keeps everything in one file, for the threads and processes of one machine.

    Nothing is opened before the first operation. The file is kept with write-ahead logging.

    Args:
        path: The file, relative to the working directory of now. It and its directory are made.
        prefix: Isolates tenants that share the file.
        timeout: Seconds to wait for other processes that write, before a `BackendError`.
        synchronous: What a commit survives, as SQLite names it
            (https://www.sqlite.org/pragma.html#pragma_synchronous). `"normal"`: the death of any
            process at any moment; a loss of power may take the last moments back, as it may with a
            Redis that syncs once a second. `"full"`: that too, for every commit waits for the disk.

    Raises:
        ConfigurationError: `synchronous` is neither.
    """

    traits = Traits(
        shared_by="processes of one machine",
        survives="any process",
        waking="a change of the file",
    )

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prefix: str = "",
        timeout: float = TIMEOUT,
        synchronous: Synchronous = "normal",
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.prefix = prefix
        database = Database(self.path, timeout, synchronous)
        signals = SqliteSignals(database, prefix)
        self._transport = SqliteTransport(database, prefix, signals)
        super().__init__(f"sqlite:///{self.path}", SqliteStore(self._transport), source=signals)

    def close(self) -> None:
        """Close all connections and end the threads. The backend may be used again."""
        super().close()
        self._transport.close()

    async def aclose(self) -> None:
        """The same, without blocking the loop."""
        await aside(self.close)


class SqliteStore:
    """Transactions as commands to the transport: the function itself, or a `Look`."""

    def __init__(self, transport: SqliteTransport) -> None:
        self._transport = transport

    async def change(self, work: Callable[[Transaction], T]) -> T:
        """Run a function in a transaction that may write."""
        answer: T = await Ask(self._transport, work)
        return answer

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a function in a transaction that only reads."""
        answer: T = await Ask(self._transport, Look(work))
        return answer


def from_url(url: str, *, prefix: str = "") -> SqliteBackend:
    """The backend of `sqlite:///relative/file.db` or `sqlite:////absolute/file.db`.

    `?timeout=10s` is how long to wait for other processes that write, and `?synchronous=full` lets
    every commit survive a loss of power.

    Raises:
        ConfigurationError: It names no file, an option that there is not, or a wrong value of one.
    """
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc:
        raise ConfigurationError(
            f"{url!r}: {parts.netloc!r} stands where a host would; write three slashes before a "
            "relative path and four before an absolute one"
        )
    if path in ("", ":memory:"):
        raise ConfigurationError(
            f"{url!r} names no file that processes can share; for one process use 'memory://'"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := [name for name in options if name not in OPTIONS]:
        raise ConfigurationError(
            f"{url!r}: unknown option {', '.join(unknown)}; there is: {', '.join(OPTIONS)}"
        )
    timeout = seconds(number_of(options.get("timeout", TIMEOUT)), option="timeout")
    synchronous: Any = options.get("synchronous", "normal")  # the constructor looks at it
    return SqliteBackend(path, prefix=prefix, timeout=timeout, synchronous=synchronous)
