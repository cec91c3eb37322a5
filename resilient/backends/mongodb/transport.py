"""How commands reach the server: blocking, or from the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pymongo
from pymongo import AsyncMongoClient, MongoClient

from resilient.backends.mongodb.commands import Command, Document, Transaction
from resilient.backends.mongodb.exchanges import Exchanges
from resilient.backends.mongodb.failures import FAILURES, raised
from resilient.backends.mongodb.settings import Settings
from resilient.engine.drivers.aio import Reply
from resilient.engine.forks import forget_in_child

__all__ = ["MongoTransport"]

_inherited: list[object] = []
"""What a forked child has of its parent's clients: nothing of it may be used or closed there."""


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
        self.exchanges = Exchanges(self._settings)

    @property
    def commands(self) -> int:
        """How many commands this process has sent."""
        return self.exchanges.commands

    # --- blocking

    def send(self, command: Command | Transaction) -> Any:
        """Send a command and block for its answer."""
        client = self._connections()
        session = client.start_session() if isinstance(command, Transaction) else None
        try:
            exchange = self.exchanges.about(command, bool(client.nodes), session)
            ask, seconds = next(exchange)
            while True:
                database = self._connections()[self._settings.database]
                try:
                    with pymongo.timeout(seconds):
                        reply = ask(database)
                except Exception as error:
                    ask, seconds = exchange.throw(error)
                else:
                    ask, seconds = exchange.send(reply)
        except StopIteration as done:
            return done.value
        except FAILURES as error:
            raise raised(self._settings.name, error) from error
        finally:
            if session is not None:
                session.end_session()

    def send_many(self, commands: Sequence[Command | Transaction]) -> list[Any]:
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

    def asend(self, command: Command | Transaction) -> asyncio.Future[Any]:
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

    def ask(self, command: Command | Transaction) -> Reply:
        """Have a command sent; the reply is always answered."""
        task = asyncio.get_running_loop().create_task(self._speak(command))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return Reply.behind(task)

    async def _speak(self, command: Command | Transaction) -> Any:
        client = self._connections()
        session = client.start_session() if isinstance(command, Transaction) else None
        try:
            exchange = self._transport.exchanges.about(command, bool(client.nodes), session)
            ask, seconds = next(exchange)
            while True:
                database = self._connections()[self._settings.database]
                try:
                    with pymongo.timeout(seconds):
                        reply = await ask(database)
                except Exception as error:
                    ask, seconds = exchange.throw(error)
                else:
                    ask, seconds = exchange.send(reply)
        except StopIteration as done:
            return done.value
        except FAILURES as error:
            raise raised(self._settings.name, error) from error
        finally:
            if session is not None:
                await session.end_session()

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
