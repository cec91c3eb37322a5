"""How transactions run: in the calling thread, or for an event loop in a thread beside it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from resilient.backends.sqlite.database import Database, roll_back
from resilient.backends.sqlite.foresight import UNFORESEEN, Foresight
from resilient.backends.sqlite.signals import SqliteSignals
from resilient.backends.sqlite.transaction import Signal, SqliteTransaction
from resilient.backends.sqlite.trouble import is_busy, translated
from resilient.engine.crew import Crew
from resilient.engine.drivers.aio import Reply
from resilient.engine.forks import forget_in_child
from resilient.engine.transactional import Optimistic, Transaction
from resilient.errors import BackendError

__all__ = ["Look", "SqliteTransport"]


Work = Callable[[Transaction], Any]


class Look:
    """A function to run in a transaction that only reads; any other may write."""

    __slots__ = ("work",)

    def __init__(self, work: Work) -> None:
        self.work = work


class SqliteTransport:
    """Runs transactions on one file, for one tenant.

    Args:
        database: The file.
        prefix: The tenant.
        signals: Hears at once what is signalled here.
    """

    def __init__(self, database: Database, prefix: str, signals: SqliteSignals) -> None:
        self._database = database
        self._prefix = prefix
        self._signals = signals
        self._foresight = Foresight(database.clock, prefix)
        # A reader never waits behind a writer, who may wait for other processes.
        self._writer = Crew("resilient-sqlite-writer", 1)
        self._readers = Crew("resilient-sqlite-reader", 2)
        self._forget()
        forget_in_child(self._forget)

    def _forget(self) -> None:
        self._writing = threading.RLock()
        self._open: sqlite3.Connection | None = None
        self._writer.forget()
        self._readers.forget()

    def close(self) -> None:
        """End the threads and close the connections; both come again with the next command."""
        self._writer.stop()
        self._readers.stop()
        self._database.close()

    # --- the two ways

    def send(self, command: Work | Look) -> Any:
        """Run a transaction in this thread."""
        try:
            return self._read(command.work) if isinstance(command, Look) else self._change(command)
        except (sqlite3.Error, OSError, UnicodeEncodeError) as error:
            raise translated(error, self._database.path) from error

    def asend(self, command: Work | Look) -> asyncio.Future[Any]:
        """Run a transaction in a thread of ours, and answer the running loop.

        Most would be over before a thread has woken up. But none can be known to be: a write may
        wait for the disk at any time, because others have written much, or to make a checkpoint.
        """
        loop = asyncio.get_running_loop()
        reply = Reply(loop=loop)
        context = copy_context()  # the caller's budget

        def job() -> None:
            try:
                settle = partial(reply.set_result, context.run(self.send, command))
            except Exception as error:
                settle = partial(reply.set_exception, error)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle)

        (self._readers if type(command) is Look else self._writer).submit(job)
        return reply

    # --- transactions

    def _read(self, work: Work) -> Any:
        return self._database.patiently(partial(self._look, work))

    def _look(self, work: Work) -> Any:
        with self._database.connection() as connection:
            cursor = connection.cursor()
            try:
                cursor.execute("BEGIN")
                return work(SqliteTransaction(cursor, self._database.clock, self._prefix))
            finally:
                roll_back(connection)

    def _change(self, work: Work) -> Any:
        database, writing = self._database, self._writing
        try:
            # Inside: a thread is interrupted (Ctrl-C) after calls, also after one of these.
            if not writing.acquire(False):
                patience = database.patience()
                if not writing.acquire(timeout=patience):
                    raise BackendError(
                        f"{database.path}: other threads wrote for {patience:g} seconds"
                    )
            if self._open is not None:
                # The garbage collector closed a suspended generator inside a transaction, and the
                # generator released something: that becomes part of the transaction.
                answer, signals = self._run(self._open.cursor(), work)
            else:
                if isinstance(work, Optimistic):
                    answer = self._foreseen(work)
                    if answer is not UNFORESEEN:
                        return answer
                answer, signals = database.patiently(partial(self._commit, work))
        finally:
            try:  # noqa: SIM105 - to enter a `with` is a call, after which it may be interrupted
                writing.release()
            except RuntimeError:  # it could not be had
                pass
        if signals:
            self._signals.send(signals)
        return answer

    def _foreseen(self, work: Optimistic[Any]) -> Any:
        """Try it in one statement; `UNFORESEEN`, and nothing done, if that cannot be had now."""
        try:
            with self._database.connection() as connection:
                return self._foresight.attempt(connection, work)
        except sqlite3.OperationalError as error:
            if is_busy(error):
                return UNFORESEEN  # others write: the transaction waits for them
            raise

    def _commit(self, work: Work) -> tuple[Any, list[Signal]]:
        with self._database.connection() as connection:
            cursor = connection.cursor()
            try:
                cursor.execute("BEGIN IMMEDIATE")  # inside: after that it may be interrupted
                self._open = connection
                outcome = self._run(cursor, work)
                cursor.execute("COMMIT")
            except BaseException:
                if self._open is not None:
                    self._database.clock.rolled_back()
                roll_back(connection)
                raise
            finally:
                self._open = None
            return outcome

    def _run(self, cursor: sqlite3.Cursor, work: Work) -> tuple[Any, list[Signal]]:
        if isinstance(work, Optimistic):
            transaction = self._foresight.transaction(cursor)
        else:
            transaction = SqliteTransaction(cursor, self._database.clock, self._prefix)
        answer = work(transaction)
        if transaction.signals:
            transaction.store_signals(self._signals.origin)
        return answer, transaction.signals
