"""How commands reach the server: blocking, or from the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any

import pymongo
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import InvalidOperation, OperationFailure

from resilient.backends.mongodb.commands import Command, Document
from resilient.backends.mongodb.failures import FAILURES, checked, is_lost, is_race, raised
from resilient.backends.mongodb.keys import collection
from resilient.backends.mongodb.settings import Settings
from resilient.engine.budget import remaining
from resilient.engine.drivers.aio import Reply
from resilient.engine.forks import forget_in_child

__all__ = ["MongoTransport"]

RACES = 20
"""How often a command is sent again that lost a race for a new document; each time, another one has
won it, and the document was removed again since."""

log = logging.getLogger("resilient")

_inherited: list[object] = []
"""What a forked child has of its parent's clients: nothing of it may be used or closed there."""

Exchange = Generator[tuple[Document, float], Document, Any]
"""A conversation: what is to be sent is yielded, and for how many seconds; the reply comes back."""

PING: Document = {"ping": 1}


class MongoTransport:
    """Sends commands to one database; thread-safe, and safe to use after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loops: dict[asyncio.AbstractEventLoop, _Looped] = {}
        self._begin()
        forget_in_child(self._forget)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._client: MongoClient[Document] | None = None
        self._indexed: set[str] = set()
        self.commands = 0

    # --- what both kinds of callers have in common

    def exchange(self, command: Command, is_connected: bool) -> Exchange:
        """The conversation about one command."""
        deadline = time.monotonic() + self._patience()

        def left() -> float:
            return max(deadline - time.monotonic(), 0.001)

        if not is_connected:  # a server that is away is not waited for as long as one that is slow
            yield PING, min(left(), self._settings.connect_timeout)
        capability = command.capability
        if capability not in self._indexed:
            with self._tolerating_a_missing_right():
                yield _index(capability), left()
            self._indexed.add(capability)
        races, again = 0, command.repeatable
        while True:
            self.commands += 1
            try:
                reply = yield command.document(), left()
                return command.answer(checked(reply))
            except (*FAILURES, InvalidOperation) as error:
                if is_race(error) and races < RACES:
                    races += 1
                elif again and (is_lost(error) or isinstance(error, InvalidOperation)):
                    again = False  # the next time is the caller's own affair
                else:
                    raise

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
            if error.code != 13:
                raise
            log.warning(
                "%s: this user may not create the index by which the server removes what has "
                "expired: have another one create it (%s)",
                self._settings.name,
                error,
            )

    # --- blocking

    def send(self, command: Command) -> Any:
        """Send a command and block for its answer."""
        try:
            exchange = self.exchange(command, bool(self._connections().nodes))
            asked, seconds = next(exchange)
            while True:
                database = self._connections()[self._settings.database]
                try:
                    with pymongo.timeout(seconds):
                        reply = database.command(asked)
                except Exception as error:
                    asked, seconds = exchange.throw(error)
                else:
                    asked, seconds = exchange.send(reply)
        except StopIteration as done:
            return done.value
        except FAILURES as error:
            raise raised(self._settings.name, error) from error

    def send_many(self, commands: Sequence[Command]) -> list[Any]:
        """Send several; the answer or the exception for each."""
        answers: list[Any] = []
        for command in commands:
            try:
                answers.append(self.send(command))
            except Exception as error:
                answers.append(error)
        return answers

    def _connections(self) -> MongoClient[Document]:
        client = self._client
        if client is None:
            with self._lock:
                client = self._client = self._client or self._settings.client()
        return client

    # --- from an event loop

    def asend(self, command: Command) -> asyncio.Future[Any]:
        """Send a command from the running loop."""
        loop = asyncio.get_running_loop()
        looped = self._loops.get(loop)
        if looped is None:
            self._loops = {each: its for each, its in self._loops.items() if not each.is_closed()}
            looped = self._loops[loop] = _Looped(self, self._settings)
        return looped.ask(command)

    # --- the end

    def close(self) -> None:
        """Close the connections of blocking callers. The transport may be used again."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Close those and the running loop's own connections."""
        self.close()
        looped = self._loops.pop(asyncio.get_running_loop(), None)
        if looped is not None:
            await looped.close()

    def _forget(self) -> None:
        _inherited.append((self._client, self._loops))
        self._loops = {}
        self._begin()


class _Looped:
    """The client of one loop; used in that loop's thread only."""

    def __init__(self, transport: MongoTransport, settings: Settings) -> None:
        self._transport = transport
        self._settings = settings
        self._client: AsyncMongoClient[Document] | None = None
        self._owner: AsyncGenerator[None] | None = None
        self._under_way: set[asyncio.Task[Any]] = set()

    def ask(self, command: Command) -> Reply:
        """Have a command sent; the reply is always answered."""
        task = asyncio.get_running_loop().create_task(self._speak(command))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return Reply.behind(task)

    async def _speak(self, command: Command) -> Any:
        try:
            exchange = self._transport.exchange(command, bool(self._connections().nodes))
            asked, seconds = next(exchange)
            while True:
                database = self._connections()[self._settings.database]
                try:
                    with pymongo.timeout(seconds):
                        reply = await database.command(asked)
                except Exception as error:
                    asked, seconds = exchange.throw(error)
                else:
                    asked, seconds = exchange.send(reply)
        except StopIteration as done:
            return done.value
        except FAILURES as error:
            raise raised(self._settings.name, error) from error

    def _connections(self) -> AsyncMongoClient[Document]:
        if self._client is None:
            self._client = self._settings.async_client()
            self._owner = self._owning(self._client)
            with contextlib.suppress(StopIteration):
                self._owner.__anext__().send(None)  # it waits for nothing
        return self._client

    @staticmethod
    async def _owning(client: AsyncMongoClient[Document]) -> AsyncGenerator[None]:
        """Let the loop know of a generator that it will close before it is closed itself."""
        try:
            yield
        finally:
            await client.close()

    async def close(self) -> None:
        """Close the client once what is under way is answered."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._client = None
        if self._owner is not None:
            await self._owner.aclose()


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
