"""How commands reach the server: blocking, or from the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextvars import copy_context
from typing import Any

import pymongo
from pymongo import AsyncMongoClient, MongoClient

from resilient.backends.mongodb.commands import Command, Document, Transaction
from resilient.backends.mongodb.exchanges import Exchanges
from resilient.backends.mongodb.failures import FAILURES, raised
from resilient.backends.mongodb.settings import Settings
from resilient.engine.budget import NotAsked, remaining
from resilient.engine.crew import Crew, aside
from resilient.engine.drivers.aio import Reply
from resilient.engine.forks import forget_in_child

__all__ = ["MongoTransport"]

Todo = deque[tuple[int, Command | Transaction]]

CREW = 7
"""Threads that send commands beside a blocking caller: with its own, a quarter of the connections
of a pool, so that others find one at once. They end when nothing has been to be done for a while.
"""

_inherited: list[object] = []
"""What a forked child has of its parent's clients: nothing of it may be used or closed there."""


class MongoTransport:
    """Sends commands to one database; thread-safe, and safe to use after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loops: dict[asyncio.AbstractEventLoop, _Looped] = {}
        self._crew = Crew("resilient-mongodb", CREW)
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
                    reply = None
                    if ask is None:
                        time.sleep(seconds)
                    else:
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
        """Send several side by side; the answer or the exception for each.

        The protocol answers one command after the other on each connection: so it takes several,
        and a thread for each. The caller's own is one of them.

        What has waited for its turn until half of the budget was gone is not sent (`NotAsked`):
        so an answer that comes too late is the server's fault, however many were asked for.
        """
        answers: list[Any] = [None] * len(commands)
        todo: Todo = deque(enumerate(commands))
        left = remaining()
        least = 0.0 if left is None else left / 2
        helpers = [self._beside(todo, answers, least) for _ in range(min(CREW, len(commands) - 1))]
        try:
            self._send_first(todo, answers)
            self._send_all(todo, answers, least)
            for done in helpers:
                done.wait()
        except BaseException:
            todo.clear()  # nobody wants the answers any more
            raise
        for index, _ in todo:
            answers[index] = NotAsked(f"{self._settings.name} was not asked for want of time")
        return answers

    def _send_first(self, todo: Todo, answers: list[Any]) -> bool:
        """Send the first command that nobody has sent yet; false if there is none."""
        try:
            index, command = todo.popleft()
        except IndexError:
            return False
        try:
            answers[index] = self.send(command)
        except Exception as error:
            answers[index] = error
        return True

    def _send_all(self, todo: Todo, answers: list[Any], least: float) -> None:
        """Send one command after the other, as long as so many seconds are left for each."""
        while least == 0 or (remaining() or 0.0) >= least:
            if not self._send_first(todo, answers):
                return

    def _beside(self, todo: Todo, answers: list[Any], least: float) -> threading.Event:
        """Have a thread help, if there is one to spare; set when it has done what it took."""
        done, context = threading.Event(), copy_context()  # in which the caller's budget is

        def help_out() -> None:
            try:
                context.run(self._send_all, todo, answers, least)
            finally:
                done.set()

        if not self._crew.offer(help_out):
            done.set()
        return done

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
        self._crew.stop()

    async def aclose(self) -> None:
        """Close those and the running loop's own connections."""
        await aside(self.close)
        looped = self._loops.pop(asyncio.get_running_loop(), None)
        if looped is not None:
            await looped.close()

    def _forget(self) -> None:
        _inherited.append((self._client, self._loops))
        self._loops = {}
        self._crew.forget()
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
                    reply = None
                    if ask is None:
                        await asyncio.sleep(seconds)
                    else:
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
