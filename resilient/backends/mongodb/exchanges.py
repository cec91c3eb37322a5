"""What is said to the server about one command: the same for blocking and for async callers.

An exchange yields what is to be asked, and for how many seconds; it is told the reply or the error.
It asks nothing (`None`) to let so many seconds pass.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Generator
from typing import Any

from pymongo.errors import InvalidOperation, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from resilient.backends.mongodb.commands import Command, Document, Transaction
from resilient.backends.mongodb.failures import FAILURES, checked, is_conflict, is_lost, is_race
from resilient.backends.mongodb.keys import collection
from resilient.backends.mongodb.settings import Settings
from resilient.engine.budget import remaining

__all__ = ["Exchange", "Exchanges"]

RACES = 20
"""How often a command is sent again that lost a race for a new document; each time, another one has
won it, and the document was removed again since."""
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two attempts at a transaction: somebody who stands still in the midst of one has
its documents until the server ends that, after a minute."""
SNAPSHOT, MAJORITY = ReadConcern("snapshot"), WriteConcern("majority")
UNAUTHORIZED = 13
NO_TRANSACTIONS = {20, 123}
"""The codes by which a server says that it is no member of a replica set."""

log = logging.getLogger("resilient")

Asked = tuple[Callable[[Any], Any] | None, float]
"""What is asked of a database (which answers, or is to be awaited), and for how many seconds."""
Exchange = Generator[Asked, Any, Any]


class Exchanges:
    """The exchanges of one process with one database.

    Attributes:
        commands: How many commands were sent in them.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._indexed: set[str] = set()
        self._greeting = False
        self.commands = 0

    def about(self, command: Command | Transaction, is_connected: bool, session: Any) -> Exchange:
        """The exchange about a command, or about a transaction in a session."""
        left = _countdown(self._patience())
        if not (is_connected or self._greeting):
            yield from self._greeted(left)
        for capability in _capabilities(command):
            if capability not in self._indexed:
                with self._tolerating_a_missing_right():
                    yield _sending(_index(capability)), left()
                self._indexed.add(capability)
        if isinstance(command, Transaction):
            return (yield from self._transacted(command, session, left))
        races, closed, again = 0, 0, command.repeatable
        while True:
            self.commands += 1
            try:
                reply = yield _sending(command.document()), left()
                return command.answer(checked(reply))
            except FAILURES as error:
                if is_race(error) and races < RACES:
                    races += 1
                elif closed == 0 and isinstance(error, InvalidOperation):
                    closed += 1  # the client, by another thread: nothing was sent, there is another
                elif again and is_lost(error):
                    again = False  # the next time is the caller's own affair
                else:
                    raise

    def _greeted(self, left: Callable[[], float]) -> Exchange:
        """Have the server found: one that is away is not waited for as long as one that is slow.

        One asker at a time does: the others come with their commands at once.
        """
        self._greeting = True
        try:
            yield _sending({"ping": 1}), min(left(), self._settings.connect_timeout)
        finally:
            self._greeting = False

    def _transacted(
        self, transaction: Transaction, session: Any, left: Callable[[], float]
    ) -> Exchange:
        """Make several changes, all or none of them; again after a conflict with somebody else,
        ever more rarely, for as long as there is time.
        """
        longest, again = FIRST_PAUSE, transaction.repeatable
        while True:
            try:
                return (yield from self._attempted(transaction, session, left))
            except FAILURES as error:
                if session.in_transaction:
                    yield (lambda _: session.abort_transaction()), left()
                if isinstance(error, OperationFailure) and error.code in NO_TRANSACTIONS:
                    return (yield from self._one_by_one(transaction, left))
                pause = longest * random.uniform(0.5, 1.0)  # so that two do not meet again
                if (is_conflict(error) or is_race(error)) and pause < left():
                    yield None, pause
                    longest = min(2 * longest, LONGEST_PAUSE)
                elif again and is_lost(error):
                    again = False
                else:
                    raise

    def _attempted(
        self, transaction: Transaction, session: Any, left: Callable[[], float]
    ) -> Exchange:
        """Make the changes once."""
        yield (lambda _: session.start_transaction(SNAPSHOT, MAJORITY)), left()
        answers = []
        for step in transaction.steps:
            self.commands += 1
            document = step.document()
            for concern in ("readConcern", "writeConcern"):
                document.pop(concern, None)  # the transaction has its own
            reply = yield _sending(document, session), left()
            answers.append(step.answer(checked(reply)))
            if transaction.ends(answers[-1]):
                yield (lambda _: session.abort_transaction()), left()
                return transaction.read(answers)
        yield (lambda _: session.commit_transaction()), left()
        return transaction.read(answers)

    def _one_by_one(self, transaction: Transaction, left: Callable[[], float]) -> Exchange:
        """What comes next best, on a server that has no transactions."""
        if not transaction.divisible:
            return None
        answers = []
        for step in transaction.steps:
            self.commands += 1
            reply = yield _sending(step.document()), left()
            answers.append(step.answer(checked(reply)))
        return transaction.read(answers)

    def _patience(self) -> float:
        """Seconds that the caller has for it."""
        left = remaining()
        if left == 0:
            raise TimeoutError("the caller's budget is spent")
        return self._settings.timeout if left is None else min(left, self._settings.timeout)

    @contextlib.contextmanager
    def _tolerating_a_missing_right(self) -> Generator[None]:
        """Nothing depends on the index: what has expired would only stay."""
        try:
            yield
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            log.warning(
                "%s: this user may not create the index by which the server removes what has "
                "expired: have another one create it (%s)",
                self._settings.name,
                error,
            )


def _capabilities(command: Command | Transaction) -> list[str]:
    steps = command.steps if isinstance(command, Transaction) else [command]
    return [step.capability for step in steps]


def _sending(document: Document, session: Any = None) -> Callable[[Any], Any]:
    return lambda database: database.command(document, session=session)


def _countdown(seconds: float) -> Callable[[], float]:
    """How many seconds are left, and always some."""
    deadline = time.monotonic() + seconds
    return lambda: max(deadline - time.monotonic(), 0.001)


def _index(capability: str) -> Document:
    """The command that has the server remove what has expired: clean-up, which decides nothing.

    Many may send it at once; all but one find the index there.
    """
    ttl = {"key": {"gone": 1}, "name": "resilient_gone", "expireAfterSeconds": 0}
    return {
        "createIndexes": collection(capability),
        "indexes": [ttl],
        "writeConcern": {"w": "majority"},
    }
