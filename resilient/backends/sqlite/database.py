"""The file: how it is opened, and the connections to it.

A connection is used by one thread at a time and then by another: there are as many as there are
operations at one moment. None crosses a fork: SQLite's locks are the process's, and a child that so
much as closes a connection of its parent's does harm (section 2.6 of
https://www.sqlite.org/howtocorrupt.html). They are closed before a fork, and opened again by
whoever needs one.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, get_args

from resilient.backends.sqlite import schema
from resilient.backends.sqlite.clock import StoreClock
from resilient.backends.sqlite.forks import Forkable, outlive_forks
from resilient.backends.sqlite.trouble import is_busy, translated
from resilient.engine import chance
from resilient.engine.budget import remaining
from resilient.errors import BackendError, ConfigurationError

__all__ = ["Connection", "Database", "Synchronous"]

T = TypeVar("T")

IDLE = 4
"""Connections that are kept open for later."""
FIRST_PAUSE = 0.0001
LONGEST_PAUSE = 0.002
"""Seconds between two looks whether the file is free. SQLite's own handler soon sleeps for 100 ms
at a time, and starves among others that ask more often."""
Synchronous = Literal["normal", "full"]
"""What a commit survives: every death but that of the machine's power, or that too."""
PRAGMAS = (
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 33554432",
)


class Connection(sqlite3.Connection):
    """A connection that knows which file it has open."""

    device = inode = 0
    single: sqlite3.Cursor
    """Runs what is one statement and no transaction. To make a cursor for it would take as long as
    to look up the statement, which was prepared before."""

    def close(self) -> None:
        """Close it; no cycle is left behind."""
        self.__dict__.pop("single", None)
        super().close()

    @property
    def file(self) -> tuple[int, int]:
        """The file, as `Database.file` tells it."""
        return self.device, self.inode


class Database(Forkable):
    """One file.

    Args:
        path: Its absolute path; missing directories are made.
        timeout: Seconds to wait for others who write.
        synchronous: What a commit survives.
    """

    def __init__(self, path: str, timeout: float, synchronous: Synchronous = "normal") -> None:
        if synchronous not in get_args(Synchronous):
            raise ConfigurationError(f"synchronous={synchronous!r}: it is 'normal' or 'full'")
        self.path = path
        self._path = os.fsencode(path)
        self.timeout = timeout
        self.synchronous = synchronous
        self.clock = StoreClock()
        self._was_open = False
        self._forget()
        outlive_forks(self)

    def _forget(self) -> None:
        # Reentrant: the garbage collector may close a suspended generator at any point, and the
        # generator release something.
        self._lock = threading.RLock()
        self._rested = threading.Condition(self._lock)
        self._forking = False
        self._users = 0
        self._idle: list[Connection] = []
        self._used: set[Connection] = set()
        self._stale: set[Connection] = set()

    # --- connections

    def connection(self) -> Borrowed:
        """A connection to the file that is there now, for one transaction: `with` it."""
        return Borrowed(self)

    def borrow(self, user: Borrowed) -> Connection:
        """A connection for one transaction, to be given back."""
        # Twice under the lock in all, here and in `give_back`: every transaction comes this way.
        with self._lock:
            while self._forking:
                self._rested.wait()
            self._users += 1
            user.is_one = True
            user.connection = connection = self._idle.pop() if self._idle else None
            if connection is not None:
                self._used.add(connection)
        if connection is not None:
            try:
                status = os.stat(self._path)
            except OSError:
                pass  # `_replaced` looks again
            else:
                if connection.inode == status.st_ino and connection.device == status.st_dev:
                    return connection
        return self._replaced(user, connection)

    def _replaced(self, user: Borrowed, connection: Connection | None) -> Connection:
        """Another connection, where there is none, or only to a file that is there no more.

        The file was removed or replaced: what was in it is gone, for us as for everybody.
        """
        while connection is None or connection.file != self.file():
            with self._lock:
                if connection is not None:
                    self._used.discard(connection)
                    self._stale.discard(connection)
                    connection.close()
                user.connection = connection = self._idle.pop() if self._idle else None
                if connection is not None:
                    self._used.add(connection)
            if connection is None:
                connection = self.open()
                with self._lock:
                    user.connection = connection
                    self._used.add(connection)
                return connection
        return connection

    def give_back(self, user: Borrowed, error: BaseException | None = None) -> None:
        """The transaction is over; a connection of which SQLite has complained is closed."""
        # Whatever is wrong with it: the next one is new.
        broken = error is not None and isinstance(error, sqlite3.Error) and not is_busy(error)
        with self._lock:
            if not user.is_one:
                return
            user.is_one = False
            self._users -= 1
            connection, user.connection = user.connection, None
            if connection is not None:
                self._used.discard(connection)
                # In a transaction: its thread was interrupted before it could end that.
                unfit = broken or connection.in_transaction or connection in self._stale
                if not unfit and len(self._idle) < IDLE:
                    self._idle.append(connection)
                else:
                    self._stale.discard(connection)
                    connection.close()
            if self._forking:
                self._rested.notify_all()

    def close(self) -> None:
        """Close all connections; those in use when they are given back."""
        with self._lock:
            self._stale |= self._used
            while self._idle:
                self._idle.pop().close()

    # --- opening

    def file(self) -> tuple[int, int]:
        """Which file is at the path; zeros if none is."""
        try:
            status = os.stat(self._path)
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def open(self) -> Connection:
        """A new connection, with the tables there and the clock read.

        Raises:
            ConfigurationError: The file cannot be used, ever.
            BackendError: It cannot be used now.
        """
        try:
            self._prepare()
            connection = sqlite3.connect(
                self.path,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                factory=Connection,
            )
        except (sqlite3.Error, OSError) as error:
            raise translated(error, self.path, opening=not self._was_open) from error
        try:
            for step in (schema.check, self._use_wal, self._create):
                self.patiently(partial(step, connection))
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise translated(error, self.path, opening=not self._was_open) from error
            if isinstance(error, ConfigurationError):
                raise ConfigurationError(f"{self.path} {error}") from error.__cause__
            raise
        connection.device, connection.inode = self.file()
        connection.single = connection.cursor()
        self._was_open = True
        return connection

    def _prepare(self) -> None:
        path = Path(self.path)
        if path.is_dir():
            raise ConfigurationError(f"{self.path} is a directory: name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)

    def _use_wal(self, connection: Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise ConfigurationError(
                "is on a file system on which processes cannot share memory, as SQLite must "
                f"(its journal mode stays {mode!r}): use a local disk"
            )
        for pragma in (f"PRAGMA synchronous = {self.synchronous}", *PRAGMAS):
            connection.execute(pragma)

    def _create(self, connection: Connection) -> None:
        if schema.is_current(connection) and self.clock.load(connection):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            schema.create(connection)
            self.clock.begin(connection)
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise

    def patience(self) -> float:
        """Seconds to wait for others who write: what the caller's budget leaves."""
        left = remaining()
        return self.timeout if left is None else min(left, self.timeout)

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Try until nobody else is in the way.

        Raises:
            BackendError: Somebody was, for as long as we wait.
        """
        pause, patience, until = FIRST_PAUSE, 0.0, None
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                now = time.monotonic()
                if until is None:
                    patience = self.patience()
                    until = now + patience
                if now > until:
                    raise BackendError(
                        f"{self.path} was locked by another process for {patience:g} seconds"
                    ) from error
            time.sleep(chance.uniform(pause / 4, pause))
            pause = min(2 * pause, LONGEST_PAUSE)

    # --- forks

    def before_fork(self) -> None:
        """Let what is under way end, begin nothing more, and close every connection."""
        with self._lock:
            self._forking = True
            # Transactions end in no time; but nobody's fork shall hang for ever.
            self._rested.wait_for(lambda: self._users == 0, timeout=self.timeout)
            while self._idle:
                self._idle.pop().close()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        with self._lock:
            self._forking = False
            self._rested.notify_all()

    def after_fork_in_child(self) -> None:
        """Begin anew, and never touch what the parent's other threads were using."""
        ABANDONED.extend(self._used)
        self._forget()


class Borrowed:
    """A connection for the length of a `with` block.

    A thread is interrupted (Ctrl-C) after any call, also as it enters the block or leaves it: then
    the end of this gives the connection back.

    Attributes:
        connection: The connection.
        is_one: Whether it counts among those who use one.
    """

    __slots__ = ("_database", "connection", "is_one")

    def __init__(self, database: Database) -> None:
        self._database = database
        self.connection: Connection | None = None
        self.is_one = False

    def __enter__(self) -> Connection:
        try:
            return self._database.borrow(self)
        except BaseException:
            self._database.give_back(self)
            raise

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._database.give_back(self, error)

    def __del__(self) -> None:
        if self.is_one:
            self._database.give_back(self)


ABANDONED: list[Connection] = []


def roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction that failed, unless SQLite has done so itself."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
