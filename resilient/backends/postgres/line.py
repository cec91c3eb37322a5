"""One connection, spoken to through libpq.

What is said on it is a generator that yields whenever it must wait for the socket, so that there is
one text for blocking callers and for event loops. psycopg's own connections spend several times as
much on a statement; `psycopg.pq` is what they are made of
(https://www.psycopg.org/psycopg3/docs/api/pq.html).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from psycopg import errors, pq
from psycopg.pq.abc import PGconn, PGresult

from resilient.backends.postgres.commands import Call, Function, Statement, same
from resilient.backends.postgres.failures import ConnectionLost, Refused
from resilient.backends.postgres.schema import VERSION, ddl, version_query
from resilient.backends.postgres.server import Server
from resilient.backends.postgres.texts import row, rows

__all__ = ["LOOK_AFTER", "READ", "UNFINISHED", "WRITE", "Dialogue", "Line"]

T = TypeVar("T")
READ, WRITE = select.POLLIN, select.POLLIN | select.POLLOUT
Dialogue = Generator[int, None, T]
"""Yields what to wait for on the connection's socket."""

UNFINISHED: Any = object()
"""In the place of an answer that is not all there, or is an error."""
LOOK_AFTER = 1.0
"""Seconds of idleness after which a connection is looked at before it is used."""
PREPARE_AFTER = 2
"""How many times a statement is sent on a connection before it is prepared there."""
TRIES = 5
_UNPREPARED = ("26000", "42P05")
"""A pooler has given the session to another client: what was prepared in it is not there, or was
prepared by somebody else."""
_COLLIDED = ("40001", "40P01")
_NOT_MADE = ("3F000", "42883", "42P01")
TRANSIENT = (*_UNPREPARED, *_COLLIDED, *_NOT_MADE)
"""After these a statement is sent again."""
PIPELINES = 140000
"""The first libpq that sends several statements at once."""
_LOST = ("57P01", "57P02", "57P03")
_TUPLES = int(pq.ExecStatus.TUPLES_OK)  # a plain number, which is compared in no time
_GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)


class Line:
    """A connection; used by one caller at a time."""

    def __init__(self, pgconn: PGconn, server: Server) -> None:
        self.pgconn = pgconn
        self.server = server
        self.used = time.monotonic()
        self._uses: dict[bytes, int] = {}
        self._known: set[bytes] = set()
        self._early: PGresult | None = None  # what `taken` could not make an answer of
        self._poll = select.poll()
        self._poll.register(pgconn.socket, READ)
        pgconn.nonblocking = 1
        # A notice is nobody's business here, and libpq would print it.
        pgconn.notice_handler = _ignore

    @property
    def is_lost(self) -> bool:
        """Whether the connection is known to be gone."""
        return self.pgconn.status != pq.ConnStatus.OK

    def fileno(self) -> int:
        """The socket, to wait on."""
        return self.pgconn.socket

    def is_alive(self) -> bool:
        """Whether nothing that has arrived is the end of the connection.

        It is asked about one that was not `used` for longer than `LOOK_AFTER`.
        """
        if self._poll.poll(0):
            try:
                self.hear()
            except ConnectionLost:
                return False
        return not self.is_lost

    def ready(self, wanted: int, seconds: float) -> bool:
        """Wait until the socket is; false if that took longer."""
        if wanted == READ:
            return bool(self._poll.poll(seconds * 1000))
        self._poll.modify(self.pgconn.socket, wanted)
        try:
            return bool(self._poll.poll(seconds * 1000))
        finally:
            self._poll.modify(self.pgconn.socket, READ)

    def close(self) -> None:
        """Say farewell to the server and close the socket."""
        self.pgconn.finish()

    def forget(self) -> None:
        """Close the socket in a forked child, whose parent goes on with the connection."""
        # libpq closes its number itself, or it would once more when it is another file's. Its
        # farewell in the parent's name leads nowhere.
        with suppress(errors.OperationalError):  # the connection was lost before
            nowhere = os.open(os.devnull, os.O_RDWR)
            try:
                os.dup2(nowhere, self.pgconn.socket, inheritable=False)
            finally:
                os.close(nowhere)
        self.pgconn.finish()

    def hear(self) -> None:
        """Take in what has arrived."""
        try:
            self.pgconn.consume_input()
        except errors.OperationalError as error:
            raise ConnectionLost(str(error)) from error

    # --- without a dialogue, as almost every call goes

    def send(self, call: Call) -> int:
        """Send a call if the server is known to be prepared for it, and say what to wait for.

        0: nothing was sent. Else, as soon as there is something to `READ`, the answer may be taken.

        Raises:
            ConnectionLost: It could not be sent.
        """
        server = self.server
        statement = server.known.get(call.function)
        if statement is None or statement.name not in self._known or not server.prepares:
            return 0
        server.statements += 1
        pgconn = self.pgconn
        try:
            pgconn.send_query_prepared(statement.name, call.parameters, call.formats, 1)
            return WRITE if pgconn.flush() else READ
        except errors.OperationalError as error:
            raise ConnectionLost(str(error)) from error

    def taken(self, call: Call) -> Any:
        """The answer to a call that was sent; `UNFINISHED` if there is more to it.

        Raises:
            ConnectionLost: There was no answer.
        """
        pgconn = self.pgconn
        try:
            pgconn.consume_input()
            if pgconn.is_busy():
                return UNFINISHED
            result = pgconn.get_result()
            if result is None or result.status != _TUPLES or pgconn.is_busy():
                self._early = result
                return UNFINISHED
            more = pgconn.get_result()
            if more is not None:  # an error after the answer: the commit was refused
                self._early = more
                return UNFINISHED
        except errors.OperationalError as error:
            raise ConnectionLost(str(error)) from error
        self.used = time.monotonic()
        statement = self.server.known[call.function]
        if statement.is_first and not result.ntuples:
            self._early = result
            return UNFINISHED
        return _read(call.function, statement, result)

    # --- dialogues

    def run(self, call: Call, *, sent: bool = False) -> Dialogue[Any]:
        """Have a function called; what its caller gets.

        Args:
            call: The call.
            sent: Whether `send` has sent it, and `taken` has not had the answer.

        Raises:
            Refused: The server answered with an error.
            ConnectionLost: There was no answer.
        """
        server = self.server
        if not (sent or server.is_ready):
            yield from self._make_ready()
        statement = call.statement(server.schema)
        result = yield from self._answer(call, statement, sent)
        server.known[call.function] = statement
        if statement.is_first and not result.ntuples:
            return (yield from self.run(call.whole()))
        return _read(call.function, statement, result)

    def run_all(self, calls: Sequence[Call]) -> Dialogue[list[Any]]:
        """Have several functions called; for each what its caller gets, or a `Refused`.

        What they say goes out at once, and each is a transaction of its own
        (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html): none of them waits for
        another while it keeps an entity from others.
        """
        server = self.server
        if not server.is_ready:
            yield from self._make_ready()
        calls = [call.whole() for call in calls]
        statements = [call.statement(server.schema) for call in calls]
        answers: list[Any] = [None] * len(calls)
        if pq.version() >= PIPELINES and (yield from self._prepared(statements)):
            answers = yield from self._piped(calls, statements)
        for index, call in enumerate(calls):
            answer = answers[index]
            if answer is None or (isinstance(answer, Refused) and answer.state in TRANSIENT):
                try:
                    answers[index] = yield from self.run(call)
                except Refused as refused:
                    answers[index] = refused
            elif not isinstance(answer, Refused):
                answers[index] = _read(call.function, statements[index], answer)
        return answers

    def _prepared(self, statements: Sequence[Statement]) -> Dialogue[bool]:
        """Whether the server knows all of these statements now."""
        if not self.server.prepares:
            return False
        for statement in dict.fromkeys(statements):
            if statement.name not in self._known:
                self._uses[statement.name] = PREPARE_AFTER
                try:
                    yield from self._introduce(statement)
                except Refused:  # one call after the other finds out why
                    return False
        return True

    def _piped(self, calls: Sequence[Call], statements: Sequence[Statement]) -> Dialogue[list[Any]]:
        """The results of prepared statements that are sent at once, or the `Refused` of each."""
        pgconn = self.pgconn
        results: list[Any] = []
        try:
            pgconn.enter_pipeline_mode()
            for call, statement in zip(calls, statements, strict=True):
                name = statement.name
                pgconn.send_query_prepared(name, call.parameters, call.formats, 1)
                pgconn.pipeline_sync()
            self.server.statements += len(calls)
            for _ in calls:
                try:
                    results.append((yield from self._result()))
                except Refused as refused:
                    results.append(refused)
                while (ended := (yield from self._transaction_ended())) is not None:
                    results[-1] = ended
            pgconn.exit_pipeline_mode()
        except errors.OperationalError as error:
            raise ConnectionLost(str(error)) from error
        self.used = time.monotonic()
        return results

    def _transaction_ended(self) -> Dialogue[Refused | None]:
        """Wait for the end of one in a pipeline; what its commit was refused with comes before."""
        pgconn = self.pgconn
        while True:
            while pgconn.is_busy():
                yield READ
                pgconn.consume_input()
            end = pgconn.get_result()
            if end is None:
                if self.is_lost:
                    raise ConnectionLost("the server gave no answer")
            elif end.status == pq.ExecStatus.PIPELINE_SYNC:  # with no `None` behind it
                return None
            else:
                return Refused(errors.error_from_result(end))

    def execute(self, text: str) -> Dialogue[PGresult]:
        """Run any statement; its result, in the text format."""
        self._sending(self.pgconn.send_query, text.encode())
        return (yield from self._result())

    def _answer(self, call: Call, statement: Statement, sent: bool) -> Dialogue[PGresult]:
        """The answer to a call, which is sent again where that is in order."""
        server, tries = self.server, 0
        while True:
            try:
                if sent:
                    sent = False
                elif server.prepares and statement.name in self._known:
                    server.statements += 1
                    self.pgconn.send_query_prepared(
                        statement.name, call.parameters, call.formats, 1
                    )
                else:
                    yield from self._introduce(statement)
                    server.statements += 1
                    self.pgconn.send_query_params(
                        statement.text, call.parameters, None, call.formats, 1
                    )
                result = yield from self._result()
            except Refused as refused:
                tries += 1
                if tries == TRIES:
                    raise
                if refused.state in _UNPREPARED:
                    server.prepares = False
                elif refused.state in _NOT_MADE:  # the database is a new one
                    yield from self._make_ready()
                elif refused.state not in _COLLIDED:
                    raise
            except errors.OperationalError as error:
                raise ConnectionLost(str(error)) from error
            else:
                self.used = time.monotonic()
                return result

    def _introduce(self, statement: Statement) -> Dialogue[None]:
        """Count the uses of a statement, and prepare it when there were some."""
        uses = self._uses.get(statement.name, 0) + 1
        if uses > PREPARE_AFTER and self.server.prepares:
            self._sending(self.pgconn.send_prepare, statement.name, statement.text)
            yield from self._result()
            self._known.add(statement.name)
        self._uses[statement.name] = uses

    def _make_ready(self) -> Dialogue[None]:
        """See to it that the tables and functions are there, and of this version."""
        ask = version_query(self.server.schema)
        try:
            found = yield from self.execute(ask)
            version = int(found.get_value(0, 0) or 0)
        except Refused as refused:
            if refused.state not in _NOT_MADE:
                raise
            version = 0
        if version != VERSION:
            yield from self.execute(ddl(self.server.schema))
            yield from self.execute(ask)  # for what it refuses
        self.server.is_ready = True

    def _sending(self, send: Any, *what: Any) -> None:
        self.server.statements += 1
        try:
            send(*what)
        except errors.OperationalError as error:
            raise ConnectionLost(str(error)) from error

    def _result(self) -> Dialogue[PGresult]:
        """The server's answer; nothing is left over for the next one."""
        pgconn = self.pgconn
        answer, self._early = self._early, None
        try:
            while pgconn.flush():
                yield WRITE
                pgconn.consume_input()
            while True:
                while pgconn.is_busy():
                    yield READ
                    pgconn.consume_input()
                result = pgconn.get_result()
                if result is None:
                    break
                if answer is None or answer.status in _GOOD:
                    answer = result
        except errors.OperationalError as error:
            raise ConnectionLost(str(error)) from error
        if answer is None:
            raise ConnectionLost("the server gave no answer")
        if answer.status in _GOOD:
            return answer
        answered = errors.error_from_result(answer)
        if self.is_lost or answered.sqlstate in _LOST or answered.sqlstate is None:
            raise ConnectionLost(str(answered)) from answered
        raise Refused(answered)


def _read(function: Function, statement: Statement, result: PGresult) -> Any:
    decoders = statement.decoders or statement.learnt(result)
    if function.many:
        return function.read(rows(result, decoders))
    if len(decoders) == 1:
        data = result.get_value(0, 0)
        answer = None if data is None else decoders[0](data)
    else:
        answer = row(result, 0, decoders)
    return answer if function.read is same else function.read(answer)


def _ignore(result: PGresult) -> None:
    pass
